"""Locomotion, all tasks together: IQM with its 95% interval, mean and best over training; performance profiles."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pwm import statistics
from pwm.errors import exit_on_user_error
from workflows import published
from workflows.figures import style
from workflows.figures._aggregate import DATA_COLUMNS, FRAME, LINE, draw_aggregates, handles, sources, why_empty
from workflows.results import PUBLISHED, Aggregate, Results, read_results

SUITE = "locomotion"
TAUS = 101


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    columns = [*DATA_COLUMNS, "tau"]
    if SUITE not in results.suites:
        return style.message("This scale has no Locomotion runs."), pd.DataFrame(columns=columns)
    rows = published.beside_ours(results, SUITE)
    if why := why_empty(results, SUITE, rows):
        return style.message(why), pd.DataFrame(columns=columns)
    _, not_normalised = results.comparable_scores()
    note = f"(not normalised: {not_normalised.partition(':')[0]})" if not_normalised else ""
    figure = style.new_figure(max(2.0, FRAME + LINE * len(rows)))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    looks = style.looks(results)
    data = draw_aggregates(left, "aggregate", rows, looks)
    left.set_xlabel("\n".join([rows[0].unit, *textwrap.wrap(note, 52)]))
    figure.supxlabel(style.lines(*sources(rows), results.not_run(SUITE)), fontsize=6.5)
    figure.legend(handles=handles(), loc="outside upper center", ncols=4)
    ours = [row for row in rows if row.variant not in PUBLISHED]
    data = [(*row, np.nan) for row in data] + draw_profiles(right, ours, looks)
    return figure, pd.DataFrame(data, columns=columns)


def draw_profiles(axes: Axes, rows: list[Aggregate], looks: dict) -> list[tuple]:
    """Share of runs above each score, with a pointwise band where there are two runs or more."""
    drawn = {(row.algorithm, row.variant): row for row in rows if row.estimates}
    scores = np.concatenate([row.matrix.ravel() for row in drawn.values()])
    pad = 0.05 * (np.ptp(scores) or 1.0)
    taus = np.linspace(min(0.0, scores.min() - pad), scores.max() + pad, TAUS)
    profiles = statistics.performance_profile({key: row.matrix for key, row in drawn.items()}, taus)
    data = []
    for key, (share, low, high) in profiles.items():
        look, row = looks[key], drawn[key]
        axes.plot(taus, share, color=look.colour, linestyle=look.linestyle, label=look.label, drawstyle="steps-post")
        axes.fill_between(taus, low, high, color=look.colour, alpha=0.15, linewidth=0, step="post")
        for point in zip(taus, share, low, high, strict=True):
            tau, *share_and_band = point
            rest = (row.unit, len(row.tasks), row.suite_tasks, row.have, row.want, row.source, tau)
            data.append(("profile", SUITE, *key, "share of runs above tau", *share_and_band, *rest))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(taus[0], taus[-1])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"τ ({rows[0].unit})")
    axes.set_ylabel("share of runs > τ")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor="linecolor", handlelength=1.5)
    return data


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
