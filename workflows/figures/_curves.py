"""What the figures of learning curves share: one panel per task, over one axis or several."""

import textwrap
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pwm import statistics
from workflows.figures import style
from workflows.results import REFERENCES, SUITES, Results, name_of

AXES = {
    "env_steps": "environment steps (learning online)",
    "updates": "policy updates (from offline data and a trained world model)",
    "wall_minutes": "minutes of training (making data and pre-training world models not counted)",
}
COLUMNS = 5
LOG_RATIO = 10  # runs whose lengths differ by more than this share a logarithmic axis
DATA_COLUMNS = ["axis", "suite", "task", "algorithm", "variant", "seed", "x", "quantity", "value"]


@dataclass(frozen=True)
class Panel:
    """One task's curves over one axis; `algorithms` are those that belong here, with runs or without."""

    suite: str
    task: str
    axis: str
    algorithms: tuple[tuple[str, str], ...]


def draw_over(results: Results, axes_names: tuple[str, ...]) -> tuple[Figure, pd.DataFrame]:
    """Draw every task over the named axes, one block of panels per axis: units are never mixed in one panel."""
    curves = results.curves.assign(wall_minutes=results.curves["wall_time_s"] / 60)
    blocks = {axis: [] for axis in axes_names}
    for suite in results.suites:
        for task in results.tasks(suite):
            for panel in panels(results, suite, task, axes_names):
                blocks[panel.axis].append(panel)
    blocks = {axis: block for axis, block in blocks.items() if block}
    if not blocks:
        return style.message("This scale has no runs that learn."), pd.DataFrame(columns=DATA_COLUMNS)
    columns = min(COLUMNS, max(map(len, blocks.values())))
    rows = {axis: -(-len(block) // columns) for axis, block in blocks.items()}
    figure = style.new_figure(0.5 + 1.6 * sum(rows.values()), style.PAGE if columns > 2 else style.COLUMN)
    looks = style.looks(results)
    parts = figure.subfigures(len(blocks), 1, height_ratios=list(rows.values()), squeeze=False)[:, 0]
    data = []
    for part, (axis, block) in zip(parts, blocks.items(), strict=True):
        data += draw_block(part, block, axis, columns, results, curves, looks)
    drawn = {pair for block in blocks.values() for panel in block for pair in panel.algorithms}
    handles = [look.handle(marker="") for pair, look in looks.items() if pair in drawn or pair[0] == "random"]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6 if columns > 2 else 3))
    return figure, pd.DataFrame(data, columns=DATA_COLUMNS)


def panels(results: Results, suite: str, task: str, axes_names: tuple[str, ...]) -> list[Panel]:
    """The panels of a task. A run learns offline where its curve never counts an environment step.

    An algorithm without any curve in the suite is announced over the first axis, as not run.
    """
    curves = results.curves[results.curves["suite"] == suite]
    by_axis = {axis: [] for axis in axes_names}
    for algorithm, variant in results.algorithms(suite):
        if algorithm in REFERENCES or results.count(suite, task, algorithm, variant)[1] == 0:
            continue
        own = curves[(curves["algorithm"] == algorithm) & (curves["variant"] == variant)]
        offline = "updates" in by_axis and len(own) > 0 and not own["env_steps"].any()
        by_axis["updates" if offline else axes_names[0]].append((algorithm, variant))
    return [Panel(suite, task, axis, tuple(pairs)) for axis, pairs in by_axis.items() if pairs]


