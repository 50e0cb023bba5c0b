"""Ball over a wall: the true landscape and those of fitted networks, and the throws that ascent through each finds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pwm import statistics
from pwm.errors import exit_on_user_error
from workflows.figures import style
from workflows.measured import Measured, read_measured
from workflows.results import runs_of

COLUMNS = ["part", "model", "seed", "start_deg", "angle_deg", "model_m", "true_m"]
LOOKS = {
    "true": style.Look("true distance", "#000000", "o", "-"),
    "mlp": style.Look("plain MLP", "#999933", "s", style.LINESTYLES[1]),
    "simnorm": style.Look("SimNorm latent", "#882255", "^", style.LINESTYLES[2]),
    "simnorm_layernorm": style.Look("SimNorm, LayerNorm", "#332288", "D", style.LINESTYLES[3]),
}
DATA_COLUMNS = ["panel", "model", "seed", "start_deg", "angle_deg", "distance_m", "low", "high", "n"]


def draw(measured: Measured) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    figure = style.new_figure(2.7)
    panels = [["landscape", "distance"], ["angle", "distance"]]
    axes = figure.subplot_mosaic(panels, width_ratios=[1.5, 1], height_ratios=[3, 1])
    axes["angle"].sharex(axes["landscape"])
    table = dict([*measured.table.groupby("part")])
    data = [*draw_landscape(axes["landscape"], table["landscape"]), *draw_angles(axes["angle"], table["ascent"])]
    data += draw_distances(axes["distance"], table["ascent"], table["landscape"])
    chosen = Line2D([], [], color=style.GREY, marker="D", fillstyle="none", linestyle="none", label="best by the model")
    handles = [*(look.handle() for look in LOOKS.values()), chosen]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure, pd.DataFrame(data, columns=DATA_COLUMNS)


def draw_landscape(axes: Axes, table: pd.DataFrame) -> list[tuple]:
    """Distance over angle: the mean over seeds, and one standard deviation to either side."""
    data = []
    for model, look in LOOKS.items():
        curves = table[table["model"] == model].pivot(index="seed", columns="angle_deg", values="model_m")
        mean, spread = curves.mean(), curves.std() if len(curves) > 1 else curves.mean() * np.nan
        axes.plot(mean.index, mean, color=look.colour, linestyle=look.linestyle, zorder=2 if model == "true" else 3)
        axes.fill_between(mean.index, mean - spread, mean + spread, color=look.colour, alpha=0.2, linewidth=0)
        for row in zip(mean.index, mean, mean - spread, mean + spread, strict=True):
            data.append(("landscape", model, "mean", np.nan, *row, len(curves)))
    axes.set_xlim(0, 90)
    axes.set_ylabel("distance, m")
    axes.tick_params(labelbottom=False)
    axes.grid(axis="y")
    return data


def draw_angles(axes: Axes, table: pd.DataFrame) -> list[tuple]:
    """The angles that ascents end at, a faint mark for each start and seed, in a line for each model."""
    data = []
    for place, (model, look) in enumerate(LOOKS.items()):
        own = table[table["model"] == model]
        axes.plot(own["angle_deg"], np.full(len(own), place), "|", color=look.colour, markersize=5, alpha=0.25)
        for row in own.itertuples():
            data.append(("angle", model, row.seed, row.start_deg, row.angle_deg, row.true_m, np.nan, np.nan, 1))
    axes.set_ylim(len(LOOKS) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xticks(range(0, 91, 15))
    axes.set_xlabel("angle of the throw, degrees")
    axes.set_ylabel("reached")
    return data


def draw_distances(axes: Axes, table: pd.DataFrame, landscape: pd.DataFrame) -> list[tuple]:
    """True distance at the angles reached: of seeds, averaged over starts, and of their mean with its interval; hollow,
    where the model finds the throw best that its ascents reached.
    """
    data = []
    truth = landscape[landscape["model"] == "true"]
    for value, words, line in ((truth["true_m"].max(), "best", ":"), (truth["true_m"].mean(), "average", "--")):
        axes.axvline(value, color=style.GREY, linewidth=0.7, linestyle=line)
        axes.text(value, -0.65, words, ha="center", va="bottom", size=6, color=style.GREY)
        data.append(("distance", words, "", np.nan, np.nan, value, np.nan, np.nan, 1))
    for place, (model, look) in enumerate(LOOKS.items()):
        own = table[table["model"] == model]
        seeds = own.groupby("seed")["true_m"].mean()
        chosen = own.loc[own.groupby("seed")["model_m"].idxmax()]["true_m"].mean()
        mean, low, high = (bound[0] for bound in statistics.mean_curve(seeds.to_numpy()[:, None]))
        axes.plot([low, high], [place, place], color=look.colour, linewidth=2.5, alpha=0.45, solid_capstyle="butt")
        axes.plot(seeds, np.full(len(seeds), place + 0.22), ".", color=look.colour, markersize=3)
        axes.plot(mean, place, look.marker, color=look.colour, markersize=5)
        axes.plot(chosen, place, look.marker, color=look.colour, markersize=5, fillstyle="none")
        data.append(("distance", model, "mean", np.nan, np.nan, mean, low, high, len(seeds)))
        data.append(("chosen", model, "mean", np.nan, np.nan, chosen, np.nan, np.nan, len(seeds)))
        data += [("distance", model, seed, np.nan, np.nan, value, np.nan, np.nan, 1) for seed, value in seeds.items()]
    counts = [table[table["model"] == model]["seed"].nunique() for model in LOOKS]
    style.label_rows(axes, [(runs_of(n, n), look.colour) for n, look in zip(counts, LOOKS.values(), strict=True)])
    axes.grid(axis="x")
    axes.set_xlabel("true distance reached by ascent, m")
    return data


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    measured = read_measured(__file__, __doc__, COLUMNS)
    style.save(*draw(measured), measured)


if __name__ == "__main__":
    main()
