"""How fast the final policies of the locomotion bodies run, and how many of their episodes end by a fall."""

import pandas as pd

from pwm.errors import exit_on_user_error
from workflows.results import Results, count_of, name_of, read_results
from workflows.tables.common import number, write_table

RUN = ("suite", "task", "algorithm", "variant")
COLUMNS = (*RUN, "seed", "env_steps", "speed", "terminated", "episodes", "n", "expected")
NOTE = (
    "Of the final evaluation's episodes, seed by seed. Speed: the body's velocity along x, mean of all decisions. "
    "Falls: episodes that ended before their time. Runs: 2/3 is two of three expected. Runs whose evaluation does not "
    "tell are left out."
)


def measure(results: Results) -> pd.DataFrame:
    """One row a run, tasks and algorithms in the order of figures."""
    known, rows = results.scores.dropna(subset="speed"), []  # only the locomotion bodies have one
    for suite in results.suites:
        for task in results.tasks(suite):
            for algorithm, variant in results.contestants(suite):
                chosen = "suite == @suite and task == @task and algorithm == @algorithm and variant == @variant"
                counts = results.count(suite, task, algorithm, variant)
                for run in known.query(chosen).sort_values("seed").itertuples():
                    told = (run.seed, run.env_steps, run.speed, run.terminated, run.episodes)
                    rows.append((suite, task, algorithm, variant, *told, *counts))
    return pd.DataFrame(rows, columns=[*COLUMNS])


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """A row per task and agent, its seeds side by side."""
    cells = []
    for (_, task, algorithm, variant), runs in numbers.groupby([*RUN], sort=False):
        first = runs.iloc[0]
        line = [task, name_of(algorithm, variant), f"{first['env_steps']:,.0f}"]
        line += [", ".join(number(speed, 2) for speed in runs["speed"])]
        line += [", ".join(number(falls, 0) for falls in runs["terminated"]) + f" of {first['episodes']:.0f}"]
        cells.append([*line, count_of(first["n"], first["expected"])])
    return pd.DataFrame(cells, columns=["Task", "Agent", "Steps", "Speed, m/s", "Falls", "Runs"])


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers), NOTE)


if __name__ == "__main__":
    main()
