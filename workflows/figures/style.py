"""The look of every figure, and the one way a figure is written. Sizes are for a page of two columns.

A figure is a script `workflows/figures/<stem>.py` with `draw(results) -> (figure, data)`; `data` holds what is drawn.
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from workflows.measured import Measured
from workflows.results import ALGORITHMS, PUBLISHED, REFERENCES, Results, name_of

CONFIGS = Path(__file__).resolve().parent.parent / "config"  # of the scales
COLUMN, PAGE = 3.3, 6.9  # widths in inches
DPI = 200
GREY = "#666666"
SMALL = 5.5  # points, of the smallest words
# Okabe and Ito's colours and, for algorithms not known here, the ones of Tol's that differ from them.
COLOURS = {"pwm": "#D55E00", "shac": "#009E73", "tdmpc2": "#0072B2", "ppo": "#CC79A7", "sac": "#E69F00"}
COLOURS |= {"dreamerv3": "#882255", "random": GREY, "data": "#000000"}
SPARE_COLOURS = ("#56B4E9", "#999933", "#332288", "#661100", "#44AA99", "#AA4499")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINESTYLES = ("-", (0, (4, 1.2)), (0, (1.2, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
REFERENCE_LINES = (":", "--", "-.", (0, (1, 0.8)))
HALO = [withStroke(linewidth=1.5, foreground="white")]  # keeps words legible on lines
WATERMARKED = ("test", "demo")

mpl.rcParams.update(
    {
        "font.family": "DejaVu Sans",  # comes with matplotlib, hence the same bytes on every machine
        "font.size": 7,
        "axes.titlesize": 7.5,
        "axes.labelsize": 7,
        "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5,
        "legend.fontsize": 6.5,
        "legend.frameon": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "lines.linewidth": 1.2,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",  # the watermark shines through
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.5,
        "pdf.fonttype": 42,
    }
)


@dataclass(frozen=True)
class Look:
    """How one algorithm and variant is drawn, everywhere the same within a scale."""

    label: str
    colour: str
    marker: str
    linestyle: str | tuple
    fillstyle: str = "full"  # hollow where it was not measured here

    def handle(self, **changes: object) -> Line2D:
        """A legend entry."""
        kind = {"linestyle": self.linestyle, "markersize": 3.5, **self.mark}
        return Line2D([], [], label=self.label, **(kind | changes))

    @property
    def mark(self) -> dict[str, str]:
        """How a single value is drawn."""
        return {"color": self.colour, "marker": self.marker, "fillstyle": self.fillstyle}


def looks(results: Results) -> dict[tuple[str, str], Look]:
    """A look for every algorithm and variant of a scale: colour by algorithm, marker and line by variant; and for what
    was published of each known algorithm.

    Unknown algorithms take the spare colours by name (from the start again when they run out).
    """
    pairs = results.algorithms()
    unknown = sorted({algorithm for algorithm, _ in pairs} - COLOURS.keys())
    colours = COLOURS | {name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(unknown)}
    found = {}
    there = {*results.scores["variant"]}
    for algorithm, variant in pairs:
        reference = algorithm in REFERENCES
        others = {other for name, other in pairs if (name in REFERENCES) == reference} - {"default"}
        order = ["default", *sorted(others, key=lambda name: (name not in there, name))]  # few share a marker then
        place = order.index(variant) % len(MARKERS)
        line = REFERENCE_LINES[place % len(REFERENCE_LINES)] if reference else LINESTYLES[place]
        found[algorithm, variant] = Look(name_of(algorithm, variant), colours[algorithm], MARKERS[place], line)
    for algorithm in ALGORITHMS:
        for variant, marker in zip(PUBLISHED, ("o", "D"), strict=True):
            found[algorithm, variant] = Look(name_of(algorithm, variant), colours[algorithm], marker, "none", "none")
    return found


def legend_columns(labels: Sequence[str]) -> int:
    """How many columns of such entries a legend across the page has room for."""
    points = 72 * PAGE / (max(map(len, labels), default=1) * 0.6 * mpl.rcParams["legend.fontsize"] + 38)
    return max(1, min(len(labels), int(points)))


def lines(*texts: str, width: int = 140) -> str:
    """Notes below a figure, each from a line of its own on; empty ones leave none."""
    return "\n".join(line for text in texts for line in textwrap.wrap(text, width, break_on_hyphens=False))


def hollow(source: str, variant: str = PUBLISHED[0]) -> str:
    """How a figure names the source of its hollow marks."""
    return f"{dict(zip(PUBLISHED, '○◇', strict=True))[variant]} {source}"


def new_figure(height: float, width: float = PAGE) -> Figure:
    """An empty figure, in inches; layout keeps labels from overlapping."""
    return Figure(figsize=(width, height), layout="constrained")


def message(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(1.2)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY, wrap=True)
    return figure


def say(axes: Axes, text: str) -> None:
    """Say in a panel's place why there is nothing to draw."""
    axes.set_axis_off()
    place = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, textwrap.fill(text, 40), color=GREY, **place)


