"""Statistics of scores and learning curves: the one seeded door to rliable.

rliable 1.2.0 ignores its `random_state` argument and draws from NumPy's global generator, so that only
`numpy.random.seed` makes an interval repeat; and from one run per task it makes an interval of zero width without a
word. Every interval of the project is therefore made here: seeded, with the caller's global generator put back, and
NaN where fewer than two runs would have to speak for all. Method: Agarwal et al. 2021, *Deep Reinforcement Learning at
the Edge of the Statistical Precipice*.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rliable import library as rly
from rliable import metrics
from scipy import stats

from pwm.errors import UserError
from pwm.integrity import check_listed

REPS = 2000  # bootstrap resamples
CONFIDENCE = 0.95
POWER = 0.8  # with which a test is to find a difference
RUN_KEYS = ["suite", "task", "algorithm", "variant", "seed"]  # what names a run within a scale
SCORE_COLUMNS = ["scale", *RUN_KEYS, "score", "return_mean", "return_std", "success_last", "success_any", "episodes"]
SCORE_COLUMNS += ["env_steps", "updates", "train_wall_s", "eval_wall_s", "device", "simulator", "commit"]
GAIT_COLUMNS = ["terminated", "speed"]  # of locomotion; files of before do not have them
CURVE_COLUMNS = ["scale", *RUN_KEYS, "env_steps", "updates", "wall_time_s", "return", "success"]
CURVE_COLUMNS += ["start_value", "discounted_return"]  # PWM's own: what the critic promises, what came of it
EXPECTED_COLUMNS = [*RUN_KEYS, "batch_size", "model_updates", "model_horizon"]  # what ablations vary of PWM's
TEXT_COLUMNS = ("scale", "suite", "task", "algorithm", "variant", "device", "simulator", "commit")


class Estimate(NamedTuple):
    """A statistic with its 95% interval; `low` and `high` are NaN where fewer than two runs were made."""

    estimate: float
    low: float
    high: float


def load_scores(path: Path | str) -> pd.DataFrame:
    """Read `scores.csv`, one row a run.

    Raises:
        UserError: no such file, a missing column, a run that occurs twice, a score that is no finite number.
    """
    scores = _load(path, SCORE_COLUMNS, required=("seed", "score", "return_mean"), optional=GAIT_COLUMNS)
    _refuse_duplicates(path, scores, RUN_KEYS)
    return scores


def load_curves(path: Path | str) -> pd.DataFrame:
    """Read `curves.csv`, rows of learning curves by run and step; `return` is NaN where nothing was evaluated.

    Raises:
        UserError: as `load_scores`; a point that occurs twice.
    """
    curves = _load(path, CURVE_COLUMNS, required=("seed", "env_steps", "updates", "wall_time_s"))
    _refuse_duplicates(path, curves, [*RUN_KEYS, "env_steps", "updates"])
    return curves


def load_expected(path: Path | str) -> pd.DataFrame:
    """Read `expected.csv`: every run that the scale's matrix asks for."""
    expected = _load(path, EXPECTED_COLUMNS, required=("seed",))
    _refuse_duplicates(path, expected, RUN_KEYS)
    return expected


def _load(
    path: Path | str, columns: Sequence[str], required: Sequence[str], optional: Sequence[str] = ()
) -> pd.DataFrame:
    """Read a CSV file: every column that is not text numeric, those in `required` finite, `optional` ones if there."""
    try:
        check_listed(Path(path))
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the rule that collates the runs first") from None
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(
            f"{path} cannot be read as CSV ({' '.join(str(error).split())}): collate the runs again"
        ) from None
    if missing := [column for column in columns if column not in table]:
        raise UserError(f"{path} has no column {', '.join(missing)}: collate the runs again")
    table = table.reindex(columns=[*columns, *optional])
    for column in [column for column in table if column not in TEXT_COLUMNS]:
        values = pd.to_numeric(table[column], errors="coerce")
        wrong = values.isna() & table[column].notna()
        if column in required:
            wrong = ~np.isfinite(values)
        if wrong.any():
            row = table[wrong].iloc[0]
            told = f"{column} of {describe(row)} is {row[column]}, not a finite number"
            raise UserError(f"{path}: {told}: run it again and collate")
        table[column] = values
    return table.astype({"seed": int})


def _refuse_duplicates(path: Path | str, table: pd.DataFrame, keys: list[str]) -> None:
    twice = table[table.duplicated(keys)]
    if len(twice):
        raise UserError(f"{path} holds {describe(twice.iloc[0])} twice: keep one of the rows")


