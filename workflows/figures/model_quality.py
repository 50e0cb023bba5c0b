"""World-model quality and the extracted policy: scores over the model's updates, and over its training's horizon."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.ablations import Group, groups
from workflows.figures import style
from workflows.figures._ablations import draw_by_value, draw_hollow, legend, published_handle, set_powers
from workflows.results import SUITES, Results, read_results

ABLATIONS = {"model_updates": "updates of the world model", "model_horizon": "training horizon, steps"}
SCORED = ("mt30", "mt80")  # from 0 to 1
LOOK = style.Look("PWM", style.COLOURS["pwm"], "o", "-")
COLUMNS = ["source", "ablation", "tasks", "setting", "value", "seed", "score", "low", "high", "n", "expected"]


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    found = [(ablation, group) for ablation in ABLATIONS for group in groups(results, ablation)]
    if not found:
        return style.message("This scale has no variants of the world model's training."), pd.DataFrame(columns=COLUMNS)
    told = published.quoted().query("claim == 'C8'")
    drawn = {group.suite for ablation, group in found if ablation == "model_horizon"}
    alone = [suite for suite in told["suite"].unique() if suite not in drawn]
    panels = len(found) + len(alone)
    rows = 1 + (panels > 4)
    figure = style.new_figure(0.4 + 1.9 * rows)
    grid = figure.subplots(rows, -(-panels // rows), squeeze=False).ravel()
    data = []
    for axes, (ablation, group) in zip(grid, found, strict=False):
        data += draw_group(axes, ablation, group, told)
    for axes, suite in zip(grid[len(found) :], alone, strict=False):
        data += draw_published(axes, told[told["suite"] == suite])
        values = told.loc[told["suite"] == suite, "setting"].astype(float)
        set_powers(axes, dict.fromkeys(values, "not run"))
        axes.set_title(f"{SUITES[suite]}, published")
        axes.set_xlabel(ABLATIONS["model_horizon"])
        axes.set_ylabel("score, IQM over tasks")
    for axes in grid[panels:]:
        axes.set_axis_off()
    for axes, suite in zip(grid, [*(group.suite for _, group in found), *alone], strict=False):
        if suite in SCORED:
            axes.set_ylim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(style.thousands))
    source = f"published, over all tasks ({told['source'].iloc[0]})"
    figure.legend(handles=legend([published_handle(source)]), loc="outside upper center", ncols=4)
    return figure, pd.DataFrame(data, columns=COLUMNS)


def draw_group(axes: Axes, ablation: str, group: Group, told: pd.DataFrame) -> list[tuple]:
    """One ablation of a group, and what was published of it."""
    rows = draw_by_value(axes, group.arms, LOOK)
    axes.set_title(group.title)
    axes.set_ylabel(group.unit)
    data = [("measured", ablation, "+".join(group.tasks), *row) for row in rows]
    axes.set_xlabel(ABLATIONS[ablation])
    own = told[told["suite"] == group.suite]
    return data + draw_published(axes, own) if ablation == "model_horizon" and len(own) else data


def draw_published(axes: Axes, told: pd.DataFrame) -> list[tuple]:
    """A suite's published scores by horizon."""
    values = told["setting"].astype(float)
    draw_hollow(axes, values, told["value"], LOOK, flat=False)
    rows = zip(told["source"], told["suite"], told["setting"], values, told["value"], strict=True)
    return [(row[0], "model_horizon", *row[1:4], "all", row[4], *[np.nan] * 4) for row in rows]


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__, ablations=True)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
