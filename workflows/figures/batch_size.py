"""Batch size of the policy: learning curves, and returns after equal environment steps over the batch size."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pwm.errors import exit_on_user_error
from workflows.ablations import Group, at_equal_steps, groups
from workflows.figures import style
from workflows.figures._ablations import draw_by_value, draw_curve, legend
from workflows.results import Results, read_results, runs_of

ABLATION = "batch_size"
COLUMNS = ["panel", "task", "env_steps", "setting", "batch_size", "seed", "return", "low", "high", "n", "expected"]


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    found = groups(results, ABLATION)
    if not found:
        return style.message("This scale has no variants of the policy's batch size."), pd.DataFrame(columns=COLUMNS)
    figure = style.new_figure(0.4 + 2.1 * len(found))
    grid = figure.subplots(len(found), 2, width_ratios=[1.3, 1], squeeze=False)
    data = []
    for (left, right), group in zip(grid, found, strict=True):
        data += draw_curves(left, group)
        data += draw_equal_steps(right, group)
    figure.legend(handles=legend(), loc="outside upper center", ncols=3)
    return figure, pd.DataFrame(data, columns=COLUMNS)


def draw_curves(axes: Axes, group: Group) -> list[tuple]:
    """Mean returns over environment steps, the larger the batch the lighter."""
    data = []
    shades = colormaps["viridis"](np.linspace(0, 0.85, len(group.arms)))
    for arm, shade in zip(group.arms, shades, strict=True):
        rows = draw_curve(axes, arm.curves, color=shade)
        axes.plot([], [], color=shade, label=f"batch {arm.value:g} ({runs_of(arm.have, arm.want)})")
        identity = (arm.setting, arm.value, "mean")
        data += [("curves", group.title, step, *identity, *row, arm.have, arm.want) for step, *row in rows]
    axes.set_title(group.title)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for line in (axes.xaxis, axes.yaxis):
        line.set_major_formatter(FuncFormatter(style.thousands))
    axes.grid(axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return data


def draw_equal_steps(axes: Axes, group: Group) -> list[tuple]:
    """Returns over batch size, where all runs have made as many environment steps."""
    steps, arms = at_equal_steps(group)
    if not arms:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=style.GREY)
        axes.set_axis_off()
        return []
    look = style.Look("PWM", style.COLOURS["pwm"], "o", "-")
    rows = draw_by_value(axes, arms, look, counts=False)
    axes.set_title(f"after {steps:,.0f} environment steps")
    axes.set_ylabel("return")
    axes.set_xlabel("batch size of the policy")
    axes.yaxis.set_major_formatter(FuncFormatter(style.thousands))
    return [("equal steps", group.title, steps, *row) for row in rows]


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__, ablations=True)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
