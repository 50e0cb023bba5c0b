"""What every figure and table starts from: one scale's CSV files and the runs that should be in them.

All scripts beside this module take the same arguments, so that one rule draws any of them:

    python -m workflows.figures.per_task --scores results/demo/scores.csv --curves results/demo/curves.csv \\
        --expected results/demo/expected.csv --data results/demo/data.csv --scale demo --out figures/demo/per_task

but for figures of a measurement that is not made of runs, which have its one file in the place of those four:

    python -m workflows.figures.ball_wall --measured results/demo/gradients/ball_wall.csv --scale demo \\
        --out figures/demo/ball_wall
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from pwm import statistics
from pwm.errors import UserError

SUITES = {"locomotion": "Locomotion", "stiffness": "Stiff contacts", "mt30": "MT30", "mt80": "MT80"}
ALGORITHMS = {"pwm": "PWM", "shac": "SHAC", "tdmpc2": "TD-MPC2", "ppo": "PPO", "sac": "SAC"}
REFERENCES = {"random": "random policy", "data": "data"}  # measured, but no contestants
INPUTS = ("scores", "curves", "expected", "data")  # CSV files of a scale
PPO_UNIT = "score / PPO's mean score"


@dataclass(frozen=True)
class Aggregate:
    """One algorithm on one suite. `estimates` is empty where a statistic over tasks would not mean anything."""

    suite: str
    algorithm: str
    variant: str
    unit: str
    tasks: tuple[str, ...]
    suite_tasks: int
    have: int  # seeds finished on all of the algorithm's tasks
    want: int
    started: bool  # whether any run is there
    matrix: np.ndarray  # [have, tasks]
    estimates: dict[str, statistics.Estimate]


@dataclass(frozen=True)
class Measured:
    """The CSV file of a measurement, and where its drawing goes (`out`, a path without suffix)."""

    table: pd.DataFrame
    scale: str
    out: Path
    module: str

    @property
    def commits(self) -> str:
        """Commits that measured it, as the file itself tells."""
        return ", ".join(sorted(self.table["commit"].unique()))

    @property
    def command(self) -> str:
        """The command that draws this at the files' usual places: the same wherever it was in fact run."""
        stem = self.module.rpartition(".")[2]
        measured = f"--measured results/{self.scale}/gradients/{stem}.csv"
        return f"python -m {self.module} {measured} --scale {self.scale} --out figures/{self.scale}/{stem}"


@dataclass(frozen=True)
class Results:
    """The CSV files of a scale, and where the drawing goes (`out`, a path without suffix)."""

    scores: pd.DataFrame
    curves: pd.DataFrame
    expected: pd.DataFrame
    scale: str
    out: Path
    module: str
    measured: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # by name, what of measurements was asked for

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Every run that is expected or there, in the order of `expected.csv`, with a column `there`."""
        keys = statistics.RUN_KEYS
        runs = pd.concat([self.expected[keys], self.scores[keys]], ignore_index=True).drop_duplicates(keys)
        there = pd.MultiIndex.from_frame(self.scores[keys])
        return runs.assign(there=pd.MultiIndex.from_frame(runs[keys]).isin(there)).reset_index(drop=True)

    @property
    def suites(self) -> list[str]:
        """Suites with runs, the known ones first."""
        present = list(self.runs["suite"].unique())
        return sorted(present, key=lambda suite: (suite not in SUITES, [*SUITES, *sorted(present)].index(suite)))

    def tasks(self, suite: str) -> list[str]:
        """Tasks of a suite in the order of the matrix."""
        return list(self.runs.loc[self.runs["suite"] == suite, "task"].unique())

    def algorithms(self, suite: str | None = None) -> list[tuple[str, str]]:
        """`(algorithm, variant)` of a suite or of all: known names, others sorted, references; `default` first."""
        runs = self.runs if suite is None else self.runs[self.runs["suite"] == suite]
        names = {*runs["algorithm"]}
        order = [*ALGORITHMS, *sorted(names - ALGORITHMS.keys() - REFERENCES.keys()), *REFERENCES]
        pairs = {(algorithm, variant) for algorithm, variant in zip(runs["algorithm"], runs["variant"], strict=True)}
        return sorted(pairs, key=lambda pair: (order.index(pair[0]), pair[1] != "default", pair[1]))

    def count(self, suite: str, task: str, algorithm: str, variant: str) -> tuple[int, int]:
        """Runs there and runs that should be."""
        chosen = self.runs.query(
            "suite == @suite and task == @task and algorithm == @algorithm and variant == @variant"
        )
        return int(chosen["there"].sum()), len(chosen)

    def comparable_scores(self) -> tuple[pd.DataFrame, str]:
        """Scores with locomotion in units of PPO's mean, and an empty reason; else raw scores and why they stay raw."""
        try:
            return statistics.normalise_by_ppo(self.scores), ""
        except UserError as error:
            return self.scores, str(error)

    def aggregates(self, suite: str) -> list[Aggregate]:
        """Every algorithm's statistics over its tasks of a suite.

        An algorithm is judged on the seeds it finished on all of its tasks. None such, or locomotion scores on several
        tasks that cannot be normalised: no estimates. Raw returns have no optimality gap.
        """
        scores, not_normalised = self.comparable_scores()
        raw = suite == "locomotion" and bool(not_normalised)
        unit = ("return" if raw else PPO_UNIT) if suite == "locomotion" else "score"
        found = []
        for algorithm, variant in self.algorithms(suite):
            runs = self.runs.query("suite == @suite and algorithm == @algorithm and variant == @variant")
            tasks = list(runs["task"].unique())
            complete = runs.groupby("seed")["there"].sum() == len(tasks)
            seeds = sorted(complete[complete].index)
            matrix = statistics.score_matrix(scores, suite, algorithm, variant, tasks, seeds)
            names = [name for name in statistics.METRICS if not (raw and name == "optimality_gap")]
            meaningful = seeds and not (raw and len(tasks) > 1)
            estimates = statistics.aggregate(matrix, names) if meaningful else {}
            counts = (len(self.tasks(suite)), len(seeds), len(complete), bool(runs["there"].any()))
            found.append(Aggregate(suite, algorithm, variant, unit, tuple(tasks), *counts, matrix, estimates))
        return found

    @property
    def commits(self) -> str:
        """Commits that computed the scores, as the scores themselves tell."""
        return ", ".join(sorted(self.scores["commit"].dropna().unique())) or "unknown"

    @property
    def command(self) -> str:
        """The command that draws this at the files' usual places: the same wherever it was in fact run."""
        results, stem = f"results/{self.scale}", self.module.rpartition(".")[2]
        out = f"figures/{self.scale}/{stem}" if ".figures." in self.module else f"{results}/tables/{stem}"
        files = " ".join(f"--{name} {results}/{name}.csv" for name in INPUTS)
        files += "".join(f" --{name} {results}/gradients/{name}.csv" for name in self.measured)
        return f"python -m {self.module} {files} --scale {self.scale} --out {out}"


