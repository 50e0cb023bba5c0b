"""In short: IQM with its 95% interval on locomotion and MT80, published scores beside ours."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.figures import style
from workflows.figures._aggregate import DATA_COLUMNS, data_rows, row_note, sources, title_of, why_empty
from workflows.results import PUBLISHED, SUITES, Aggregate, Results, name_of, read_results

PANELS = ("locomotion", "mt80")
WIDTH = 0.55  # of a bar, of the distance between two


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    both = {suite: published.beside_ours(results, suite) for suite in PANELS}
    both = {suite: [row for row in rows if row.variant in ("default", PUBLISHED[0])] for suite, rows in both.items()}
    reasons = {suite: why_empty(results, suite, rows) for suite, rows in both.items()}
    if not any(suite in results.suites for suite in PANELS):
        return style.message("This scale has no locomotion and no MT80 runs."), pd.DataFrame(columns=DATA_COLUMNS)
    if all(reasons.values()):
        told = [f"{SUITES[suite]}: {reason}" for suite, reason in reasons.items()]
        return style.message("\n".join(told)), pd.DataFrame(columns=DATA_COLUMNS)
    figure, looks, data = style.new_figure(2.4), style.looks(results), []
    widths = [max(len({row.algorithm for row in rows}), 2) for rows in both.values()]
    for axes, (suite, rows) in zip(figure.subplots(1, 2, width_ratios=widths), both.items(), strict=True):
        axes.set_title(title_of(results, suite, rows), fontweight="bold")
        if reasons[suite]:
            style.say(axes, reasons[suite])
        else:
            data += draw_bars(axes, rows, looks)
    shown = [row for suite, rows in both.items() for row in rows if not reasons[suite]]
    told = ["Bars: ours, with 95% intervals", *sources(shown), results.not_run(*PANELS)]
    figure.supxlabel(style.lines(*told), fontsize=6.5)
    return figure, pd.DataFrame(data, columns=DATA_COLUMNS)


def draw_bars(axes: Axes, rows: list[Aggregate], looks: dict) -> list[tuple]:
    """A bar per algorithm with its interval, and beside it the published IQM, hollow."""
    data, notes = [], {row.algorithm: "not run" for row in rows}
    for row in rows:
        place, look = list(notes).index(row.algorithm), looks[row.algorithm, row.variant]
        if row.variant not in PUBLISHED:
            notes[row.algorithm] = row_note(row).replace(", ", "\n")
        if not row.estimates:
            continue
        data += [drawn for drawn in data_rows(row.suite, row) if "iqm" in drawn]
        value, low, high = row.estimates["iqm"]
        if row.variant in PUBLISHED:
            axes.plot(place + 0.3, value, markersize=5, **look.mark)
        else:
            axes.bar(place - 0.08, value, WIDTH, color=look.colour, alpha=0.75)
            axes.plot([place - 0.08] * 2, [low, high], color="black", linewidth=1)
    labels = [f"{name_of(algorithm, 'default')}\n{note}" for algorithm, note in notes.items()]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.axhline(0, color="black", linewidth=0.6)
    if all(row.estimates["iqm"].estimate >= 0 for row in rows if row.estimates):
        axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_ylabel(f"IQM of {rows[0].unit}")
    return data


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
