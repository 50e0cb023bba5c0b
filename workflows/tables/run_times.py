"""Wall time of training and of evaluation, updates and decisions a second, per suite and algorithm."""

import pandas as pd

from pwm.errors import exit_on_user_error
from workflows.results import SUITES, Results, count_of, name_of, read_results
from workflows.tables.common import number, write_table

QUANTITIES = {
    "train_minutes": "Training, minutes",
    "eval_minutes": "Final evaluation, minutes",
    "updates_per_s": "Updates a second",
    "decisions_per_s": "Decisions a second",
}
COLUMNS = ["suite", "algorithm", "variant", "n", "expected", "device"]
COLUMNS += [f"{name}{part}" for name in QUANTITIES for part in ("", "_low", "_high")]
NOTE = (
    "Median [shortest or slowest – longest or fastest] over runs, of all tasks and seeds. Training is the policy's "
    "own: its learning curve's evaluations, data and world models made beforehand are not counted. Updates are those "
    "of the policy (TD-MPC2: of the model), which differ in cost between algorithms. Decisions are those of the final "
    "evaluation, all its environments together, the simulator and the start included; not known where episodes end "
    "early. A dash: nothing trained, or not known. Runs on different machines should not be compared."
)


def measure(results: Results) -> pd.DataFrame:
    """One row per suite, algorithm and variant; NaN where nothing was run or a quantity is not known."""
    rows = []
    for suite in results.suites:
        for algorithm, variant in results.contestants(suite):
            chosen = "suite == @suite and algorithm == @algorithm and variant == @variant"
            runs, expected = results.times.query(chosen), results.runs.query(chosen)
            devices = ", ".join(sorted(runs["device"].dropna().unique()))
            numbers = [getattr(runs[name].dropna(), part)() for name in QUANTITIES for part in ("median", "min", "max")]
            rows.append((suite, algorithm, variant, len(runs), len(expected), devices, *numbers))
    return pd.DataFrame(rows, columns=COLUMNS)


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row per suite and algorithm."""
    rows = []
    for row in numbers.to_dict("records"):
        runs = count_of(row["n"], row["expected"])
        names = [SUITES.get(row["suite"], row["suite"]), name_of(row["algorithm"], row["variant"])]
        rows.append([*names, runs, row["device"] or "–", *(cell(row, name) for name in QUANTITIES)])
    return pd.DataFrame(rows, columns=["Suite", "Algorithm", "Runs", "Device", *QUANTITIES.values()])


def cell(row: dict, name: str) -> str:
    """`1.4 [1.2 – 1.9]`, in three significant digits."""
    values = [row[f"{name}{part}"] for part in ("", "_low", "_high")]
    if pd.isna(values[0]):
        return "–"
    median, low, high = (number(value, 0 if value >= 100 else 1 if value >= 10 else 2) for value in values)
    return f"{median} [{low} – {high}]"


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers), NOTE)


if __name__ == "__main__":
    main()