def label_rows(axes: Axes, labels: Sequence[tuple[str, str]]) -> None:
    """Name rows 0, 1, … from top to bottom, each by its text in its colour."""
    axes.set_yticks(range(len(labels)), [text for text, _ in labels])
    for tick, (_, colour) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_color(colour)
    axes.set_ylim(len(labels) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)


def near(value: float, low: float, high: float) -> bool:
    """Whether a reference lies within the drawn range or so close that showing it does not squeeze the rest."""
    return 2 * low - high <= value <= 2 * high - low


def thousands(value: float, _position: int | None = None) -> str:
    """Tick text of a large number: 250k, 1.5M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}".replace("-", "−")
    return f"{value:g}".replace("-", "−")


def set_log_ticks(axes: Axes) -> None:
    """Ticks of a logarithmic horizontal axis: the fewer powers of ten it spans, the more within each."""
    low, high = axes.get_xlim()
    decades = np.log10(high / low)
    steps = (1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=8) if decades > 0.8 else MaxNLocator(3))
    axes.xaxis.set_minor_locator(NullLocator())


def watermark(figure: Figure, scale: str) -> None:
    """Name the scale behind the drawing where its numbers are not meant to be quoted."""
    if scale in WATERMARKED:
        size = min(60.0, 26 * figure.get_figheight())
        figure.text(
            0.5, 0.5, f"{scale} scale", size=size, color="#eeeeee", rotation=20, ha="center", va="center", zorder=-1
        ).set_in_layout(False)


def settle(figure: Figure) -> None:
    """Lay a figure out once and for all, to a millionth of its size.

    The last digits that the layout's solver finds differ from one time to the next, and now and then show in a pixel.
    """
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    parts = [figure]
    for part in parts:  # which grows by the parts of parts
        parts += part.subfigs
        if part is not figure:
            part.bbox_relative.set_points(part.bbox_relative.get_points().round(6))
        for axes in part.axes if part is figure else []:
            axes.set_position(Bbox(axes.get_position().get_points().round(6)))
            axes.set_in_layout(True)
        for text in part.texts:
            text.set_position(np.round(text.get_position(), 6))


def save(figure: Figure, data: pd.DataFrame, results: Results | Measured) -> None:
    """Write `<out>.pdf`, `.png` (200 dpi), `.csv`, the data drawn, and `.json`: what is needed to draw it again, the
    scale's settings included. The same bytes from the same data.
    """
    watermark(figure, results.scale)
    settle(figure)
    about = {"Commit": results.commits, "Scale": results.scale, "Command": results.command}
    keywords = "; ".join(f"{key}: {value}" for key, value in about.items())
    results.out.parent.mkdir(parents=True, exist_ok=True)
    pdf = {"Title": results.module.rpartition(".")[2], "Keywords": keywords, "CreationDate": None}
    figure.savefig(f"{results.out}.pdf", metadata=pdf)
    figure.savefig(f"{results.out}.png", dpi=DPI, metadata=about)
    data.to_csv(f"{results.out}.csv", index=False, float_format="%.8g", lineterminator="\n")
    config = CONFIGS / f"{results.scale}.yaml"
    bundle = {name.lower(): value for name, value in about.items()} | {"data": f"{results.out.name}.csv"}
    bundle["config"] = config.read_text(encoding="utf-8") if config.exists() else None
    Path(f"{results.out}.json").write_text(json.dumps(bundle, indent=2) + "\n", encoding="utf-8")
