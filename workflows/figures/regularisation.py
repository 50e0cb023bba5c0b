"""Regularisation of the world model: scores of PWM with its latent, normalisation and activation varied."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.ablations import Group, groups
from workflows.figures import style
from workflows.figures._ablations import draw_hollow, draw_marks, legend, published_handle, rows_of
from workflows.results import Results, read_results, runs_of

ABLATION = "regularisation"
# From `WorldModelConfig`; others are called by their names.
SETTINGS = {
    "reference": "SimNorm, Mish",
    "none": "no SimNorm",
    "spectral": "spectral norm",
    "plain": "plain MLP",
    "relu": "SimNorm, ReLU",
}
LOOK = style.Look("PWM", style.COLOURS["pwm"], "o", "-")
COLUMNS = ["source", "tasks", "setting", "value", "seed", "score", "low", "high", "n", "expected"]


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    found = groups(results, ABLATION)
    if not found:
        return style.message("This scale has no variants of the world model's regularisation."), pd.DataFrame(
            columns=COLUMNS
        )
    told = published.quoted().query("claim == 'C6'")
    listed = {arm.setting for group in found for arm in group.arms} | {*told["setting"]}
    settings = [*SETTINGS, *sorted(listed - SETTINGS.keys())]
    figure = style.new_figure(0.95 + 0.25 * len(settings))
    grid = figure.subplots(1, len(found) + 1, sharey=True, squeeze=False)[0]
    data = []
    for axes, group in zip(grid, found, strict=False):
        data += draw_group(axes, group, settings)
    data += draw_published(grid[-1], told, settings)
    grid[0].set_yticks(range(len(settings)), [SETTINGS.get(name, name) for name in settings])
    grid[0].set_ylim(len(settings) - 0.5, -0.5)
    for axes in grid:
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(style.thousands))
        axes.grid(axis="x")
    figure.legend(handles=legend([published_handle()]), loc="outside upper center", ncols=4)
    return figure, pd.DataFrame(data, columns=COLUMNS)


def draw_group(axes: Axes, group: Group, settings: list[str]) -> list[tuple]:
    """A line for each setting, with its count of runs at the right."""
    data = []
    for place, setting in enumerate(settings):
        arm = group.arm(setting)
        told = runs_of(arm.have, arm.want) if arm else "not asked for"
        axes.text(1.01, place, told, transform=axes.get_yaxis_transform(), size=6, color=style.GREY, va="center")
        if arm:
            draw_marks(axes, place, arm.seeds, arm.iqm, LOOK, flat=True)
            data += [("measured", "+".join(group.tasks), *row) for row in rows_of(arm)]
    axes.set_title(group.title)
    axes.set_xlabel(group.unit)
    return data


def draw_published(axes: Axes, told: pd.DataFrame, settings: list[str]) -> list[tuple]:
    """The paper's returns, in a panel of their own, since they are another simulator's."""
    places = [settings.index(setting) for setting in told["setting"]]
    draw_hollow(axes, places, told["value"], LOOK, flat=True)
    axes.set_title(f"{told['task'].iloc[0]}, published")
    axes.set_xlabel(f"return in another simulator\n({told['source'].iloc[0]}; runs not given)")
    rows = zip(told["source"], told["task"], told["setting"], told["value"], strict=True)
    return [(*row[:3], np.nan, "all", row[3], np.nan, np.nan, np.nan, np.nan) for row in rows]


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__, ablations=True)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
