"""Learning curves of several runs: on a common grid, their best, and sample efficiency."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pwm import statistics
from pwm.errors import UserError


def common_curves(curves: pd.DataFrame, axis: str, value: str = "return") -> tuple[np.ndarray, np.ndarray]:
    """One task's and algorithm's curves on a common grid: `(grid [P], values [runs, P])`, rows by seed.

    The grid holds every point of every run between the latest first and the earliest last one, so that no run is
    continued past its end; between its own points a run is interpolated linearly.
    """
    runs = [run.dropna(subset=[value]).sort_values(axis) for _, run in curves.groupby("seed")]
    runs = [run for run in runs if len(run)]
    if not runs:
        return np.empty(0), np.empty((0, 0))
    first, last = max(run[axis].iloc[0] for run in runs), min(run[axis].iloc[-1] for run in runs)
    points = np.unique(np.concatenate([run[axis].to_numpy(dtype=float) for run in runs]))
    grid = points[(points >= first) & (points <= last)]
    return grid, np.array([np.interp(grid, run[axis], run[value]) for run in runs])


def best_over_training(curves: pd.DataFrame, value: str = "return") -> float:
    """Highest point of the IQM over runs along the training of one task and algorithm; NaN without a curve."""
    _, values = common_curves(curves, "updates", value)
    return max((float(statistics.METRICS["iqm"](runs[None])) for runs in values.T), default=np.nan)


def sample_efficiency(
    curves: pd.DataFrame,
    tasks: Sequence[str],
    axis: str = "env_steps",
    value: str = "score",
    points: int = 51,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """IQM over runs and tasks along training, with a pointwise 95% band (NaN below 2 runs).

    Args:
        curves: rows of one algorithm and variant.
        tasks: tasks to take in; each needs the same number of runs.
        axis: `env_steps`, `updates` or a column of times.
        value: the column measured, in a unit that all tasks share.

    Returns: grid, IQM, lower and upper band, each `[points]`, over the range that all runs cover.

    Raises:
        UserError: a task has another number of runs than the others, or runs that do not overlap in `axis`.
    """
    by_task = {task: common_curves(curves[curves["task"] == task], axis, value) for task in tasks}
    counts = {task: len(values) for task, (_, values) in by_task.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        told = ", ".join(f"{task} {count}" for task, count in counts.items())
        raise UserError(f"sample efficiency needs as many runs on every task, and there are: {told}")
    low = max(grid[0] if len(grid) else np.inf for grid, _ in by_task.values())
    high = min(grid[-1] if len(grid) else -np.inf for grid, _ in by_task.values())
    if low > high:
        raise UserError(f"sample efficiency needs runs that overlap in {axis}, and these do not")
    common = np.linspace(low, high, points)
    cube = np.empty((counts[tasks[0]], len(tasks), points))
    for index, task in enumerate(tasks):
        grid, values = by_task[task]
        cube[:, index] = [np.interp(common, grid, run) for run in values]

    return common, *statistics.iqm_curve(cube)
