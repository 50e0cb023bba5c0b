"""Scores per task and algorithm: mean ± standard deviation over seeds, and the number of runs."""

import pandas as pd

from pwm.errors import exit_on_user_error
from workflows.results import SUITES, Results, name_of, read_results
from workflows.tables.common import number, write_table

COLUMNS = ["suite", "task", "unit", "algorithm", "variant", "mean", "std", "n", "expected"]
NOTE = (
    "Mean ± sample standard deviation over seeds (number of runs; 2/3: two of three expected). "
    "A dash: not asked for at this scale."
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
                    rows.append((*identity, scores.mean(), scores.std(ddof=1), have, want))
    return pd.DataFrame(rows, columns=COLUMNS)


def unit_of(suite: str, task: str) -> str:
    """What a score of the task counts."""
    if suite == "locomotion":
        return "return"
    return "success" if task.startswith("mw-") else "return / 1000"


def set_cells(numbers: pd.DataFrame, results: Results) -> pd.DataFrame:
    """A row per task and a column per algorithm and variant."""
    pairs = results.algorithms()
    header = ["Suite", "Task", "Unit", *(name_of(*pair) for pair in pairs)]
    rows = []
    for (suite, task, unit), group in numbers.groupby(["suite", "task", "unit"], sort=False):
        by_pair = {(row.algorithm, row.variant): cell(row) for row in group.itertuples()}
        rows.append([SUITES.get(suite, suite), task, unit, *(by_pair.get(pair, "–") for pair in pairs)])
    return pd.DataFrame(rows, columns=header)


def cell(row: object) -> str:
    """`0.861 ± 0.012 (3)`; no deviation of a single run."""
    if not row.n:
        return f"not run (0/{row.expected})"
    decimals = 0 if row.unit == "return" else 3
    spread = f" ± {number(row.std, decimals)}" if row.n > 1 else ""
    runs = row.n if row.n == row.expected else f"{row.n}/{row.expected}"
    return f"{number(row.mean, decimals)}{spread} ({runs})"


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers, results), NOTE)


if __name__ == "__main__":
    main()
