"""What the figures of learning curves share: a panel per task, and one for a suite's tasks together, by axis."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pwm import progress, statistics
from pwm.errors import UserError
from workflows.figures import style
from workflows.results import PPO_UNIT, SUITES, Results, name_of, unit_of

AXES = {
    "env_steps": "environment steps (learning online)",
    "updates": "policy updates (from offline data and a trained world model)",
    "wall_minutes": "minutes of training (making data and pre-training world models not counted)",
}
COLUMNS = 5
SHOWN = 6  # tasks of a suite that are drawn each by itself; of more, all together alone
LOG_RATIO = 10  # runs whose lengths differ by more than this share a logarithmic axis
DATA_COLUMNS = ["axis", "suite", "task", "algorithm", "variant", "seed", "x", "quantity", "value", "low", "high"]


@dataclass(frozen=True)
class Panel:
    """Curves of one task, or of all that a suite has, over one axis.

    `algorithms` are those that belong here, with runs or without.
    """

    suite: str
    tasks: tuple[str, ...]
    axis: str
    algorithms: tuple[tuple[str, str], ...]

    @property
    def whole(self) -> bool:
        """Whether it is of all tasks together."""
        return len(self.tasks) > 1

    @property
    def title(self) -> str:
        """What it shows."""
        return f"all {len(self.tasks)} tasks" if self.whole else self.tasks[0]

    @property
    def quantity(self) -> str:
        """The column drawn."""
        if self.whole:
            return "score"
        return "success" if self.tasks[0].startswith("mw-") else "return"

    @property
    def label(self) -> str:
        """The vertical axis."""
        if not self.whole:
            return self.quantity
        return f"IQM of {PPO_UNIT}" if self.suite == "locomotion" else "IQM of score"


def draw_over(results: Results, axes_names: tuple[str, ...]) -> tuple[Figure, pd.DataFrame]:
    """Draw every suite over the named axes, one block of panels per axis: units are never mixed in one panel."""
    results = replace(results, curves=scored(results))
    blocks = {axis: [] for axis in axes_names}
    for suite in results.suites:
        tasks = results.tasks(suite)
        together = [tuple(tasks)] if len(tasks) > 1 and comparable(results, suite) else []
        alone = [(task,) for task in tasks] if len(tasks) <= SHOWN or not together else []
        for shown in [*together, *alone]:
            for panel in panels(results, suite, shown, axes_names):
                blocks[panel.axis].append(panel)
    blocks = {axis: block for axis, block in blocks.items() if block}
    if not blocks:
        return style.message("This scale has no runs that learn."), pd.DataFrame(columns=DATA_COLUMNS)
    columns = min(COLUMNS, max(map(len, blocks.values())))
    rows = {axis: -(-len(block) // columns) for axis, block in blocks.items()}
    figure = style.new_figure(0.5 + 1.7 * sum(rows.values()), style.PAGE if columns > 2 else style.COLUMN)
    looks = style.looks(results)
    parts = figure.subfigures(len(blocks), 1, height_ratios=list(rows.values()), squeeze=False)[:, 0]
    data = []
    for part, (axis, block) in zip(parts, blocks.items(), strict=True):
        data += draw_block(part, block, axis, columns, results, looks)
    drawn = {pair for block in blocks.values() for panel in block for pair in panel.algorithms}
    drawn |= {pair for suite in results.suites for pair in results.started(suite) if pair[0] == "random"}
    handles = [look.handle(marker="") for pair, look in looks.items() if pair in drawn]
    ncols = style.legend_columns([look.get_label() for look in handles]) if columns > 2 else 2
    figure.legend(handles=handles, loc="outside upper center", ncols=ncols)
    figure.supxlabel(style.lines(results.not_run(*results.suites)), fontsize=style.SMALL)
    return figure, pd.DataFrame(data, columns=DATA_COLUMNS)


def scored(results: Results) -> pd.DataFrame:
    """The curves with a column `score` in the unit that a suite's tasks share: success, return / 1000, or return over
    PPO's mean score (NaN where that cannot be the unit). Training is in `wall_minutes` besides.
    """
    table = results.curves
    units = np.array([unit_of(*of) for of in zip(table["suite"], table["task"], strict=True)], dtype=str)
    ppo = pd.Series(dtype=float) if results.comparable_scores()[1] else statistics.ppo_units(results.scores)
    score = (table["return"] / 1000).where(units == "return / 1000", table["success"])
    score = score.where(table["suite"] != "locomotion", table["return"] / table["task"].map(ppo))
    return table.assign(score=score, wall_minutes=table["wall_time_s"] / 60)


def comparable(results: Results, suite: str) -> bool:
    """Whether a suite's tasks have a unit in common."""
    return suite in SUITES and suite != "stiffness" and not (suite == "locomotion" and results.comparable_scores()[1])


