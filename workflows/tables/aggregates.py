"""Statistics over the tasks of a suite, with 95% intervals; what differences the runs could show; published ones."""

import numpy as np
import pandas as pd

from pwm import statistics
from pwm.errors import exit_on_user_error
from workflows import published
from workflows.results import PPO_UNIT, PUBLISHED, SUITES, Aggregate, Results, count_of, name_of, read_results
from workflows.tables.common import number, write_table

METRICS = {"iqm": "IQM", "mean": "Mean", "median": "Median", "optimality_gap": "Optimality gap"}
IMPROVEMENT = "p_pwm_better"
STATISTICS = (*METRICS, IMPROVEMENT)
ALONE = {"best_iqm": "IQM, best over training", "detectable": "Detectable difference"}  # without intervals
COLUMNS = ["suite", "algorithm", "variant", "unit", "tasks", "suite_tasks", "n", "expected", "source"]
COLUMNS += [f"{name}{part}" for name in STATISTICS for part in ("", "_low", "_high")] + [*ALONE]
NOTE = (
    "Estimate [95% stratified bootstrap interval], of policies at the end of training; no interval below two runs. "
    "For the mean of normal scores the interval holds the truth in "
    f"{statistics.coverage(3, 1):.0%} of cases from 3 runs of 1 task, {statistics.coverage(3, 10):.0%} from 3 of 10 "
    f"tasks, {statistics.coverage(10, 10):.0%} from 10 of 10. "
    "n: seeds finished on all of the algorithm's tasks, of those expected. "
    "P(PWM better): that a run of PWM beats one of this algorithm on a task both ran. "
    "IQM, best over training: over tasks, of the highest point of the IQM curve. "
    "Detectable difference: the smallest true difference in mean from another algorithm, with as many runs and the "
    "same spread, that a two-sided t-test at 5% shows with 80% power; a smaller one says nothing. "
    "Published: on the tasks that the algorithm runs on here, from one mean a task, in `results/published/scores.csv`; "
    "of locomotion the best over training, in another simulator."
)


def measure(results: Results) -> pd.DataFrame:
    """One row per suite and algorithm; statistics that cannot be had are NaN."""
    none = statistics.Estimate(np.nan, np.nan, np.nan)
    rows = []
    for suite in results.suites:
        aggregates = results.aggregates(suite)
        pwm = next((row for row in aggregates if row.algorithm == "pwm"), None)
        for row in [*aggregates, *published.aggregates(results, suite)]:
            measured = row.variant not in PUBLISHED
            estimates = row.estimates | {IMPROVEMENT: (improvement(pwm, row) if measured else None) or none}
            numbers = [value for name in STATISTICS for value in estimates.get(name, none)]
            counts = (len(row.tasks), row.suite_tasks, row.have, row.want)
            detectable = statistics.detectable_difference(row.matrix) if row.estimates and measured else np.nan
            identity = (suite, row.algorithm, row.variant, row.unit, *counts, row.source)
            rows.append((*identity, *numbers, row.best, detectable))
    return pd.DataFrame(rows, columns=COLUMNS)


def improvement(pwm: Aggregate | None, other: Aggregate) -> statistics.Estimate | None:
    """Probability that PWM (its first variant) beats another algorithm on the tasks of both."""
    if pwm is None or pwm is other or not (pwm.have and other.have):
        return None
    shared = [task for task in pwm.tasks if task in other.tasks]
    if not shared:
        return None
    x, y = (row.matrix[:, [row.tasks.index(task) for task in shared]] for row in (pwm, other))
    return statistics.probability_of_improvement(x, y)


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row per suite and algorithm."""
    header = ["Suite", "Algorithm", "n", "Tasks", "Unit", *METRICS.values(), "P(PWM better)", *ALONE.values()]
    rows = []
    for row in numbers.to_dict("records"):
        runs = count_of(row["n"], row["expected"])
        tasks = f"{row['tasks']}/{row['suite_tasks']}"
        unit = "PPO = 1" if row["unit"] == PPO_UNIT else row["unit"]
        names = [SUITES.get(row["suite"], row["suite"]), name_of(row["algorithm"], row["variant"])]
        rows.append([*names, runs, tasks, unit, *(cell(row, name) for name in (*STATISTICS, *ALONE))])
    return pd.DataFrame(rows, columns=header)


def cell(row: dict, name: str) -> str:
    """`0.86 [0.84, 0.88]`, without an interval where there is none."""
    decimals = 0 if row["unit"] == "return" and name != IMPROVEMENT else 3
    value, low, high = (row.get(f"{name}{part}", np.nan) for part in ("", "_low", "_high"))
    if np.isnan(value):
        return "–"
    interval = "" if np.isnan(low) else f" [{number(low, decimals)}, {number(high, decimals)}]"
    return number(value, decimals) + interval


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    _, not_normalised = results.comparable_scores()
    reason = f" Locomotion is not normalised: {not_normalised}." if not_normalised else ""
    write_table(results, numbers, set_cells(numbers), NOTE + reason)


if __name__ == "__main__":
    main()
