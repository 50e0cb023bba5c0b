"""Policy gradients by horizon, through true dynamics and world models: variance, signal-to-noise ratio, agreement."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pwm import statistics
from pwm.errors import exit_on_user_error
from workflows.figures import style
from workflows.measured import Measured, read_measured
from workflows.results import runs_of

SYSTEMS = {"double_pendulum": "double pendulum", "hopper": "hopper"}
LOOKS = {
    "true": style.Look("true dynamics", "#000000", "o", "-"),
    "horizon3": style.Look("world model, H = 3", "#56B4E9", "s", style.LINESTYLES[1]),
    "horizon16": style.Look("world model, H = 16", "#882255", "^", style.LINESTYLES[2]),
}
QUANTITIES = {"variance": "variance of the gradient", "esnr": "ESNR", "cosine": "cosine with the true one"}
COLUMNS = ["system", "world", "seed", "horizon", *QUANTITIES]
DATA_COLUMNS = ["system", "world", "quantity", "horizon", "seed", "value", "low", "high", "n"]


def draw(measured: Measured) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    figure = style.new_figure(0.4 + 1.7 * len(SYSTEMS))
    grid = figure.subplots(len(SYSTEMS), len(QUANTITIES), sharex=True, squeeze=False)
    data = []
    for row, (system, name) in zip(grid, SYSTEMS.items(), strict=True):
        own = measured.table[measured.table["system"] == system]
        for axes, quantity in zip(row, QUANTITIES, strict=True):
            data += draw_panel(axes, own, system, quantity)
        seeds = own["seed"].nunique()
        row[0].set_ylabel(f"{name} ({runs_of(seeds, seeds)})")
    for axes, title in zip(grid[0], QUANTITIES.values(), strict=True):
        axes.set_title(title)
    for axes in grid[-1]:
        axes.set_xlabel("horizon of the return, steps")
    figure.legend(handles=[look.handle() for look in LOOKS.values()], loc="outside upper center", ncols=len(LOOKS))
    return figure, pd.DataFrame(data, columns=DATA_COLUMNS)


def draw_panel(axes: Axes, table: pd.DataFrame, system: str, quantity: str) -> list[tuple]:
    """One quantity of one system: thin lines are seeds, bold ones their mean with its 95% band.

    The variance's mean is the geometric one: over so many powers of ten another would be that of the largest seed.
    """
    data, logarithmic = [], quantity == "variance"
    for world, look in LOOKS.items():
        if world == "true" and quantity == "cosine":
            continue  # 1 by definition
        curves = table[table["world"] == world].pivot(index="seed", columns="horizon", values=quantity)
        values = np.log10(curves) if logarithmic else curves
        mean, low, high = statistics.mean_curve(values.to_numpy())
        if logarithmic:
            mean, low, high = (10**x for x in (mean, low, high))
        for seed, curve in curves.iterrows():
            axes.plot(curve.index, curve, color=look.colour, linewidth=0.4, alpha=0.5)
            data += [(system, world, quantity, h, seed, x, np.nan, np.nan, 1) for h, x in curve.items()]
        line = {"color": look.colour, "marker": look.marker, "markersize": 2.5, "linestyle": look.linestyle}
        axes.plot(curves.columns, mean, **line)
        axes.fill_between(curves.columns, low, high, color=look.colour, alpha=0.2, linewidth=0)
        for row in zip(curves.columns, mean, low, high, strict=True):
            data.append((system, world, quantity, row[0], "mean", *row[1:], len(curves)))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.axhline(0, color=style.GREY, linewidth=0.6)
    axes.grid(axis="y")
    return data


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    measured = read_measured(__file__, __doc__, COLUMNS)
    style.save(*draw(measured), measured)


if __name__ == "__main__":
    main()
