"""The resolved settings of a scale as one tidy CSV file.

python -m pwm.settings --scale demo --out results/demo/settings.csv

A row for every setting of every data set, world model and run, of the first of its seeds, and of how all are scored.
Where all tasks share a value, one row holds it for them, with no task.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pwm.envs.tasks import get_task
from pwm.errors import exit_on_user_error
from pwm.matrix import Matrix
from pwm.runs import write_atomically

COLUMNS = ["scale", "part", "suite", "variant", "task", "setting", "value"]
SCALE, DATA, MODEL = "runs", "data", "world model"  # parts beside the algorithms


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `{dotted key: text}`; lists in JSON, and `none` where there is nothing."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return flat


def configs(matrix: Matrix) -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    """Part, suite, variant, task and settings of everything that the scale configures. Data sets have no suite: their
    tasks' family stands there.
    """
    for suite, settings in matrix.config.suites.items():
        seeds = {"seeds": settings.seeds, "model_seeds": settings.model_seeds, "tasks": len(settings.tasks)}
        evaluation = matrix.config.evaluation.model_dump(mode="json")
        yield SCALE, suite, "", "", seeds | {"episodes": matrix.config.episodes} | evaluation
    for task in matrix.data_sets():
        settings = matrix.resolved(task).settings.model_dump(mode="json")
        if settings["tdmpc2"]:  # in place of all the rest
            settings = {"tdmpc2": True}
        yield DATA, get_task(task).family, "", task, settings
    for model in matrix.models():
        if model.seed == 0:
            tasks = "" if model.tasks == "all" else model.tasks
            settings = matrix.resolved(model).settings.model_dump(mode="json")
            yield MODEL, model.suite, model.variant, tasks, settings
    for run in matrix.runs():
        if run.seed == 0:
            yield run.algorithm, run.suite, run.variant, run.task, matrix.resolved(run).settings


def tabulate(matrix: Matrix) -> pd.DataFrame:
    """All settings of a scale."""
    rows = [
        (matrix.scale, *identity, setting, value)
        for *identity, settings in configs(matrix)
        for setting, value in flatten(settings).items()
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    by_setting = table.groupby(["part", "suite", "variant", "setting"])
    shared = by_setting["value"].transform("nunique") == 1
    tasks = table.groupby(["part", "suite", "variant"])["task"].transform("nunique")
    everywhere = shared & (by_setting["value"].transform("size") == tasks)
    table.loc[everywhere, "task"] = ""
    return table.drop_duplicates().reset_index(drop=True)


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.settings", description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", required=True, help="name of the scale, such as demo")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    args = parser.parse_args()
    write_atomically(args.out, tabulate(Matrix(args.scale)).to_csv(index=False))


if __name__ == "__main__":
    main()