def draw_block(
    part: SubFigure, block: list[Panel], axis: str, columns: int, results: Results, curves: pd.DataFrame, looks: dict
) -> list[tuple]:
    """Draw the panels over one axis, all with the same kind of scale."""
    grid = part.subplots(-(-len(block) // columns), columns, squeeze=False)
    data, ends = [], []
    for place, (axes, panel) in enumerate(zip(grid.flat, block, strict=False)):
        quantity = "success" if panel.task.startswith("mw-") else "return"
        rows = draw_panel(axes, panel, quantity, results, curves, looks)
        data += rows
        ends += [max(row[6] for row in rows if row[3:6] == run) for run in {row[3:6] for row in rows}]
        if place % columns == 0 or quantity == "success":
            axes.set_ylabel(quantity)
    logarithmic = min(ends, default=0) > 0 and max(ends) > LOG_RATIO * min(ends)
    part.supxlabel(AXES[axis] + ("; the start, 0, is not shown" if logarithmic else ""), fontsize=7)
    for axes in grid.flat[: len(block)]:
        if logarithmic:
            axes.set_xscale("log", nonpositive="mask")
            axes.set_xlim(0.9 * min(row[6] for row in data if row[6] > 0), 1.1 * max(ends))
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        for line in (axes.xaxis, axes.yaxis):
            line.set_major_formatter(FuncFormatter(style.thousands))
    for axes in grid.flat[len(block) :]:
        axes.set_axis_off()
    return data


def draw_panel(
    axes: Axes, panel: Panel, quantity: str, results: Results, curves: pd.DataFrame, looks: dict
) -> list[tuple]:
    """One task: a thin line per seed, a bold one for their mean as far as all seeds reach."""
    task = curves[(curves["suite"] == panel.suite) & (curves["task"] == panel.task)]
    data, missing = [], []
    for algorithm, variant in panel.algorithms:
        look = looks[algorithm, variant]
        own = task[(task["algorithm"] == algorithm) & (task["variant"] == variant)].dropna(subset=[quantity])
        identity = (panel.axis, panel.suite, panel.task, algorithm, variant)
        have, want = own["seed"].nunique(), results.count(panel.suite, panel.task, algorithm, variant)[1]
        if have < want:
            told = f"{name_of(algorithm, variant)} {f'{have}/{want}' if have else 'not run'}"
            missing.append(told.replace(" ", "\u00a0"))  # stays on one line
        seeds = {str(seed): (run[panel.axis], run[quantity]) for seed, run in own.groupby("seed")}
        grid, values = statistics.common_curves(own, panel.axis, quantity)
        lines = seeds if have == 1 or not len(grid) else seeds | {"mean": (grid, values.mean(axis=0))}
        for name, (x, y) in lines.items():
            bold = name == "mean" or have == 1
            width, opacity = (1.3, 1.0) if bold else (0.5, 0.5)
            mark = look.marker if bold and len(x) == 1 else ""
            axes.plot(x, y, marker=mark, linestyle=look.linestyle, color=look.colour, linewidth=width, alpha=opacity)
            data += [(*identity, name, float(a), quantity, float(b)) for a, b in zip(x, y, strict=True)]
    draw_random(axes, panel, quantity, results, looks)
    notes = textwrap.wrap("; ".join([SUITES.get(panel.suite, panel.suite), *missing]), 28)
    axes.set_title(panel.task, pad=3 + 7 * len(notes), fontsize=7.5 if len(panel.task) < 20 else 5.8)
    words = {"ha": "center", "va": "bottom", "size": 5.5, "color": style.GREY}
    axes.text(0.5, 1.02, "\n".join(notes), transform=axes.transAxes, **words)
    axes.grid(axis="y")
    return data


def draw_random(axes: Axes, panel: Panel, quantity: str, results: Results, looks: dict) -> None:
    """The random policy's result as a line across the panel; in words where the line would squeeze the curves."""
    column = {"return": "return_mean", "success": "success_last"}[quantity]
    scores = results.scores.query("suite == @panel.suite and task == @panel.task and algorithm == 'random'")
    for variant, value in scores.groupby("variant")[column].mean().dropna().items():
        look = looks["random", variant]
        if style.near(value, *axes.get_ylim()):
            axes.axhline(value, color=look.colour, linestyle=look.linestyle, linewidth=0.9)
        else:
            above = value > axes.get_ylim()[1]
            words = {"size": 5.5, "color": look.colour, "ha": "right", "va": "top" if above else "bottom"}
            text = f"{look.label} {'▴' if above else '▾'} {value:.0f}".replace("-", "−")
            axes.text(0.99, 0.98 if above else 0.02, text, transform=axes.transAxes, path_effects=style.HALO, **words)
