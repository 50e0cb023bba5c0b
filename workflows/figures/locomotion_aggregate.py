"""Locomotion, all tasks together: IQM with 95% interval and mean per algorithm, and performance profiles."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pwm import statistics
from pwm.errors import exit_on_user_error
from workflows.figures import style
from workflows.results import PPO_UNIT, REFERENCES, Aggregate, Results, read_results, runs_of

SUITE = "locomotion"
TAUS = 101


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    columns = ["panel", "algorithm", "variant", "statistic", "tau", "value", "low", "high", "unit", "n", "expected"]
    rows = [row for row in results.aggregates(SUITE) if row.algorithm not in REFERENCES]
    _, not_normalised = results.comparable_scores()
    if not rows:
        return style.message("This scale has no locomotion runs."), pd.DataFrame(columns=columns)
    if not any(row.estimates for row in rows):
        reason = not_normalised or "No algorithm has finished a seed on all of its tasks."
        return style.message(f"No locomotion aggregate.\n{reason}"), pd.DataFrame(columns=columns)
    note = f"(not normalised: {not_normalised.partition(':')[0]})" if not_normalised else ""
    figure = style.new_figure(max(2.0, 0.75 + 0.28 * len(rows)))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    looks = style.looks(results)
    data = [*draw_aggregates(left, rows, looks, note), *draw_profiles(right, rows, looks)]
    return figure, pd.DataFrame(data, columns=columns)


def draw_aggregates(axes: Axes, rows: list[Aggregate], looks: dict, note: str) -> list[tuple]:
    """One line per algorithm: IQM (dot) with its interval, mean (tick)."""
    data = []
    for place, row in enumerate(rows):
        look = looks[row.algorithm, row.variant]
        for statistic in ("iqm", "mean") if row.estimates else ():
            value, low, high = row.estimates[statistic]
            identity = ("aggregate", row.algorithm, row.variant, statistic, np.nan)
            data.append((*identity, value, low, high, row.unit, row.have, row.want))
        if row.estimates:
            value, low, high = row.estimates["iqm"]
            axes.plot([low, high], [place, place], color=look.colour, linewidth=2.5, alpha=0.45, solid_capstyle="butt")
            axes.plot(value, place, look.marker, color=look.colour, markersize=5)
            mean = row.estimates["mean"].estimate
            axes.plot(mean, place, "|", color=look.colour, markersize=10, markeredgewidth=1.2)
    axes.set_yticks(range(len(rows)), [row_label(row, looks[row.algorithm, row.variant].label) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(looks[row.algorithm, row.variant].colour)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")
    if rows[0].unit == PPO_UNIT:
        axes.axvline(1, color=style.GREY, linewidth=0.6, linestyle=":")
    axes.set_xlabel("\n".join([rows[0].unit, *textwrap.wrap(note, 52)]))
    mark = {"color": style.GREY, "linestyle": "none"}
    handles = [
        Line2D([], [], marker="o", markersize=5, label="IQM", **mark),
        Line2D([], [], color=style.GREY, alpha=0.45, linewidth=2.5, label="95% interval"),
        Line2D([], [], marker="|", markersize=8, markeredgewidth=1.2, label="mean", **mark),
    ]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, columnspacing=1.2)
    return data


def row_label(row: Aggregate, name: str) -> str:
    """Name, runs, and tasks where the algorithm is not meant to have run on all of the suite's."""
    details = ["no seed complete" if row.started and not row.have else runs_of(row.have, row.want)]
    if len(row.tasks) < row.suite_tasks:
        details.append(f"{len(row.tasks)}/{row.suite_tasks} tasks")
    return f"{name} ({', '.join(details)})"


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
            data.append(("profile", *key, "share of runs above tau", *point, row.unit, row.have, row.want))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(taus[0], taus[-1])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"τ ({rows[0].unit})")
    axes.set_ylabel("share of runs > τ")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return data


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
