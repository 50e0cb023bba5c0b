"""Scores per task and algorithm: mean ± standard deviation over seeds, the number of runs, and published scores."""

import numpy as np
import pandas as pd

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.results import ALGORITHMS, PPO_UNIT, PUBLISHED, SUITES, Results, count_of, name_of, read_results, unit_of
from workflows.tables.common import number, write_table

COLUMNS = ["suite", "task", "unit", "algorithm", "variant", "mean", "std", "n", "expected", "source"]
NOTE = (
    "Mean ± sample standard deviation over seeds (number of runs; 2/3: two of three expected), of policies at the end "
    "of training. A dash: not asked for at this scale, or not published. Published: `results/published/scores.csv`; "
    "locomotion is another simulator's and the best over training, in units of PPO's."
)


def measure(results: Results) -> pd.DataFrame:
    """One row per task and algorithm with runs, there or expected. `std` is NaN below two runs."""
    rows = []
    for suite in results.suites:
        for task in results.tasks(suite):
            for algorithm, variant in results.algorithms(suite):
                have, want = results.count(suite, task, algorithm, variant)
                if want:
                    chosen = "suite == @suite and task == @task and algorithm == @algorithm and variant == @variant"
                    scores = results.scores.query(chosen)["score"]
                    identity = (suite, task, unit_of(suite, task), algorithm, variant)
                    rows.append((*identity, scores.mean(), scores.std(ddof=1), have, want, "measured"))
            for row in published.scores().query("suite == @suite and task == @task").itertuples():
                unit = PPO_UNIT if suite == "locomotion" else unit_of(suite, task)
                identity = (suite, task, unit, row.algorithm, PUBLISHED[0])
                source = f"{row.source}: {row.statistic}"
                rows.append((*identity, row.score, np.nan, row.n_runs, row.n_runs, source))
    return pd.DataFrame(rows, columns=COLUMNS)


def set_cells(numbers: pd.DataFrame, results: Results) -> pd.DataFrame:
    """A row per task and a column per algorithm and variant."""
    known = {*numbers.loc[numbers["variant"] == PUBLISHED[0], "algorithm"]}
    published_of = [algorithm for algorithm in ALGORITHMS if algorithm in known]
    pairs = [*results.algorithms(), *((algorithm, PUBLISHED[0]) for algorithm in published_of)]
    header = ["Suite", "Task", "Unit", *(name_of(*pair) for pair in pairs)]
    rows = []
    for (suite, task), group in numbers.groupby(["suite", "task"], sort=False):
        by_pair = {(row.algorithm, row.variant): cell(row) for row in group.itertuples()}
        line = [SUITES.get(suite, suite), task, unit_of(suite, task)]
        rows.append([*line, *(by_pair.get(pair, "–") for pair in pairs)])
    return pd.DataFrame(rows, columns=header)


def cell(row: object) -> str:
    """`0.861 ± 0.012 (3)`; no deviation of a single run."""
    if not row.n:
        return f"not run (0/{row.expected})"
    decimals = 0 if row.unit == "return" else 3
    spread = "" if np.isnan(row.std) else f" ± {number(row.std, decimals)}"
    runs = count_of(row.n, row.expected)
    unit = " × PPO" if row.unit == PPO_UNIT else ""
    return f"{number(row.mean, decimals)}{spread}{unit} ({runs})"


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers, results), NOTE)


if __name__ == "__main__":
    main()