def read_results(
    script: str,
    description: str,
    argv: Sequence[str] | None = None,
    ablations: bool = False,
    measured: Mapping[str, Sequence[str]] | None = None,
) -> Results:
    """Parse the command line of a figure or table script (`__file__`, `__doc__`) and read what it names.

    Args:
        argv: the command line's, unless given.
        ablations: whether to keep their runs, which are left out otherwise.
        measured: measurements to read as well, each with the columns it must have.

    Raises:
        UserError: a file is missing or damaged, or holds another scale.
    """
    files = {name: f"{name}.csv" for name in INPUTS} | {name: f"gradients/{name}.csv" for name in measured or ()}
    module, args = _parse(script, description, files, argv)
    scores, curves = statistics.load_scores(args.scores), statistics.load_curves(args.curves)
    data = statistics.load_scores(args.data)
    for table, file in ((scores, args.scores), (curves, args.curves), (data, args.data)):
        _check_scale(table, file, args.scale)
    scores = pd.concat([scores, data], ignore_index=True) if len(data) else scores
    tables = (scores, curves, statistics.load_expected(args.expected))
    kept = tables if ablations else (table[~is_ablation(table)].reset_index(drop=True) for table in tables)
    others = {
        name: _read_measurement(getattr(args, name), args.scale, name, columns)
        for name, columns in (measured or {}).items()
    }
    return Results(*kept, args.scale, args.out, module, others)


def read_measured(script: str, description: str, columns: Sequence[str], argv: Sequence[str] | None = None) -> Measured:
    """The same for a figure of a measurement, whose file has `columns` beside `scale` and `commit`.

    Raises:
        UserError: the file is missing or damaged, or holds another scale.
    """
    stem = Path(script).stem
    module, args = _parse(script, description, {"measured": f"gradients/{stem}.csv"}, argv)
    table = _read_measurement(args.measured, args.scale, stem, columns)
    return Measured(table, args.scale, args.out, module)


def _read_measurement(path: Path, scale: str, stem: str, columns: Sequence[str]) -> pd.DataFrame:
    mend = f"make it again by snakemake --cores 1 results/{scale}/gradients/{stem}.csv"
    try:
        table = pd.read_csv(path, dtype={"scale": str, "commit": str})
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): {mend}") from None
    if missing := [column for column in ("scale", "commit", *columns) if column not in table]:
        raise UserError(f"{path} has no column {', '.join(missing)}: {mend}")
    _check_scale(table, path, scale)
    return table


def _parse(
    script: str, description: str, inputs: Mapping[str, str], argv: Sequence[str] | None
) -> tuple[str, argparse.Namespace]:
    """The script's module, and its command line: an argument for each input, a file below results/<scale>."""
    path = Path(script)
    module = f"workflows.{path.parent.name}.{path.stem}"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.partition("\n")[0])
    for name, file in inputs.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"results/<scale>/{file}")
    parser.add_argument("--scale", required=True, help="name of the scale, such as demo")
    parser.add_argument("--out", type=Path, required=True, help="output path without suffix")
    return module, parser.parse_args(argv)


def _check_scale(table: pd.DataFrame, file: Path, scale: str) -> None:
    if others := sorted({*table["scale"]} - {scale}):
        raise UserError(f"{file} holds scale {others[0]}, not {scale}: give the files of one scale")


def is_ablation(runs: pd.DataFrame) -> pd.Series:
    """Which rows are of an ablation, by the convention that `workflows.ablations` explains."""
    varied = runs["variant"].str.contains(".", regex=False) | (runs["variant"] == "reference")
    return varied | (runs["suite"] == "stiffness")


def name_of(algorithm: str, variant: str) -> str:
    """How text calls an algorithm: its usual name, and the variant if it is not the default."""
    name = {**ALGORITHMS, **REFERENCES}.get(algorithm, algorithm)
    return name if variant == "default" else f"{name} {variant}"


def runs_of(have: int, want: int) -> str:
    """`n = 3`, `n = 2/3` where runs are missing, `not run` where all are."""
    if not have:
        return "not run"
    return f"n = {have}" if have == want else f"n = {have}/{want}"
