"""Scores of one suite by task and algorithm: single seeds, their mean and its interval, and published scores."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pwm import statistics
from workflows import published
from workflows.figures import style
from workflows.results import PPO_UNIT, PUBLISHED, REFERENCES, SUITES, Results, unit_of

FRAME = 0.7  # inches: title and axis of a panel
PANELS = {"return / 1000": "DMControl", "success": "Meta-World"}  # by what their scores count
AXES = {"return / 1000": "score (return / 1000)", "success": "score (success at the last step)"}
COLUMNS = ["suite", "task", "algorithm", "variant", "seed", "score", "low", "high", "unit", "n", "expected", "source"]


@dataclass(frozen=True)
class Layout:
    """How a panel is set: the more tasks, the denser."""

    tasks: int
    lines: int  # of marks in a task

    @property
    def columns(self) -> int:
        """Of tasks."""
        return 1 + (self.tasks > 12) + (self.tasks > 24)

    @property
    def rows(self) -> int:
        """Of tasks, in a column."""
        return -(-self.tasks // self.columns)

    @property
    def pitch(self) -> float:
        """Of lines, in inches."""
        return (0.1, 0.065, 0.051)[self.columns - 1]

    @property
    def gap(self) -> float:
        """Between tasks, in inches."""
        return 0.9 * self.pitch

    @property
    def height(self) -> float:
        """Of a task, in inches."""
        return self.gap + self.pitch * self.lines

    @property
    def size(self) -> float:
        """Of marks, in points."""
        return (3.5, 3.0, 2.5)[self.columns - 1]


def draw_suite(results: Results, suite: str) -> tuple[Figure, pd.DataFrame]:
    """Draw a suite's figure, a panel for everything that its scores count; returns it and the data drawn."""
    if suite not in results.suites:
        return style.message(f"This scale has no {SUITES[suite]} runs."), pd.DataFrame(columns=COLUMNS)
    looks, table, pairs = style.looks(results), measure(results, suite), results.drawn(suite)
    panels: dict[str, list[str]] = {}
    for task in results.tasks(suite):
        panels.setdefault(unit_of(suite, task), []).append(task)
    lines = max(len(pairs), 1) + bool((table["variant"] == PUBLISHED[0]).any())
    layouts = [Layout(len(tasks), lines) for tasks in panels.values()]
    heights = [FRAME + layout.rows * layout.height for layout in layouts]
    figure = style.new_figure(0.4 + sum(heights))
    parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (unit, tasks), layout in zip(parts, panels.items(), layouts, strict=True):
        own = table[table["task"].isin(tasks)]
        grid = part.subplots(1, layout.columns, squeeze=False, sharex=True)[0]
        for column, axes in enumerate(grid):
            shown = tasks[column * layout.rows : (column + 1) * layout.rows]
            draw_panel(axes, own, shown, pairs, looks, layout)
        title = f"{SUITES[suite]}, {PANELS[unit]}" if len(panels) > 1 else SUITES[suite]
        part.suptitle(title + runs_wanted(own), fontsize=8, fontweight="bold")
        sources = own.loc[own["variant"] == PUBLISHED[0], "source"].unique()
        told = [own["unit"].iloc[0], *map(style.hollow, sources), results.not_run(suite)]
        part.supxlabel(style.lines(*told, width=130), fontsize=6.5)
    shown = handles(looks, table)
    ncols = style.legend_columns([mark.get_label() for mark in shown])
    figure.legend(handles=shown, loc="outside upper center", ncols=ncols)
    return figure, table


def runs_wanted(own: pd.DataFrame) -> str:
    """` (n = 3)`: how many runs there should be of each algorithm on each task."""
    wanted = own.loc[~own["algorithm"].isin(REFERENCES) & ~own["variant"].isin(PUBLISHED), "expected"]
    return f" (n = {'–'.join(map(str, sorted({wanted.min(), wanted.max()})))})" if len(wanted) else ""


def handles(looks: dict, table: pd.DataFrame) -> list[Line2D]:
    """The legend: what is drawn, and what the small marks are."""
    table = table[table["score"].notna() | ~table["algorithm"].isin(REFERENCES)]
    drawn = {pair: looks[pair] for pair in looks if pair in {*zip(table["algorithm"], table["variant"], strict=True)}}
    found = [look.handle(linestyle="none") for (name, _), look in drawn.items() if name not in REFERENCES]
    found += [look.handle(marker="") for (name, _), look in drawn.items() if name in REFERENCES]
    mark = {"color": style.GREY, "linestyle": "none"}
    return [
        *found,
        Line2D([], [], marker="o", markersize=2.5, alpha=0.5, markeredgewidth=0, label="single seed", **mark),
        Line2D([], [], color=style.GREY, linewidth=1.6, alpha=0.6, label="95% interval of the mean"),
    ]


