"""Stiff contacts: what of its score each algorithm keeps, and its learning curves on stiff and on ordinary contacts."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pwm.errors import exit_on_user_error
from workflows.ablations import Stiffened, stiffened
from workflows.figures import style
from workflows.figures._ablations import draw_curve, draw_marks, legend
from workflows.results import Results, name_of, read_results, runs_of

CONTACTS = {"stiff": (0, (3, 1.2)), "ordinary": "-"}
COLUMNS = ["panel", "task", "algorithm", "variant", "contacts", "seed", "env_steps", "value", "low", "high"]
COLUMNS += ["n", "expected"]


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    pairs = stiffened(results)
    if not pairs:
        return style.message("This scale has no runs on stiff contacts."), pd.DataFrame(columns=COLUMNS)
    looks = {pair.algorithm: look_of(results, pair) for pair in pairs}
    figure = style.new_figure(max(2.0, 1.0 + 0.3 * len(pairs)))
    grid = figure.subplots(1, 1 + len(pairs), width_ratios=[1.5] + [1.0] * len(pairs), squeeze=False)[0]
    data = draw_ratios(grid[0], pairs, looks)
    for axes, pair in zip(grid[1:], pairs, strict=True):
        data += draw_curves(axes, pair, looks[pair.algorithm])
    grid[1].set_ylabel("return")
    lines = [Line2D([], [], color=style.GREY, linestyle=line, label=f"{x} contacts") for x, line in CONTACTS.items()]
    figure.legend(handles=legend(lines), loc="outside upper center", ncols=5)
    return figure, pd.DataFrame(data, columns=COLUMNS)


def look_of(results: Results, pair: Stiffened) -> style.Look:
    """The algorithm's look, under its plain name: which variant was run is one for the whole scale."""
    look = style.looks(results)[pair.algorithm, pair.variant]
    return style.Look(name_of(pair.algorithm, "default"), look.colour, "o", "-")


def draw_ratios(axes: Axes, pairs: list[Stiffened], looks: dict[str, style.Look]) -> list[tuple]:
    """A line for each algorithm: its score on stiff over that on ordinary contacts, in words where there is none."""
    data, labels = [], []
    for place, pair in enumerate(pairs):
        look, ratio, counts = looks[pair.algorithm], pair.ratio, (pair.stiff.have, pair.stiff.want)
        labels.append(f"{look.label}\nstiff: {runs_of(*counts)}\nordinary: {runs_of(pair.own.have, pair.own.want)}")
        identity = ("ratio", pair.task, pair.algorithm, pair.variant, "stiff")
        data.append((*identity, "all", np.nan, *ratio, *counts))
        if not pair.has_ratio:
            ran = pair.stiff.have and pair.own.have
            told = "no ratio: a score on ordinary\ncontacts is not positive" if ran else "not run"
            axes.text(0.03, place, told, transform=axes.get_yaxis_transform(), size=6, color=style.GREY, va="center")
            continue
        seeds = pair.stiff.seeds / pair.own.iqm.estimate
        draw_marks(axes, place, seeds, ratio, look, flat=True)
        data += [(*identity, str(seed), np.nan, value, np.nan, np.nan, *counts) for seed, value in enumerate(seeds)]
    axes.axvline(1, color=style.GREY, linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(pairs)), labels)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.set_xlabel("score on stiff / on ordinary contacts")
    axes.set_title(", ".join(dict.fromkeys(pair.task for pair in pairs)))
    return data


def draw_curves(axes: Axes, pair: Stiffened, look: style.Look) -> list[tuple]:
    """One algorithm's returns over environment steps on both contacts."""
    data = []
    for contacts, arm in (("stiff", pair.stiff), ("ordinary", pair.own)):
        rows = draw_curve(axes, arm.curves, color=look.colour, linestyle=CONTACTS[contacts])
        identity = ("curves", pair.task, pair.algorithm, pair.variant, contacts, "mean")
        data += [(*identity, *row, arm.have, arm.want) for row in rows]
    if not data:
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", size=6, color=style.GREY)
    axes.set_title(look.label)
    axes.set_xlabel("environment steps")
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for line in (axes.xaxis, axes.yaxis):
        line.set_major_formatter(FuncFormatter(style.thousands))
    axes.grid(axis="y")
    return data


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__, ablations=True)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
