"""Agents that learnt one task online beside the published seeds after as many steps of the simulator."""

import pandas as pd

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.results import Results, count_of, name_of, read_results
from workflows.tables.common import number, write_table

COLUMNS = ("task", "algorithm", "variant", "steps", "mean", "low", "high", "n", "expected", "minutes")
THEIRS = ("published_mean", "published_low", "published_high", "published_n", "within", "source")
NOTE = (
    "Returns: mean (lowest to highest of the seeds; number of runs, 2/3: two of three expected), of policies at the "
    "end of training. Steps of the simulator: two a decision. Within: seeds of ours between the lowest and the highest "
    "published one. Minutes: of training, the longest run; runs that one job learnt together share it. "
    "Published: `results/published/online_dmcontrol.csv`."
)


def measure(results: Results) -> pd.DataFrame:
    """One row per task of MT30, algorithm and variant whose runs are as long as published ones."""
    scores = results.scores.query("suite == 'mt30'")
    theirs = published.online_curves().set_index(["task", "algorithm", "env_steps"])
    rows = []
    for key, own in scores.groupby(["task", "algorithm", "variant", "env_steps"], sort=False):
        task, algorithm, variant, decisions = key
        steps = published.STEPS_OF_A_DECISION * int(decisions)
        if (task, algorithm, steps) not in theirs.index:
            continue
        returns, other = own["return_mean"], theirs.loc[(task, algorithm, steps)]
        have, want = results.count("mt30", task, algorithm, variant)
        row = (task, algorithm, variant, steps, returns.mean(), returns.min(), returns.max(), have, want)
        low, high = other["min_return"], other["max_return"]
        row += (own["train_wall_s"].max() / 60, other["mean_return"], low, high, other["n_seeds"])
        rows.append((*row, returns.between(low, high).sum(), other["source"]))
    return pd.DataFrame(rows, columns=[*COLUMNS, *THEIRS]).sort_values(["task", "algorithm", "variant"])


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """The same for reading."""
    columns = ["Task", "Agent", "Steps", "Return", "Published", "Within", "Minutes"]
    cells = []
    for row in numbers.itertuples():
        runs = count_of(row.n, row.expected)
        ours = f"{number(row.mean, 0)} ({number(row.low, 0)} to {number(row.high, 0)}; {runs})"
        low, high = number(row.published_low, 0), number(row.published_high, 0)
        theirs = f"{number(row.published_mean, 0)} ({low} to {high}; {row.published_n})"
        line = [row.task, name_of(row.algorithm, row.variant), f"{row.steps:,}", ours, theirs]
        cells.append([*line, f"{row.within} of {row.n}", number(row.minutes, 1)])
    return pd.DataFrame(cells, columns=columns)


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers), NOTE)


if __name__ == "__main__":
    main()