def panels(results: Results, suite: str, tasks: tuple[str, ...], axes_names: tuple[str, ...]) -> list[Panel]:
    """The panels of some tasks. A run learns offline where its curve never counts an environment step.

    An algorithm without any curve in the suite is announced over the first axis, as not run.
    """
    of_suite = results.curves[results.curves["suite"] == suite]
    by_axis = {axis: [] for axis in axes_names}
    for algorithm, variant in results.drawn(suite):
        if not any(results.count(suite, task, algorithm, variant)[1] for task in tasks):
            continue
        own = of_suite[(of_suite["algorithm"] == algorithm) & (of_suite["variant"] == variant)]
        offline = "updates" in by_axis and len(own) > 0 and not own["env_steps"].any()
        by_axis["updates" if offline else axes_names[0]].append((algorithm, variant))
    return [Panel(suite, tasks, axis, tuple(pairs)) for axis, pairs in by_axis.items() if pairs]


def draw_block(
    part: SubFigure, block: list[Panel], axis: str, columns: int, results: Results, looks: dict
) -> list[tuple]:
    """Draw the panels over one axis, and name it."""
    grid = part.subplots(-(-len(block) // columns), columns, squeeze=False)
    data, logarithmic = [], False
    for place, (axes, panel) in enumerate(zip(grid.flat, block, strict=False)):
        rows = draw_panel(axes, panel, results, looks)
        logarithmic = set_axes(axes, rows) or logarithmic
        data += rows
        if place % columns == 0 or panel.label != block[place - 1].label:
            axes.set_ylabel(panel.label)
    part.supxlabel(AXES[axis] + "; on logarithmic axes the start, 0, is not shown" * logarithmic, fontsize=7)
    for axes in grid.flat[len(block) :]:
        axes.set_axis_off()
    return data


def set_axes(axes: Axes, rows: list[tuple]) -> bool:
    """Set a panel's axes to what was drawn in it; returns whether it is logarithmic in x."""
    ends = [max(row[6] for row in rows if row[3:6] == run) for run in {row[3:6] for row in rows}]
    logarithmic = bool(ends and 0 < LOG_RATIO * min(ends) < max(ends))
    if logarithmic:
        axes.set_xscale("log", nonpositive="mask")
        axes.set_xlim(0.9 * min(row[6] for row in rows if row[6] > 0), 1.1 * max(ends))
        style.set_log_ticks(axes)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for line in (axes.xaxis, axes.yaxis):
        line.set_major_formatter(FuncFormatter(style.thousands))
    axes.grid(axis="y")
    if not rows:
        axes.set_xticks([])
        axes.set_yticks([])
    return logarithmic


def draw_panel(axes: Axes, panel: Panel, results: Results, looks: dict) -> list[tuple]:
    """A panel's curves, and in words what it shows, of how many runs, and which of them are missing."""
    data, missing, counts = [], [], set()
    for algorithm, variant in panel.algorithms:
        draw = draw_together if panel.whole else draw_seeds
        rows, want, told = draw(axes, panel, algorithm, variant, results, looks[algorithm, variant])
        data += rows
        counts.add(want)
        if told:
            missing.append(f"{name_of(algorithm, variant)} {', '.join(told)}".replace(" ", "\u00a0"))  # on one line
    if not panel.whole:
        draw_random(axes, panel, results, looks)
    about = f"{SUITES.get(panel.suite, panel.suite)}, n = {'–'.join(map(str, sorted({min(counts), max(counts)})))}"
    notes = textwrap.wrap(
        "; ".join([about.replace(" ", "\u00a0"), *missing]), 30, break_on_hyphens=False, break_long_words=False
    )
    axes.set_title(panel.title, pad=3 + 7.5 * len(notes), fontsize=7.5 if len(panel.title) < 20 else 6)
    words = {"ha": "center", "va": "bottom", "size": style.SMALL, "color": style.GREY}
    axes.text(0.5, 1.02, "\n".join(notes), transform=axes.transAxes, **words)
    return data


def chosen(table: pd.DataFrame, panel: Panel, algorithm: str, variant: str) -> pd.DataFrame:
    """Rows of a panel's tasks of one algorithm and variant."""
    of = (table["suite"] == panel.suite) & table["task"].isin(panel.tasks)
    return table[of & (table["algorithm"] == algorithm) & (table["variant"] == variant)]


def data_rows(panel: Panel, pair: tuple[str, str], name: str, *columns: Iterable[float]) -> list[tuple]:
    """What is drawn of a curve, in `DATA_COLUMNS`."""
    task = "all" if panel.whole else panel.tasks[0]
    identity = (panel.axis, panel.suite, task, *pair, name)
    return [(*identity, x, panel.quantity, *rest) for x, *rest in zip(*columns, strict=True)]


def lacking(have: int, want: int) -> list[str]:
    """What of the runs is missing."""
    return [f"{have}/{want}" if have else "not run"] if have < want else []


def draw_seeds(
    axes: Axes, panel: Panel, algorithm: str, variant: str, results: Results, look: style.Look
) -> tuple[list[tuple], int, list[str]]:
    """One task: a thin line per seed, a bold one for their mean as far as all seeds reach.

    Returns: what is drawn, how many runs are expected, and what is to be said of those that are missing.
    """
    own = chosen(results.curves, panel, algorithm, variant).dropna(subset=[panel.quantity])
    have, want = own["seed"].nunique(), results.count(panel.suite, panel.tasks[0], algorithm, variant)[1]
    data, seeds = [], {str(seed): (run[panel.axis], run[panel.quantity]) for seed, run in own.groupby("seed")}
    grid, values = progress.common_curves(own, panel.axis, panel.quantity)
    lines = seeds if have == 1 or not len(grid) else seeds | {"mean": (grid, values.mean(axis=0))}
    for name, (x, y) in lines.items():
        bold = name == "mean" or have == 1
        width, opacity = (1.3, 1.0) if bold else (0.5, 0.5)
        mark = look.marker if bold and len(x) == 1 else ""
        axes.plot(x, y, marker=mark, linestyle=look.linestyle, color=look.colour, linewidth=width, alpha=opacity)
        none = np.full(len(x), np.nan)
        data += data_rows(panel, (algorithm, variant), name, x, y, none, none)
    return data, want, lacking(have, want)


def draw_together(
    axes: Axes, panel: Panel, algorithm: str, variant: str, results: Results, look: style.Look
) -> tuple[list[tuple], int, list[str]]:
    """All tasks of an algorithm: the IQM over them and its finished seeds, with a pointwise 95% band.

    Returns: as `draw_seeds`.
    """
    runs = chosen(results.runs, panel, algorithm, variant)
    tasks, there = list(runs["task"].unique()), runs.groupby("seed")["there"].all()
    seeds, want = [seed for seed, done in there.items() if done], len(there)
    told = [f"{len(tasks)}/{len(panel.tasks)} tasks"] if len(tasks) < len(panel.tasks) else []
    if not seeds:
        return [], want, [*(["no seed complete"] if runs["there"].any() else lacking(0, want)), *told]
    told = [*lacking(len(seeds), want), *told]
    own = chosen(results.curves, panel, algorithm, variant)
    try:
        drawn = progress.sample_efficiency(own[own["seed"].isin(seeds)], tasks, panel.axis)
    except UserError:  # a run without a curve, or tasks whose runs have no step in common
        return [], want, [*told, "no common range"]
    x, value, low, high = drawn
    axes.plot(x, value, linestyle=look.linestyle, color=look.colour, linewidth=1.3)
    axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0)
    return data_rows(panel, (algorithm, variant), "IQM", *drawn), want, told


def draw_random(axes: Axes, panel: Panel, results: Results, looks: dict) -> None:
    """The random policy's result as a line across the panel; in words where the line would squeeze the curves."""
    column = {"return": "return_mean", "success": "success_last"}[panel.quantity]
    scores = results.scores.query("suite == @panel.suite and task == @panel.tasks[0] and algorithm == 'random'")
    for variant, value in scores.groupby("variant")[column].mean().dropna().items():
        look = looks["random", variant]
        if style.near(value, *axes.get_ylim()):
            axes.axhline(value, color=look.colour, linestyle=look.linestyle, linewidth=0.9)
        else:
            above = value > axes.get_ylim()[1]
            words = {"size": style.SMALL, "color": look.colour, "ha": "right", "va": "top" if above else "bottom"}
            text = f"{look.label} {'▴' if above else '▾'} {value:.0f}".replace("-", "−")
            axes.text(0.99, 0.98 if above else 0.02, text, transform=axes.transAxes, path_effects=style.HALO, **words)
