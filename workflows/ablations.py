"""Ablations: how a scale's config names their runs, and these runs as figures and claims take them.

The convention, for `workflows/config/<scale>.yaml`:

- A variant `<ablation>.<value>` changes one thing of its algorithm's reference, on the tasks that it runs on.
- The reference is the variant `reference`; where a scale lists none, it is `default`. A scale has a `reference` where
  its `default` costs too much to be varied.
- A task whose name ends in `-stiff`, of the suite `stiffness`, is an ablation as a whole: a variant on its contacts is
  compared with the same variant on the same body's own, in the suite `locomotion`.

Ablations: `regularisation` of the world model (none, spectral, plain, relu), `batch_size` of the policy, and
`model_updates` and `model_horizon` of the world model's training. What they vary stands in `expected.csv`, in columns
of these names: a number is never read from a variant's name. Their runs are in no other figure or table
(`workflows.results.is_ablation`).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from pwm import progress, statistics
from workflows.results import REFERENCES, STIFF, SUITES, Results

NONE = statistics.Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Arm:
    """One setting: its runs on a group's tasks, of those seeds that finished all of them."""

    setting: str  # what follows the ablation's name; of the reference, `reference`
    value: float  # the number varied; NaN where it is none
    matrix: np.ndarray  # [seeds, tasks]
    want: int  # seeds expected
    curves: pd.DataFrame  # of these runs

    @property
    def have(self) -> int:
        """Seeds that there are."""
        return len(self.matrix)

    @cached_property
    def iqm(self) -> statistics.Estimate:
        """IQM over runs and tasks with its 95% interval."""
        return statistics.aggregate(self.matrix, ["iqm"])["iqm"] if self.have else NONE

    @property
    def seeds(self) -> np.ndarray:
        """IQM over tasks of every seed."""
        return np.array([statistics.METRICS["iqm"](row[None]) for row in self.matrix])


@dataclass(frozen=True)
class Group:
    """An ablation of one algorithm: on one task of locomotion, whose returns have no common unit, or on a suite."""

    suite: str
    tasks: tuple[str, ...]
    algorithm: str
    arms: tuple[Arm, ...]  # by value, the reference among them

    @property
    def title(self) -> str:
        """Where it was made."""
        if self.suite == "locomotion" or len(self.tasks) == 1:
            return self.tasks[0]
        return f"{SUITES.get(self.suite, self.suite)}, {len(self.tasks)} tasks"

    @property
    def unit(self) -> str:
        """What a value counts."""
        name = "return" if self.suite == "locomotion" else "score"
        return name if len(self.tasks) == 1 else f"{name}, IQM over tasks"

    def arm(self, setting: str) -> Arm | None:
        """The arm of a setting, where the scale has it."""
        return next((arm for arm in self.arms if arm.setting == setting), None)


def reference(results: Results, suite: str, algorithm: str) -> str:
    """The variant of which an algorithm's ablations change one thing."""
    return "reference" if (algorithm, "reference") in results.algorithms(suite) else "default"


def groups(results: Results, ablation: str) -> list[Group]:
    """The groups of a scale's ablation; none where it has no such variants."""
    found = []
    for suite in results.suites:
        runs = results.runs[results.runs["suite"] == suite]
        varied = runs[runs["variant"].str.startswith(f"{ablation}.")]
        for algorithm, own in varied.groupby("algorithm"):
            tasks = tuple(own["task"].unique())
            variants = [reference(results, suite, algorithm), *own["variant"].unique()]
            for block in [(task,) for task in tasks] if suite == "locomotion" else [tasks]:
                arms = [_arm(results, ablation, suite, block, algorithm, variant) for variant in variants]
                arms.sort(key=lambda arm: (np.isnan(arm.value), arm.value))  # stable: the reference first of equals
                found.append(Group(suite, block, algorithm, tuple(arms)))
    return found


def _arm(results: Results, ablation: str, suite: str, tasks: tuple[str, ...], algorithm: str, variant: str) -> Arm:
    chosen = "suite == @suite and algorithm == @algorithm and variant == @variant and task in @tasks"
    runs, expected = results.runs.query(chosen), results.expected.query(chosen)
    there = runs.groupby("seed")["there"].sum() == len(tasks)
    seeds = sorted(there[there].index)
    matrix = statistics.score_matrix(results.scores, suite, algorithm, variant, tasks, seeds)
    values = expected[ablation] if ablation in expected else pd.Series(dtype=float)
    setting = variant.partition(".")[2] or "reference"
    curves = results.curves.query(f"{chosen} and seed in @seeds")
    return Arm(setting, values.iloc[0] if len(values) else np.nan, matrix, len(there), curves)


def at_equal_steps(group: Group) -> tuple[float, list[Arm]]:
    """The arms of a group of one task with their returns after the environment steps that all runs have made.

    Returns: these steps, NaN where nothing was run, and the arms that were.
    """
    curves = {arm.setting: progress.common_curves(arm.curves, "env_steps") for arm in group.arms}
    there = [arm for arm in group.arms if len(curves[arm.setting][0])]
    steps = min((curves[arm.setting][0][-1] for arm in there), default=np.nan)
    at = {name: np.array([np.interp(steps, grid, run) for run in values]) for name, (grid, values) in curves.items()}
    return steps, [replace(arm, matrix=at[arm.setting][:, None]) for arm in there]


@dataclass(frozen=True)
class Stiffened:
    """One algorithm and variant on stiff contacts beside the body's own."""

    task: str
    algorithm: str
    variant: str
    stiff: Arm
    own: Arm

    @property
    def samples(self) -> list[np.ndarray]:
        """Scores of both, on stiff contacts first."""
        return [self.stiff.matrix, self.own.matrix]

    @property
    def has_ratio(self) -> bool:
        """Whether both were run, and every score that is divided by is positive."""
        return bool(self.stiff.have and self.own.have and (self.own.matrix > 0).all())

    @cached_property
    def ratio(self) -> statistics.Estimate:
        """What of its score an algorithm keeps."""
        return statistics.contrast(kept, self.samples) if self.has_ratio else NONE


def kept(stiff: np.ndarray, own: np.ndarray) -> float:
    """Ratio of the IQMs of two groups of runs."""
    return statistics.METRICS["iqm"](stiff) / statistics.METRICS["iqm"](own)


def stiffened(results: Results) -> list[Stiffened]:
    """Every algorithm and variant on every stiff task of the suite `stiffness`."""
    found = []
    for algorithm, variant in results.algorithms("stiffness"):
        if algorithm in REFERENCES:
            continue
        for task in filter(lambda task: task.endswith(STIFF), results.tasks("stiffness")):
            pair = (
                _arm(results, "stiffness", suite, (name,), algorithm, variant)
                for suite, name in (("stiffness", task), ("locomotion", task.removesuffix(STIFF)))
            )
            found.append(Stiffened(task, algorithm, variant, *pair))
    return found
