"""What extraction made of each data set: policies against the data, promise against return, and published figures."""

import numpy as np
import pandas as pd

from pwm.errors import exit_on_user_error
from workflows import published
from workflows.results import SUITES, Results, read_results, unit_of
from workflows.tables.common import number, write_table
from workflows.tables.per_task_scores import cell

DATA = {"mean": "data mean", "best": "best episode", "best_policy": "best policy"}
CONTESTANTS = {"tdmpc2": "TD-MPC2, published", "pwm": "PWM, published"}
NOTE = (
    "Scores as in per_task_scores. Best policy: the best of the learner's checkpoints that acted in the data, without "
    "noise. Of best policy: PWM's mean over it. Promised / earned: at the end of training, the critic's value of the "
    "first states over the discounted return from there, means over seeds. Minutes: of training, the longest run. "
    "Published: offline multi-task on MT30, `results/published/scores.csv`; locomotion is another simulator's there."
)


def measure(results: Results) -> pd.DataFrame:
    """One row per task and variant of PWM, there or expected."""
    others = published.scores().query("suite == 'mt30'").set_index(["task", "algorithm"])["score"]
    data = results.scores.query("algorithm == 'data'").set_index(["suite", "task", "variant"])["score"]
    rows = []
    for suite in results.suites:
        for task in results.tasks(suite):
            for variant in [variant for algorithm, variant in results.algorithms(suite) if algorithm == "pwm"]:
                have, want = results.count(suite, task, "pwm", variant)
                if not want:
                    continue
                chosen = "suite == @suite and task == @task and algorithm == 'pwm' and variant == @variant"
                scores, curves = results.scores.query(chosen), results.curves.query(chosen)
                last = curves.sort_values("updates").groupby("seed").tail(1)
                best = data.get((suite, task, "best_policy"), np.nan)
                row = {"suite": suite, "task": task, "unit": unit_of(suite, task), "variant": variant}
                row |= {f"data_{name}": data.get((suite, task, name), np.nan) for name in DATA}
                row |= {"mean": scores["score"].mean(), "std": scores["score"].std(ddof=1), "n": have, "expected": want}
                row |= {"of_best_policy": scores["score"].mean() / best}
                row |= {"promised": last["start_value"].mean() / last["discounted_return"].mean()}
                row |= {"minutes": scores["train_wall_s"].max() / 60}
                row |= {name: others.get((task, name), np.nan) if suite == "mt30" else np.nan for name in CONTESTANTS}
                rows.append(row)
    return pd.DataFrame(rows)


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """The same for reading."""
    cells = []
    for row in numbers.itertuples():
        decimals = 0 if row.unit == "return" else 3
        show = lambda value, digits=decimals: "–" if np.isnan(value) else number(value, digits)  # noqa: E731
        line = {"Suite": SUITES.get(row.suite, row.suite), "Task": row.task}
        line |= {title: show(getattr(row, f"data_{name}")) for name, title in DATA.items()}
        line |= {"Variant": row.variant, "PWM": cell(row), "of best policy": show(row.of_best_policy, 2)}
        line |= {"promised / earned": show(row.promised, 2), "minutes": show(row.minutes, 1)}
        line |= {title: show(getattr(row, name)) for name, title in CONTESTANTS.items()}
        cells.append(line)
    return pd.DataFrame(cells)


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers), NOTE)


if __name__ == "__main__":
    main()
