"""Agents that learnt one task online beside the published seeds after as many steps of the simulator, or more."""

import pandas as pd

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.results import Results, count_of, name_of, read_results
from workflows.tables.common import number, write_table

RUN = ("task", "algorithm", "variant")
COLUMNS = (*RUN, "steps", "mean", "low", "high", "n", "expected", "minutes")
THEIRS = ("published_steps", "published_mean", "published_low", "published_high", "published_n", "within", "source")
NOTE = (
    "Returns: mean (lowest to highest of the seeds; number of runs, 2/3: two of three expected), of policies at the "
    "end of training. Steps of the simulator: two a decision. Published: the first point that is not before the end of "
    "ours (`results/published/online_dmcontrol.csv`). Within: seeds of ours between its lowest and its highest one. "
    "Minutes: of training, the longest run; runs that one job learnt together share it."
)


def measure(results: Results) -> pd.DataFrame:
    """One row per task of MT30, algorithm and variant that learnt online, up to the end of the published curve."""
    scores = results.scores.query("suite == 'mt30' and env_steps > 0")
    curves = published.online_curves()
    rows = []
    for (task, algorithm, variant, decisions), own in scores.groupby([*RUN, "env_steps"], sort=False):
        steps = published.STEPS_OF_A_DECISION * int(decisions)
        later = curves.query("task == @task and algorithm == @algorithm and env_steps >= @steps")
        if later.empty:
            continue
        returns, other = own["return_mean"], later.loc[later["env_steps"].idxmin()]
        have, want = results.count("mt30", task, algorithm, variant)
        row = (task, algorithm, variant, steps, returns.mean(), returns.min(), returns.max(), have, want)
        low, high = other["min_return"], other["max_return"]
        row += (own["train_wall_s"].max() / 60, other["env_steps"], other["mean_return"], low, high, other["n_seeds"])
        rows.append((*row, returns.between(low, high).sum(), other["source"]))
    return pd.DataFrame(rows, columns=[*COLUMNS, *THEIRS]).sort_values([*RUN])


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """The same for reading."""
    columns = ["Task", "Agent", "Steps", "Return", "Published after", "Return there", "Within", "Minutes"]
    cells = []
    for row in numbers.itertuples():
        runs = count_of(row.n, row.expected)
        ours = f"{number(row.mean, 0)} ({number(row.low, 0)} to {number(row.high, 0)}; {runs})"
        low, high = number(row.published_low, 0), number(row.published_high, 0)
        theirs = f"{number(row.published_mean, 0)} ({low} to {high}; {row.published_n})"
        line = [row.task, name_of(row.algorithm, row.variant), f"{row.steps:,}", ours]
        line += [f"{row.published_steps:,}", theirs, f"{row.within} of {row.n}", number(row.minutes, 1)]
        cells.append(line)
    return pd.DataFrame(cells, columns=columns)


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers), NOTE)


if __name__ == "__main__":
    main()