def describe(run: Mapping) -> str:
    """`suite/task/algorithm/variant seed k`, as messages name a run."""
    return f"{run['suite']}/{run['task']}/{run['algorithm']}/{run['variant']} seed {run['seed']}"


def score_matrix(
    scores: pd.DataFrame,
    suite: str,
    algorithm: str,
    variant: str,
    tasks: Sequence[str],
    seeds: Sequence[int] | None = None,
) -> np.ndarray:
    """Scores `[runs, tasks]` of one algorithm, in the order of `seeds` (default: all that occur, sorted) and `tasks`.

    Raises:
        UserError: a run that the rectangle needs is not there.
    """
    chosen = scores.query("suite == @suite and algorithm == @algorithm and variant == @variant and task in @tasks")
    seeds = sorted(chosen["seed"].unique()) if seeds is None else seeds
    by_run = chosen.set_index(["seed", "task"])["score"]
    for seed in seeds:
        for task in tasks:
            if (seed, task) not in by_run.index:
                run = describe({"suite": suite, "task": task, "algorithm": algorithm, "variant": variant, "seed": seed})
                raise UserError(f"there is no score of {run}: run it, or leave the seed out everywhere")
    return np.array([[by_run[seed, task] for task in tasks] for seed in seeds], dtype=float).reshape(
        len(seeds), len(tasks)
    )


def ppo_units(scores: pd.DataFrame) -> pd.Series:
    """PPO's mean score (variant `default`) on each locomotion task, the unit of the suite's scores.

    Raises:
        UserError: PPO has no run on a task, or a mean that is not positive, by which division would turn the order.
    """
    locomotion = scores[scores["suite"] == "locomotion"]
    own = locomotion[(locomotion["algorithm"] == "ppo") & (locomotion["variant"] == "default")]
    unit = own.groupby("task")["score"].mean()
    for task in locomotion["task"].unique():
        if task not in unit:
            raise UserError(
                f"PPO has no run on {task}, and its mean is the unit of locomotion scores: run ppo on {task}"
            )
        if unit[task] <= 0:
            raise UserError(
                f"PPO's mean score on {task} is {unit[task]:.4g} and a unit must be positive: train PPO longer"
            )
    return unit


def normalise_by_ppo(scores: pd.DataFrame) -> pd.DataFrame:
    """Divide every locomotion score by its task's unit (`ppo_units`, whose errors it raises); others stay."""
    locomotion = scores["suite"] == "locomotion"
    normalised = scores.copy()
    normalised.loc[locomotion, "score"] /= scores.loc[locomotion, "task"].map(ppo_units(scores))
    return normalised


def detectable_difference(matrix: np.ndarray) -> float:
    """The smallest true difference in mean score that such runs would show; NaN below 2 runs.

    Of another algorithm with as many runs and the same spread, by a two-sided t-test at 5 % with 80 % power:
    (t_{0.975} + t_{0.8}) s √(2 / nT) with 2T(n − 1) degrees of freedom, where s² is the variance between runs, pooled
    over tasks.

    Args:
        matrix: scores `[n runs, T tasks]`.
    """
    runs, tasks = matrix.shape
    if runs < 2:
        return np.nan
    quantiles = stats.t.ppf([(1 + CONFIDENCE) / 2, POWER], 2 * tasks * (runs - 1))
    return float(quantiles.sum() * np.sqrt(matrix.var(axis=0, ddof=1).mean() * 2 / (runs * tasks)))


def coverage(runs: int, tasks: int) -> float:
    """How often the 95% interval of the mean of `[runs, tasks]` normal scores holds the truth: in less than 95 %.

    Resampling n runs a task finds a variance too small by (n − 1) / n, and takes it for known.
    """
    bound = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((runs - 1) / runs)
    return float(1 - 2 * stats.t.sf(bound, tasks * (runs - 1)))


def optimality_gap(matrix: np.ndarray) -> float:
    """By how much scores fall short of 1 on average, those above 1 counting as 1; `matrix` is `[runs, tasks]`."""
    return metrics.aggregate_optimality_gap(matrix, gamma=1.0)


METRICS: dict[str, Callable[[np.ndarray], float]] = {
    "iqm": metrics.aggregate_iqm,
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "optimality_gap": optimality_gap,
}


def check_matrices(*matrices: np.ndarray) -> None:
    """Refuse scores that are not `[runs, tasks]`, have gaps, or are of other numbers of tasks (as a transposed one is).

    `score_matrix` makes them from named runs and tasks, so that rows and columns cannot change places.

    Raises:
        ValueError: says which.
    """
    shapes = ", ".join(str(matrix.shape) for matrix in matrices)
    if any(matrix.ndim != 2 or not matrix.size for matrix in matrices):
        raise ValueError(f"scores must be [runs, tasks], not {shapes}")
    if len({matrix.shape[1] for matrix in matrices}) > 1:
        raise ValueError(f"scores to compare must be of the same tasks, not {shapes}")
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        raise ValueError("scores have gaps: leave the seeds out that are not finished on all tasks")


