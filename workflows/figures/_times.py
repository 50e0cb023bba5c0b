"""What the figures of wall times share."""

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from workflows import published
from workflows.figures import style


def set_log_axis(axes: Axes, label: str) -> None:
    """A logarithmic axis of what is drawn: times and rates differ by powers of ten between machines and algorithms."""
    axes.set_xscale("log")
    style.set_log_ticks(axes)
    axes.xaxis.set_major_formatter(FuncFormatter(style.thousands))
    axes.grid(axis="x")
    axes.set_xlabel(label)


def draw_published_minutes(axes: Axes, words: bool) -> None:
    """Mark what was published of an extraction's minutes across the panel; `words` says there what it is."""
    for row in published.extraction_minutes().itertuples(index=False):
        if row.low == row.high:
            axes.axvline(row.low, color=style.GREY, linewidth=0.8, linestyle="--")
        else:
            axes.axvspan(row.low, row.high, facecolor="none", edgecolor=style.GREY, linewidth=0.5, hatch="//////")
        if words:
            text = {"ha": "left", "va": "bottom", "size": style.SMALL, "color": style.GREY}
            axes.text(row.low, 1.02, f"{row.quantity}\n({row.source})", transform=axes.get_xaxis_transform(), **text)
