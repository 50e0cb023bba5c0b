"""What the figures of aggregates share: a line per algorithm, with IQM, its interval, mean and best over training."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from workflows import published
from workflows.figures import style
from workflows.results import PPO_UNIT, PUBLISHED, SUITES, Aggregate, Results, runs_of

LINE, FRAME = 0.2, 0.75  # inches: of an algorithm, of a panel's axis and title
DATA_COLUMNS = ["panel", "suite", "algorithm", "variant", "statistic", "value", "low", "high", "unit"]
DATA_COLUMNS += ["tasks", "suite_tasks", "n", "expected", "source"]


def tasks_of(name: str, tasks: int) -> str:
    """A panel's title: what it shows, and on how many tasks."""
    return f"{name}, {tasks} task{'s' if tasks > 1 else ''}" if tasks else name


def title_of(results: Results, suite: str, rows: Sequence[Aggregate]) -> str:
    """A suite's title, which says so where the scale has no runs of it and what was published stands there alone."""
    tasks = results.tasks(suite)
    if tasks or not rows:
        return tasks_of(SUITES[suite], len(tasks))
    return f"{tasks_of(SUITES[suite], rows[0].suite_tasks)}: not run"


def why_empty(results: Results, suite: str, rows: Sequence[Aggregate]) -> str:
    """Why there is nothing to draw; empty where there is, be it what was published of a suite that is not run here."""
    if suite not in results.suites:
        return "" if rows else f"This scale has no {SUITES[suite]} runs."
    if any(row.estimates for row in rows if row.variant not in PUBLISHED):
        return ""
    reason = results.comparable_scores()[1] if suite == "locomotion" else ""
    return f"No aggregate: {reason or 'no algorithm has finished a seed on all of its tasks.'}"


def data_rows(panel: str, row: Aggregate) -> list[tuple]:
    """What is drawn of an algorithm, in `DATA_COLUMNS`."""
    identity = (panel, row.suite, row.algorithm, row.variant)
    rest = (row.unit, len(row.tasks), row.suite_tasks, row.have, row.want, row.source)
    drawn = {name: row.estimates[name] for name in ("iqm", "mean")} | {"best_iqm": (row.best, None, None)}
    return [(*identity, name, *estimate, *rest) for name, estimate in drawn.items() if estimate[0] == estimate[0]]


def draw_aggregates(axes: Axes, panel: str, rows: Sequence[Aggregate], looks: dict) -> list[tuple]:
    """One line per algorithm: IQM (dot) with its interval (bar), mean (tick), IQM of the best over training (wedge)."""
    data = []
    for place, row in enumerate(rows):
        look = looks[row.algorithm, row.variant]
        if not row.estimates:
            continue
        data += data_rows(panel, row)
        value, low, high = row.estimates["iqm"]
        axes.plot([low, high], [place, place], color=look.colour, linewidth=2.5, alpha=0.45, solid_capstyle="butt")
        mean = row.estimates["mean"].estimate
        axes.plot(mean, place, "|", color=look.colour, markersize=8, markeredgewidth=1.2)
        axes.plot(row.best, place - 0.32, "v", color=look.colour, markersize=3)
        axes.plot(value, place, markersize=5, **look.mark)
    drawn = [(looks[row.algorithm, row.variant], row_note(row)) for row in rows]
    style.label_rows(axes, [(f"{look.label} ({note})", look.colour) for look, note in drawn])
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")
    if rows[0].unit == PPO_UNIT:
        axes.axvline(1, color=style.GREY, linewidth=0.6, linestyle=":")
    return data


def row_note(row: Aggregate) -> str:
    """Runs, and tasks where the algorithm is not meant to have run on all of the suite's."""
    details = ["no seed complete" if row.started and not row.have else runs_of(row.have, row.want)]
    if len(row.tasks) < row.suite_tasks:
        details.append(f"{len(row.tasks)}/{row.suite_tasks} tasks")
    return ", ".join(details)


def handles() -> list[Line2D]:
    """The legend of the marks."""
    mark = {"color": style.GREY, "linestyle": "none"}
    return [
        Line2D([], [], marker="o", markersize=5, label="IQM", **mark),
        Line2D([], [], color=style.GREY, alpha=0.45, linewidth=2.5, label="95% interval"),
        Line2D([], [], marker="|", markersize=8, markeredgewidth=1.2, label="mean", **mark),
        Line2D([], [], marker="v", markersize=3, label="IQM, best over training", **mark),
    ]


def published_minutes() -> str:
    """What the marks of published times mean."""
    told = []
    for row in published.extraction_minutes().itertuples(index=False):
        mark, minutes = ("┆", f"{row.low:g}") if row.low == row.high else ("▨", f"{row.low:g} to {row.high:g}")
        told.append(f"{mark} {row.quantity}: {minutes} minutes ({row.source})")
    return "; ".join(told)


def sources(rows: Sequence[Aggregate]) -> list[str]:
    """Where hollow marks come from."""
    return list(dict.fromkeys(style.hollow(row.source, row.variant) for row in rows if row.variant in PUBLISHED))
