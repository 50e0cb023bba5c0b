"""Minutes that the extraction of a policy takes, task by task, against the paper's promise and its published runs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.figures import style
from workflows.figures._times import draw_published_minutes, set_log_axis
from workflows.results import SUITES, Results, read_results

PANELS = ("mt30", "mt80")  # where policies are extracted from finished world models
COLUMNS = ["suite", "task", "variant", "minutes", "low", "high", "n", "expected", "source"]


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    table = measure(results)
    if table.empty:
        return style.message("This scale has no MT30 and no MT80 runs of PWM."), table
    rows, looks = list(table.groupby(["suite", "variant"], sort=False)), style.looks(results)
    figure = style.new_figure(0.9 + 0.4 * len(rows))
    axes = figure.subplots()
    promise = published.extraction_minutes().set_index("quantity").loc["promise"]
    for place, ((_, variant), own) in enumerate(rows):
        draw_row(axes, own, place, looks["pwm", variant], promise["high"])
    labels = [
        (f"{SUITES[suite]}, {looks['pwm', variant].label}", looks["pwm", variant].colour)
        for (suite, variant), _ in rows
    ]
    style.label_rows(axes, labels)
    draw_published_minutes(axes, words=True)
    label = "minutes of training; small marks: tasks, means over runs; large: their median"
    set_log_axis(axes, style.lines(label, results.not_run(*PANELS), width=110))
    others = [{"minutes": np.nan, **row} for row in published.extraction_minutes().to_dict("records")]
    return figure, pd.concat([table, pd.DataFrame(others).rename(columns={"quantity": "variant"})], ignore_index=True)


def measure(results: Results) -> pd.DataFrame:
    """For every task and variant of PWM the mean, the shortest and the longest training of its runs."""
    rows = []
    for suite in PANELS:
        for variant in [variant for algorithm, variant in results.drawn(suite) if algorithm == "pwm"]:
            chosen = "suite == @suite and algorithm == 'pwm' and variant == @variant"
            minutes = results.times.query(chosen).groupby("task")["train_minutes"].agg(["mean", "min", "max"])
            for task in results.runs.query(chosen)["task"].unique():
                times = minutes.loc[task] if task in minutes.index else [np.nan] * 3
                rows.append((suite, task, variant, *times, *results.count(suite, task, "pwm", variant), "measured"))
    return pd.DataFrame(rows, columns=COLUMNS)


def draw_row(axes: Axes, own: pd.DataFrame, place: int, look: style.Look, promise: float) -> None:
    """A suite's tasks from top to bottom in their order; in words how many kept the promise, and which took longest."""
    done = own.dropna(subset=["minutes"])
    words = {"size": 6, "color": look.colour, "va": "center"}
    missing = "" if len(done) == len(own) else f" (of {len(own)}: the others not run)"
    text = f"{(done['high'] < promise).sum()} of {len(done)}{missing}\nunder {promise:g} min"
    axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), **words)
    if done.empty:
        return
    heights = place + np.linspace(-0.3, 0.3, len(own) + 2)[1:-1]
    axes.plot(own["minutes"], heights, "o", color=look.colour, markersize=2, alpha=0.6, markeredgewidth=0)
    axes.plot(own["minutes"].median(), place, markersize=5, **look.mark)
    longest = done["minutes"].idxmax()
    spot = (done.loc[longest, "minutes"], heights[own.index.get_loc(longest)])
    axes.annotate(done.loc[longest, "task"], spot, (6, 0), textcoords="offset points", **words | {"size": style.SMALL})


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
