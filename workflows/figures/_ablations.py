"""What the figures of ablations share: a setting's runs as marks, and their learning curve with its band."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pwm import progress, statistics
from workflows.ablations import Arm
from workflows.figures import style
from workflows.results import runs_of

HEADROOM = 0.12  # of the axis, so that no mark touches the frame


def draw_marks(
    axes: Axes, place: float, seeds: Sequence[float], estimate: statistics.Estimate, look: style.Look, flat: bool
) -> None:
    """Seeds as small dots, the estimate as a mark, its interval as a bar; `flat`: values along x, else along y."""

    def plot(places: object, values: object, *form: str, **kind: object) -> None:
        axes.plot(*((values, places) if flat else (places, values)), *form, color=look.colour, **kind)

    value, low, high = estimate
    plot([place, place], [low, high], linewidth=2.5, alpha=0.45, solid_capstyle="butt")
    plot([place] * len(seeds), seeds, "o", markersize=2.5, alpha=0.5, markeredgewidth=0)
    plot(place, value, look.marker, markersize=4.5)


def draw_hollow(axes: Axes, places: Sequence[float], values: Sequence[float], look: style.Look, flat: bool) -> None:
    """Published values."""
    x, y = (values, places) if flat else (places, values)
    axes.plot(x, y, look.marker, color=look.colour, markersize=5, fillstyle="none")


def draw_curve(axes: Axes, curves: pd.DataFrame, **line: object) -> list[tuple]:
    """Mean return over environment steps as far as all runs reach, with its pointwise 95% band.

    Returns: rows of steps, mean, low and high.
    """
    grid, values = progress.common_curves(curves, "env_steps")
    if not len(grid):
        return []
    mean, low, high = statistics.mean_curve(values)
    axes.plot(grid, mean, **line)
    axes.fill_between(grid, low, high, color=line["color"], alpha=0.15, linewidth=0)
    return list(zip(grid, mean, low, high, strict=True))


def draw_by_value(axes: Axes, arms: Sequence[Arm], look: style.Look, counts: bool = True) -> list[tuple]:
    """Arms over the number varied, on an axis of powers, with their counts of runs unless these stand elsewhere.

    Returns: rows of setting, value, seed, estimate, low, high, n and expected.
    """
    rows = []
    for arm in arms:
        draw_marks(axes, arm.value, arm.seeds, arm.iqm, look, flat=False)
        rows += rows_of(arm)
    set_powers(axes, {arm.value: runs_of(arm.have, arm.want) if counts else "" for arm in arms})
    return rows


def rows_of(arm: Arm) -> list[tuple]:
    """An arm's values as drawn: every seed's, and `all`, the estimate of all runs."""
    of_seeds = [(str(seed), value, np.nan, np.nan) for seed, value in enumerate(arm.seeds)]
    return [(arm.setting, arm.value, *row, arm.have, arm.want) for row in [*of_seeds, ("all", *arm.iqm)]]


def set_powers(axes: Axes, told: dict[float, str]) -> None:
    """Ticks at the values themselves, each with what is told of it, on a logarithmic axis."""
    axes.set_xscale("log", base=2)
    names = {value: style.thousands(value) if value >= 10_000 else f"{value:g}" for value in told}
    axes.set_xticks(list(told), [f"{names[value]}\n{text}".rstrip() for value, text in told.items()])
    axes.minorticks_off()
    low, high = np.log2(min(told)), np.log2(max(told))
    pad = max(0.12 * (high - low), 0.5)
    axes.set_xlim(2 ** (low - pad), 2 ** (high + pad))
    axes.margins(y=HEADROOM)
    axes.grid(axis="y")


def legend(extra: Sequence[Line2D] = ()) -> list[Line2D]:
    """What the marks mean."""
    mark = {"color": style.GREY, "linestyle": "none"}
    return [
        Line2D([], [], marker="o", markersize=4.5, label="IQM", **mark),
        Line2D([], [], marker="o", markersize=2.5, alpha=0.5, markeredgewidth=0, label="single seed", **mark),
        Line2D([], [], color=style.GREY, linewidth=2.5, alpha=0.45, label="95% interval"),
        *extra,
    ]


def published_handle(label: str = "published") -> Line2D:
    """A hollow mark's entry in the legend."""
    return Line2D([], [], marker="o", markersize=5, fillstyle="none", color=style.GREY, linestyle="none", label=label)
