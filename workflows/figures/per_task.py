"""Scores per task and algorithm, one panel per suite: single seeds, their mean and its 95% interval."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pwm import statistics
from pwm.errors import exit_on_user_error
from workflows.figures import style
from workflows.results import PPO_UNIT, REFERENCES, SUITES, Results, read_results

PITCH, GAP, FRAME = 0.1, 0.09, 0.62  # inches: a line of dots, between tasks, title and axis of a panel
TWO_COLUMNS = 12  # suites with more tasks are set in two columns
SCORES = {"mt30": "score (return / 1000)", "mt80": "score (return / 1000, on Meta-World success)"}
COLUMNS = ["suite", "task", "algorithm", "variant", "seed", "score", "low", "high", "unit", "n", "expected"]


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    if not results.suites:
        return style.message("This scale has no runs."), pd.DataFrame(columns=COLUMNS)
    looks = style.looks(results)
    table = measure(results)
    blocks, heights = [], []
    for suite in results.suites:
        tasks = results.tasks(suite)
        rows = len(tasks) if len(tasks) <= TWO_COLUMNS else -(-len(tasks) // 2)
        blocks.append([tasks[first : first + rows] for first in range(0, len(tasks), rows)])
        heights.append(FRAME + rows * (GAP + PITCH * max(len(contestants(results, suite)), 1)))
    figure = style.new_figure(0.45 + sum(heights))
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, suite, columns in zip(parts, results.suites, blocks, strict=True):
        grid = part.subplots(1, len(columns), squeeze=False, sharex=True)[0]
        own = table[table["suite"] == suite]
        for axes, tasks in zip(grid, columns, strict=True):
            draw_panel(axes, own, tasks, contestants(results, suite), looks, limits(own))
        part.suptitle(SUITES.get(suite, suite), fontsize=8, fontweight="bold")
        part.supxlabel(own["unit"].iloc[0], fontsize=7)
    mark = {"color": style.GREY, "linestyle": "none"}
    handles = [look.handle(linestyle="none") for (name, _), look in looks.items() if name not in REFERENCES]
    handles += [look.handle(marker="") for (name, _), look in looks.items() if name in REFERENCES]
    handles += [
        Line2D([], [], marker="o", markersize=2.5, alpha=0.5, markeredgewidth=0, label="single seed", **mark),
        Line2D([], [], color=style.GREY, linewidth=1.6, alpha=0.6, label="95% interval of the mean"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 5))
    return figure, table


def contestants(results: Results, suite: str) -> list[tuple[str, str]]:
    """Algorithms and variants that get a line of their own; references are drawn across."""
    return [pair for pair in results.algorithms(suite) if pair[0] not in REFERENCES]


def measure(results: Results) -> pd.DataFrame:
    """Every run's score, and per task and algorithm a row `seed = mean` with its interval and its count of runs."""
    scores, not_normalised = results.comparable_scores()
    locomotion_unit = f"return (not normalised: {not_normalised.partition(':')[0]})" if not_normalised else PPO_UNIT
    rows = []
    for suite in results.suites:
        unit = locomotion_unit if suite == "locomotion" else SCORES.get(suite, "score")
        for task in results.tasks(suite):
            for algorithm, variant in results.algorithms(suite):
                have, want = results.count(suite, task, algorithm, variant)
                identity, rest = (suite, task, algorithm, variant), (unit, have, want)
                own = scores.query("suite == @suite and task == @task and algorithm == @algorithm")
                own = own[own["variant"] == variant].sort_values("seed")
                for seed, score in zip(own["seed"], own["score"], strict=True):
                    rows.append((*identity, str(seed), score, np.nan, np.nan, *rest))
                if want:
                    mean = statistics.Estimate(np.nan, np.nan, np.nan)
                    if have:
                        mean = statistics.aggregate(own[["score"]].to_numpy(), ["mean"])["mean"]
                    rows.append((*identity, "mean", *mean, *rest))
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
    axes: Axes,
    own: pd.DataFrame,
    tasks: list[str],
    pairs: list[tuple[str, str]],
    looks: dict,
    span: tuple[float, float],
) -> None:
    """Tasks from top to bottom, and in each a line of dots per algorithm."""
    axes.set_xlim(*span)
    height = PITCH * max(len(pairs), 1) + GAP
    for row, task in enumerate(tasks):
        top, bottom = row * height, (row + 1) * height
        if row % 2 == 0:
            axes.axhspan(top, bottom, color="black", alpha=0.04, linewidth=0)
        at_task = own[own["task"] == task]
        for (algorithm, variant), group in at_task.groupby(["algorithm", "variant"]):
            if algorithm in REFERENCES:
                draw_reference(axes, group, looks[algorithm, variant], top, bottom)
        for line, pair in enumerate(pairs):
            group = at_task[(at_task["algorithm"] == pair[0]) & (at_task["variant"] == pair[1])]
            if len(group):
                draw_runs(axes, group, looks[pair], top + GAP / 2 + (line + 0.5) * PITCH)
    axes.set_ylim(len(tasks) * height, 0)
    axes.set_yticks([(row + 0.5) * height for row in range(len(tasks))], tasks)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def draw_runs(axes: Axes, group: pd.DataFrame, look: style.Look, y: float) -> None:
    """Seeds as small dots, mean as the variant's marker, interval as a bar; missing runs in words."""
    mean, seeds = group[group["seed"] == "mean"].iloc[0], group.loc[group["seed"] != "mean", "score"]
    words = {"size": 5, "color": look.colour, "va": "center_baseline", "path_effects": style.HALO}
    if not mean["n"]:
        axes.annotate(f"{look.label}: not run", (axes.get_xlim()[0], y), (3, 0), textcoords="offset points", **words)
        return
    axes.plot([mean["low"], mean["high"]], [y, y], color=look.colour, linewidth=1.6, alpha=0.6, solid_capstyle="butt")
    axes.plot(seeds, [y] * len(seeds), "o", color=look.colour, markersize=2.5, alpha=0.5, markeredgewidth=0)
    axes.plot(mean["score"], y, look.marker, color=look.colour, markersize=3.5)
    if mean["n"] < mean["expected"]:
        right = np.nanmax([mean["high"], *seeds])
        text = f"n = {mean['n']}/{mean['expected']}"
        axes.annotate(text, (right, y), (4, 0), textcoords="offset points", **words)


def draw_reference(axes: Axes, group: pd.DataFrame, look: style.Look, top: float, bottom: float) -> None:
    """A reference's mean as a line across the task; beyond the axis, its value at the edge."""
    value = group.loc[group["seed"] == "mean", "score"].iloc[0]
    low, high = axes.get_xlim()
    if low <= value <= high:
        axes.plot([value, value], [top, bottom], color=look.colour, linestyle=look.linestyle, linewidth=1)
    elif np.isfinite(value):
        left = value < low
        number = f"{value:.4g}".replace("-", "−")
        text = f"◂ {look.label} {number}" if left else f"{look.label} {number} ▸"
        place = {
            "ha": "left" if left else "right",
            "va": "top",
            "size": 5,
            "color": look.colour,
            "path_effects": style.HALO,
        }
        axes.annotate(text, (low if left else high, top), (2 if left else -2, -1), textcoords="offset points", **place)


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
