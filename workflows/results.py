"""What every figure and table starts from: one scale's CSV files and the runs that should be in them.

All scripts beside this module take the same arguments, so that one rule draws any of them:

    python -m workflows.figures.mt30_per_task --scores results/demo/scores.csv --curves results/demo/curves.csv \\
        --expected results/demo/expected.csv --data results/demo/data.csv --scale demo \\
        --out figures/demo/mt30_per_task

but for figures of a measurement that is not made of runs, which have its one file in the place of those four, as
`--measured results/demo/gradients/ball_wall.csv`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from pwm import progress, statistics
from pwm.errors import UserError
from workflows.measured import check_scale, parse, read_measurement

SUITES = {"locomotion": "Locomotion", "stiffness": "Contacts", "mt30": "MT30", "mt80": "MT80"}
ALGORITHMS = {"pwm": "PWM", "shac": "SHAC", "tdmpc2": "TD-MPC2", "ppo": "PPO", "sac": "SAC", "dreamerv3": "DreamerV3"}
REFERENCES = {"random": "random policy", "data": "data"}  # measured, but no contestants
PUBLISHED = ("published", "published online")  # variants that were not measured here
STIFF = "-stiff"  # ends the name of a body with stiffer contacts than its own
INPUTS = ("scores", "curves", "expected", "data")  # CSV files of a scale
PPO_UNIT = "score / PPO's mean score"
PROTOCOL = {"simulator": "{}", "episodes": "{:g} episodes"}  # in which scores of a task must agree
DECISIONS = {"return / 1000": 500, "success": 100}  # of an episode, where none ends early


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
    best: float = np.nan  # IQM over tasks of the best over training
    source: str = "measured"


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

    def contestants(self, suite: str) -> list[tuple[str, str]]:
        """The algorithms and variants of a suite that are compared: all but the references."""
        return [pair for pair in self.algorithms(suite) if pair[0] not in REFERENCES]

    def drawn(self, suite: str) -> list[tuple[str, str]]:
        """The contestants that figures show: those with a run; all where none has one."""
        return [pair for pair in self.contestants(suite) if pair in self.started(suite)] or self.contestants(suite)

    def started(self, suite: str) -> set[tuple[str, str]]:
        """The algorithms and variants of a suite of which there is a run."""
        there = self.scores[self.scores["suite"] == suite]
        return {*zip(there["algorithm"], there["variant"], strict=True)}

    def not_run(self, *suites: str) -> str:
        """A line that names what these suites ask for and figures do not show, since no run of it is there."""
        told = []
        for suite in suites:
            shown = {*self.drawn(suite)} | self.started(suite)
            left = [name_of(*pair) for pair in self.algorithms(suite) if pair not in shown]
            told += [f"{SUITES.get(suite, suite)}: {', '.join(left)}"] if left else []
        return f"Not run: {'; '.join(told)}." if told else ""

    def comparable_scores(self) -> tuple[pd.DataFrame, str]:
        """Scores with locomotion in units of PPO's mean, and an empty reason; else raw scores and why they stay raw."""
        try:
            return statistics.normalise_by_ppo(self.scores), ""
        except UserError as error:
            return self.scores, str(error)

    def aggregates(self, suite: str, tasks: Sequence[str] | None = None) -> list[Aggregate]:
        """Every algorithm's statistics over its tasks of a suite, or over those of them that are among `tasks`.

        An algorithm is judged on the seeds it finished on all of its tasks. None such, or locomotion scores on several
        tasks that cannot be normalised: no estimates. Raw returns have no optimality gap.
        """
        scores, not_normalised = self.comparable_scores()
        raw = suite == "locomotion" and bool(not_normalised)
        unit = ("return" if raw else PPO_UNIT) if suite == "locomotion" else "score"
        wanted, found = self.tasks(suite) if tasks is None else tasks, []
        for algorithm, variant in self.algorithms(suite):
            chosen = "suite == @suite and algorithm == @algorithm and variant == @variant and task in @wanted"
            runs = self.runs.query(chosen)
            own = list(runs["task"].unique())
            if not own:
                continue
            complete = runs.groupby("seed")["there"].sum() == len(own)
            seeds = sorted(complete[complete].index)
            matrix = statistics.score_matrix(scores, suite, algorithm, variant, own, seeds)
            names = [name for name in statistics.METRICS if not (raw and name == "optimality_gap")]
            meaningful = seeds and not (raw and len(own) > 1)
            estimates = statistics.aggregate(matrix, names) if meaningful else {}
            learns = meaningful and algorithm not in REFERENCES
            best = self.best_over_training(suite, algorithm, variant, own, raw) if learns else np.nan
            counts = (len(wanted), len(seeds), len(complete), bool(runs["there"].any()))
            found.append(Aggregate(suite, algorithm, variant, unit, tuple(own), *counts, matrix, estimates, best))
        return found

    def best_over_training(self, suite: str, algorithm: str, variant: str, tasks: Sequence[str], raw: bool) -> float:
        """IQM over tasks of the highest point of the IQM curve, which is what the published locomotion scores are.

        Locomotion is in units of PPO's own best, unless it is to stay `raw`. NaN where a task has no curve.
        """

        def best(task: str, algorithm: str, variant: str) -> float:
            chosen = "suite == @suite and task == @task and algorithm == @algorithm and variant == @variant"
            curves, unit = self.curves.query(chosen), unit_of(suite, task)
            value = progress.best_over_training(curves, "success" if unit == "success" else "return")
            return value / 1000 if unit == "return / 1000" else value

        values = np.array([best(task, algorithm, variant) for task in tasks])
        if suite == "locomotion" and not raw:
            units = np.array([best(task, "ppo", "default") for task in tasks])
            values = values / np.where(units > 0, units, np.nan)
        return statistics.aggregate(values[None], ["iqm"])["iqm"].estimate

    @cached_property
    def times(self) -> pd.DataFrame:
        """Of every contestant's run: minutes of training and of the final evaluation, updates and decisions a second.

        NaN where nothing was trained or the length of the evaluated episodes is not known. Decisions are those of all
        the evaluation's environments together, its start and the simulator included.
        """
        runs = self.scores[~self.scores["algorithm"].isin([*REFERENCES])]
        train = runs["train_wall_s"].where((runs["updates"] > 0) & (runs["train_wall_s"] > 0))
        lengths = [DECISIONS.get(unit_of(*of), np.nan) for of in zip(runs["suite"], runs["task"], strict=True)]
        return runs[[*statistics.RUN_KEYS, "device"]].assign(
            train_minutes=train / 60,
            eval_minutes=runs["eval_wall_s"] / 60,
            updates_per_s=runs["updates"] / train,
            decisions_per_s=runs["episodes"] * np.array(lengths) / runs["eval_wall_s"].where(runs["eval_wall_s"] > 0),
        )

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
        files += "".join(f" --{name} {results}/gradients/{name}.csv" for name, had in self.measured.items() if len(had))
        return f"python -m {self.module} {files} --scale {self.scale} --out {out}"

    @property
    def source(self) -> str:
        """Where numbers come from, in a line."""
        return f"Scale {self.scale}, commit {self.commits}, by `{self.command}`."


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
        measured: measurements to read as well, each with the columns it must have. One that is not on the command line
            was not made, and is empty.

    Raises:
        UserError: a file is missing or damaged, or holds another scale, a run that is not expected, a score out of its
            range, or scores of one task by several simulators.
    """
    files = {name: f"{name}.csv" for name in INPUTS} | {name: f"gradients/{name}.csv" for name in measured or ()}
    module, args = parse(script, description, files, argv, optional=measured or ())
    scores, curves = statistics.load_scores(args.scores), statistics.load_curves(args.curves)
    data, expected = statistics.load_scores(args.data), statistics.load_expected(args.expected)
    for table, file in ((scores, args.scores), (curves, args.curves), (data, args.data)):
        check_scale(table, file, args.scale)
    _check_expected(scores, args.scores, expected, args.expected)
    _check_expected(curves, args.curves, expected, args.expected)
    _check_comparable(scores, args.scores)
    scores = pd.concat([scores, data], ignore_index=True) if len(data) else scores
    tables = (scores, curves, expected)
    kept = tables if ablations else (table[~is_ablation(table)].reset_index(drop=True) for table in tables)
    read = lambda name, columns: read_measurement(getattr(args, name), args.scale, name, columns)  # noqa: E731
    others = {name: read(name, columns) for name, columns in (measured or {}).items()}
    return Results(*kept, args.scale, args.out, module, others)


def is_ablation(runs: pd.DataFrame) -> pd.Series:
    """Which rows are of an ablation, by the convention that `workflows.ablations` explains."""
    varied = runs["variant"].str.contains(".", regex=False) | (runs["variant"] == "reference")
    return varied | runs["task"].str.endswith(STIFF)


def _check_expected(table: pd.DataFrame, file: Path, expected: pd.DataFrame, of: Path) -> None:
    """A name that the scale's matrix does not have is misspelt, or of another matrix."""
    keys = statistics.RUN_KEYS
    known = pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(expected[keys]))
    if not known.all():
        run = statistics.describe(table[~known].iloc[0])
        raise UserError(f"{file} holds {run}, which {of} does not list: correct the name, or collate the runs again")