def measure(results: Results, suite: str) -> pd.DataFrame:
    """Every run's score, per task and algorithm a row `seed = mean` with its interval and its count of runs, and a row
    for every published score.
    """
    scores, not_normalised = results.comparable_scores()
    locomotion_unit = f"return (not normalised: {not_normalised.partition(':')[0]})" if not_normalised else PPO_UNIT
    references = [pair for pair in results.algorithms(suite) if pair[0] in REFERENCES]
    others = published.scores().query("suite == @suite").groupby("task")
    rows = []
    for task in results.tasks(suite):
        unit = locomotion_unit if suite == "locomotion" else AXES.get(unit_of(suite, task), "return")
        at_task = scores.query("suite == @suite and task == @task").sort_values("seed")
        for algorithm, variant in [*results.drawn(suite), *references]:
            have, want = results.count(suite, task, algorithm, variant)
            identity, rest = (suite, task, algorithm, variant), (unit, have, want, "measured")
            own = at_task[(at_task["algorithm"] == algorithm) & (at_task["variant"] == variant)]
            for seed, score in zip(own["seed"], own["score"], strict=True):
                rows.append((*identity, str(seed), score, np.nan, np.nan, *rest))
            if want:
                values = own["score"].to_numpy()[:, None] if have else np.full((1, 1), np.nan)
                mean = [float(bound[0]) for bound in statistics.mean_curve(values)]
                rows.append((*identity, "mean", *mean, *rest))
        if task in others.groups and published.comparable(results, suite):
            for row in others.get_group(task).itertuples():
                value = (row.score, np.nan, np.nan, unit, row.n_runs, row.n_runs, f"{row.source}: {row.statistic}")
                rows.append((suite, task, row.algorithm, PUBLISHED[0], "mean", *value))
    return pd.DataFrame(rows, columns=COLUMNS)


def limits(own: pd.DataFrame) -> tuple[float, float]:
    """Range of the contestants' scores and of such references as do not squeeze them; zero is always in it."""
    reference = own["algorithm"].isin(REFERENCES)
    main = own if reference.all() else own[~reference]
    values = np.append(main[["score", "low", "high"]].to_numpy().ravel(), 0.0)
    low, high = np.nanmin(values), np.nanmax(values)
    near = [value for value in own.loc[reference, "score"] if style.near(value, low, high)]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.04 * ((high - low) or 1.0)
    return (low - pad if low < 0 else 0.0), high + pad


def draw_panel(
    axes: Axes, own: pd.DataFrame, tasks: list[str], pairs: list[tuple[str, str]], looks: dict, layout: Layout
) -> None:
    """Tasks from top to bottom, and in each a line of marks per algorithm, the last one for published scores."""
    axes.set_xlim(*limits(own))
    for row, task in enumerate(tasks):
        top, bottom = row * layout.height, (row + 1) * layout.height
        if row % 2 == 0:
            axes.axhspan(top, bottom, color="black", alpha=0.04, linewidth=0)
        at_task = own[own["task"] == task]
        for (algorithm, variant), group in at_task.groupby(["algorithm", "variant"]):
            look = looks[algorithm, variant]
            if algorithm in REFERENCES:
                draw_reference(axes, group, look, top, bottom)
                continue
            line = layout.lines - 1 if variant in PUBLISHED else pairs.index((algorithm, variant))
            draw_runs(axes, group, look, top + layout.gap / 2 + (line + 0.5) * layout.pitch, layout.size)
    axes.set_ylim(layout.rows * layout.height, 0)
    names = [task.removeprefix("mw-") for task in tasks]  # the panel's title says it
    axes.set_yticks([(row + 0.5) * layout.height for row in range(len(tasks))], names)
    axes.tick_params(axis="y", length=0, labelsize=6.5 if layout.columns == 1 else 6)
    axes.grid(axis="x")


def draw_runs(axes: Axes, group: pd.DataFrame, look: style.Look, y: float, size: float) -> None:
    """Seeds as small dots, mean as the variant's marker, interval as a bar; missing runs in words."""
    mean, seeds = group[group["seed"] == "mean"].iloc[0], group.loc[group["seed"] != "mean", "score"]
    words = {"size": style.SMALL, "color": look.colour, "va": "center_baseline", "path_effects": style.HALO}
    if not mean["n"]:
        axes.annotate(f"{look.label}: not run", (axes.get_xlim()[0], y), (3, 0), textcoords="offset points", **words)
        return
    bar = {"linewidth": 0.45 * size, "alpha": 0.6, "solid_capstyle": "butt"}
    axes.plot([mean["low"], mean["high"]], [y, y], color=look.colour, **bar)
    dots = {"markersize": 0.7 * size, "alpha": 0.5, "markeredgewidth": 0}
    axes.plot(seeds, [y] * len(seeds), "o", color=look.colour, **dots)
    axes.plot(mean["score"], y, markersize=size, markeredgewidth=0.7, clip_on=False, **look.mark)
    if mean["n"] < mean["expected"]:
        right = np.nanmax([mean["high"], *seeds])
        text = f"n = {mean['n']}/{mean['expected']}"
        axes.annotate(text, (right, y), (4, 0), textcoords="offset points", **words)


def draw_reference(axes: Axes, group: pd.DataFrame, look: style.Look, top: float, bottom: float) -> None:
    """A reference's mean as a line across the task; beyond the axis, its value at the edge."""
    value = group.loc[group["seed"] == "mean", "score"].iloc[0]
    low, high = axes.get_xlim()
    if low <= value <= high:
        axes.plot([value, value], [top, bottom], color=look.colour, linestyle=look.linestyle, linewidth=0.8)
    elif np.isfinite(value):
        left = value < low
        number = f"{value:.4g}".replace("-", "−")
        text = f"◂ {look.label} {number}" if left else f"{look.label} {number} ▸"
        place = {
            "ha": "left" if left else "right",
            "va": "top",
            "size": style.SMALL,
            "color": look.colour,
            "path_effects": style.HALO,
        }
        axes.annotate(text, (low if left else high, top), (2 if left else -2, -1), textcoords="offset points", **place)