def aggregate(
    matrix: np.ndarray, names: Sequence[str] = tuple(METRICS), reps: int = REPS, seed: int = 0
) -> dict[str, Estimate]:
    """The named metrics of scores `[runs, tasks]`, with 95% stratified bootstrap intervals (none below 2 runs).

    Raises:
        ValueError: the matrix is not complete (`check_matrices`).
    """
    check_matrices(matrix)

    def measure(sample: np.ndarray) -> np.ndarray:
        return np.array([METRICS[name](sample) for name in names])

    values, low, high = _bootstrap(measure, matrix, reps, seed)
    return {name: Estimate(*map(float, row)) for name, *row in zip(names, values, low, high, strict=True)}


def probability_of_improvement(x: np.ndarray, y: np.ndarray, reps: int = REPS, seed: int = 0) -> Estimate:
    """P(X > Y) + P(X = Y) / 2 for one run of each on one task, averaged over tasks; `x`, `y` are `[runs, tasks]`.

    The Mann–Whitney statistic of rliable's metric of this name, written out: that one tests as well, which costs
    about a millisecond per task and resample. Raises as `aggregate`, and where the tasks are not as many.
    """
    check_matrices(x, y)

    def measure(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.array([(1 + np.sign(x[:, None] - y[None])).mean() / 2])

    values, low, high = _bootstrap(measure, [x, y], reps, seed)
    return Estimate(float(values[0]), float(low[0]), float(high[0]))


def contrast(measure: Callable[..., float], samples: Sequence[np.ndarray], reps: int = REPS, seed: int = 0) -> Estimate:
    """A number made of several groups of runs, such as a difference of IQMs, with its 95% bootstrap interval.

    Args:
        measure: takes as many arrays `[runs, tasks]` as there are samples.
        samples: scores of each group `[runs, tasks]`; runs are drawn anew in every group by itself.

    Raises:
        ValueError: as `probability_of_improvement`.
    """
    check_matrices(*samples)
    value, low, high = _bootstrap(lambda *drawn: np.array([measure(*drawn)]), list(samples), reps, seed)
    return Estimate(float(value[0]), float(low[0]), float(high[0]))


def performance_profile(
    matrices: Mapping[str, np.ndarray], taus: np.ndarray, reps: int = REPS, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Share of runs whose score exceeds each of `taus`, with a pointwise 95% band (NaN below 2 runs).

    Args:
        matrices: scores `[runs, tasks]` by name.
        taus: thresholds `[K]`.

    Returns: by name the profile, its lower and its upper band, each `[K]`. Raises as `aggregate`.
    """
    for matrix in matrices.values():
        check_matrices(matrix)

    def measure(sample: np.ndarray) -> np.ndarray:
        return (sample[..., None] > taus).mean(axis=(0, 1))

    return {name: _bootstrap(measure, matrix, reps, seed) for name, matrix in matrices.items()}


def mean_curve(curves: np.ndarray, reps: int = REPS, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of curves `[runs, K]` with a pointwise 95% band (NaN below 2 runs): three arrays `[K]`."""
    return _bootstrap(lambda sample: sample.mean(axis=(0, 1)), curves[:, None], reps, seed)


def iqm_curve(curves: np.ndarray, reps: int = REPS, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM over runs and tasks of curves `[runs, tasks, K]`, with a pointwise 95% band as `mean_curve` has."""

    def measure(sample: np.ndarray) -> np.ndarray:
        return stats.trim_mean(sample.reshape(-1, sample.shape[-1]), 0.25, axis=0)  # rliable's IQM, of all K at once

    return _bootstrap(measure, curves, reps, seed)


def _bootstrap(
    measure: Callable[..., np.ndarray], scores: np.ndarray | list[np.ndarray], reps: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`measure` (1-D) of scores `[runs, tasks, ...]`, or of a list of such, with the bounds of its 95% interval.

    Runs are drawn with replacement within each task (stratified percentile bootstrap).
    """
    samples = scores if isinstance(scores, list) else [scores]
    if min(sample.shape[0] for sample in samples) < 2:
        values = measure(*samples)
        return values, np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    with _seeded(seed):
        values, bounds = rly.get_interval_estimates(
            {"": scores}, measure, reps=reps, confidence_interval_size=CONFIDENCE
        )
    return values[""], bounds[""][0], bounds[""][1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, the only one rliable draws from, and put its old state back afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
