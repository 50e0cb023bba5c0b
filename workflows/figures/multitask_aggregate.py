"""MT30 and MT80, all tasks together, beside published single-task experts; time of training and of acting."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.figures import style
from workflows.figures._aggregate import (
    DATA_COLUMNS,
    FRAME,
    LINE,
    draw_aggregates,
    handles,
    published_minutes,
    sources,
    tasks_of,
    title_of,
    why_empty,
)
from workflows.figures._times import draw_published_minutes, set_log_axis
from workflows.results import ALGORITHMS, SUITES, Aggregate, Results, read_results

PANELS = ("mt30", "mt80")
TIMES = {"train_minutes": "minutes of training", "decisions_per_s": "decisions a second"}  # medians, ranges over runs


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    if not any(suite in results.suites for suite in PANELS):
        return style.message("This scale has no MT30 and no MT80 runs."), pd.DataFrame(columns=DATA_COLUMNS)
    both = {suite: published.beside_ours(results, suite) for suite in PANELS}
    experts, expert_tasks = beside_experts(results)
    times = [(suite, *pair) for suite in PANELS for pair in results.drawn(suite)]
    heights = [FRAME + LINE * max(map(len, both.values())), FRAME + LINE * max(len(experts), len(times))]
    figure, looks = style.new_figure(0.3 + sum(heights)), style.looks(results)
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    data = []
    for axes, (suite, rows) in zip(upper.subplots(1, 2), both.items(), strict=True):
        title = title_of(results, suite, rows)
        data += draw_panel(axes, title, suite, rows, why_empty(results, suite, rows), looks)
    left, *right = lower.subplots(1, 3, width_ratios=[2, 1, 1])
    why = why_empty(results, "mt30", experts) if expert_tasks else "No task here has published single-task experts."
    data += draw_panel(left, tasks_of("MT30 beside experts", expert_tasks), "experts", experts, why, looks)
    data += draw_times(right, times, results, looks)
    figure.legend(handles=handles(), loc="outside upper center", ncols=4)
    shown = [*both["mt30"], *both["mt80"], *experts]
    told = [*sources(shown), published_minutes(), results.not_run(*PANELS)]
    figure.supxlabel(style.lines(*told), fontsize=6.5)
    return figure, pd.DataFrame(data, columns=DATA_COLUMNS)


def beside_experts(results: Results) -> tuple[list[Aggregate], int]:
    """All algorithms on those tasks of MT30 that experts were published on, and how many these tasks are."""
    known = {*published.online()["task"]}
    tasks = [task for task in results.tasks("mt30") if task in known]
    if not tasks:
        return [], 0
    rows = published.beside_ours(results, "mt30", tasks)
    rows += published.aggregates(results, "mt30", tasks, published.online())
    order = [*ALGORITHMS, *(row.algorithm for row in rows)]
    return sorted(rows, key=lambda row: order.index(row.algorithm)), len(tasks)


def draw_panel(axes: Axes, title: str, panel: str, rows: list[Aggregate], why: str, looks: dict) -> list[tuple]:
    """A panel of aggregates, or in words why it is empty."""
    axes.set_title(title, fontweight="bold")
    if why:
        style.say(axes, why)
        return []
    axes.set_xlabel(rows[0].unit)
    return draw_aggregates(axes, panel, rows, looks)


def draw_times(pair: list[Axes], rows: list[tuple], results: Results, looks: dict) -> list[tuple]:
    """Two panels with a line for every suite and algorithm: over its runs, the median (dot) and the range (line)."""
    data = []
    runs = results.times.groupby(["suite", "algorithm", "variant"])
    for axes, (quantity, label) in zip(pair, TIMES.items(), strict=True):
        for place, key in enumerate(rows):
            values = runs.get_group(key)[quantity].dropna() if key in runs.groups else ()
            if len(values):
                look, drawn = looks[key[1:]], (values.median(), values.min(), values.max())
                axes.plot(drawn[1:], [place, place], color=look.colour, linewidth=1, alpha=0.6)
                axes.plot(drawn[0], place, markersize=4, **look.mark)
                counts = (results.runs.query("suite == @key[0]")["task"].nunique(), len(values), len(values))
                data.append((quantity, *key, "median and range", *drawn, quantity, counts[0], *counts, "measured"))
        if quantity == "train_minutes":
            draw_published_minutes(axes, words=False)
        set_log_axis(axes, label)
    labels = [
        (f"{SUITES[suite]}, {looks[key].label}", looks[key].colour) for suite, *pair in rows for key in [tuple(pair)]
    ]
    style.label_rows(pair[0], labels)
    style.label_rows(pair[1], [("", style.GREY) for _ in rows])
    return data


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