def _check_comparable(scores: pd.DataFrame, file: Path) -> None:
    """Scores that stand in one row of a figure are in one unit, of one simulator and of as many episodes."""
    wrong = scores[~scores["score"].between(0, 1) & scores["suite"].isin(["mt30", "mt80"])]
    if len(wrong):
        run = wrong.iloc[0]
        told = f"score of {statistics.describe(run)} is {run['score']:g}, and scores of {run['suite']} lie in [0, 1]"
        raise UserError(f"{file}: {told}: evaluate it again and collate")
    for (column, form), (task, own) in product(PROTOCOL.items(), scores.groupby("task")):
        if len(known := sorted(own[column].dropna().unique())) > 1:
            told = " and by ".join(form.format(value) for value in known)
            raise UserError(f"{file} holds scores of {task} by {told}: evaluate all by one of them")


def unit_of(suite: str, task: str) -> str:
    """What a score of the task counts."""
    if suite in ("locomotion", "stiffness"):
        return "return"
    return "success" if task.startswith("mw-") else "return / 1000"


def name_of(algorithm: str, variant: str) -> str:
    """How text calls an algorithm: its usual name, and the variant if it is not the default."""
    name = {**ALGORITHMS, **REFERENCES}.get(algorithm, algorithm)
    if variant == "default":
        return name
    return f"{name}, {variant}" if variant in PUBLISHED else f"{name} {variant.replace('_', ' ')}"


def count_of(have: int, want: int) -> str:
    """`3`, or `2/3` where runs are missing."""
    return f"{have}" if have == want else f"{have}/{want}"


def runs_of(have: int, want: int) -> str:
    """`n = 3`, `n = 2/3` where runs are missing, `not run` where all are."""
    return f"n = {count_of(have, want)}" if have else "not run"
