"""The contract of `pwm.algorithms` in short runs: every baseline on one task of each suite it claims.

A baseline is found by its file and takes its settings from the test scale, so a new one is tested as it comes.
"""

import gc
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from interrupted import killed_and_resumed, same_files, same_weights, unbroken

from pwm import algorithms
from pwm.config import EvaluationConfig, RunConfig
from pwm.envs import TaskVectorEnv
from pwm.envs.tasks import RETURN_UNIT, SUITES, TASKS, get_task
from pwm.evaluate import episode_seed, evaluate, evaluate_run
from pwm.matrix import Matrix
from pwm.runs import Run

EPISODE = 25  # decisions of the shortened episodes: training sees many of them end
EVALUATION = EvaluationConfig(curve_points=2, curve_episodes=2)
TASK = {"locomotion": "hopper", "stiffness": "hopper-stiff", "mt30": "cartpole-swingup", "mt80": "mw-reach"}
COLUMNS = ["env_steps", "updates", "wall_time_s", "return", "success"]
SLACK = 1000  # bytes; a quarter of a short run makes many times as many
FEWEST_SAVES = 8  # a run of a few hundred steps could save its state that often
CLAIMS = [
    # On one worker, since the tests of a claim share its runs.
    pytest.param((name, suite), marks=pytest.mark.xdist_group(f"{name} {suite}"), id=f"{name}-{suite}")
    for name in algorithms.names()[1:]
    for suite in algorithms.baseline(name).SUITES
]


class Metered(Run):
    """A run that counts its chances to save, and at two of them measures what it holds.

    Args:
        marks: the chances at which to begin to trace allocations, and to measure twice.
    """

    def __init__(self, out: Path, config: RunConfig, marks: tuple[int, ...] = ()) -> None:
        super().__init__(out, config)
        self.chances, self.marks, self.held = 0, marks, []

    def save_state(self, make_state):
        self.chances += 1
        self.check()  # lets go of the metrics it watches
        if self.chances == min(self.marks, default=0):
            tracemalloc.start()
        elif self.chances in self.marks:
            self.held.append(held_bytes())


def held_bytes() -> int:
    """Bytes of all live tensors, and of the NumPy arrays that were made since allocations are traced."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    dense = [x.untyped_storage() for x in tensors if x.layout == torch.strided]  # other modules' tests make sparse ones
    storages = {storage.data_ptr(): storage for storage in dense}
    arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)])
    return sum(storage.nbytes() for storage in storages.values()) + sum(trace.size for trace in arrays.traces)


def settings_at_test_scale(name: str) -> dict:
    """Those of the baseline's first run there that starts from no world model."""
    matrix = Matrix("test")
    own = [run for run in matrix.runs() if run.algorithm == name and matrix.model_of(run) is None]
    assert own, f"{name} has no run of its own at the test scale: add one to workflows/config/test.yaml"
    return yaml.safe_load(matrix.text(own[0]))["settings"]


class Short(NamedTuple):
    """A baseline's finished short run, `folder`, and where others may go."""

    config: RunConfig
    folder: Path
    chances: int
    learns: bool
    root: Path

    def train(self, run: Run) -> None:
        """The baseline's `train`."""
        algorithms.baseline(self.config.algorithm).train(run)

    @property
    def metrics(self) -> pd.DataFrame:
        """The learning curve."""
        return pd.read_csv(self.folder / "metrics.csv")


@pytest.fixture(scope="module", params=CLAIMS)
def short(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Short]:
    """A run with seed 0 that was never killed."""
    name, suite = request.param
    task = TASK.get(suite, SUITES[suite][0])
    identity = {"scale": "test", "suite": suite, "task": task, "algorithm": name, "variant": "default", "seed": 0}
    config = RunConfig(**identity, settings=settings_at_test_scale(name), evaluation=EVALUATION)
    root = tmp_path_factory.mktemp(name) / "results"  # so that the state lies beside it
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, task, replace(TASKS[task], episode_length=EPISODE))
        run = Metered(root / "unbroken", config)
        algorithms.baseline(name).train(run)
        yield Short(config, run.out, run.chances, run.rows[-1]["env_steps"] > 0, root)


def metered(short: Short, folder: str) -> Metered:
    """A finished run with seed 1; allocations are traced from five eighths of its training on."""
    marks = tuple(short.chances * k // 8 for k in (5, 6, 8)) if short.chances else ()
    run = Metered(short.root / folder, short.config.model_copy(update={"seed": 1}), marks)
    try:
        short.train(run)
    finally:
        tracemalloc.stop()
    return run


def growth(run: Metered) -> int:
    """Bytes that a metered run came to hold in the last quarter of its training."""
    before, after = run.held
    return after - before


@pytest.fixture(scope="module")
def other_seed(short: Short) -> Metered:
    """The same with seed 1, metered."""
    return metered(short, "other")


def test_learning_curve(short: Short) -> None:
    rows = short.metrics
    assert list(rows.columns[:5]) == COLUMNS and np.isfinite(rows[COLUMNS]).all(axis=None)
    assert rows.iloc[1:].notna().all(axis=None)  # the first row knows no losses yet
    assert (rows.loc[0, ["env_steps", "updates"]] == 0).all() and rows["wall_time_s"].is_monotonic_increasing
    assert len(rows) == (1 + EVALUATION.curve_points if short.learns else 1)
    assert rows["env_steps"].is_unique and rows["env_steps"].is_monotonic_increasing
    manifest = json.loads((short.folder / "manifest.json").read_text())
    assert [manifest[key] for key in ("env_steps", "updates")] == rows[["env_steps", "updates"]].iloc[-1].tolist()
    assert manifest["seed"] == 0 and manifest["train_wall_s"] >= rows["wall_time_s"].iloc[-1]


def test_the_seed_decides_a_run_even_if_it_is_killed(short: Short) -> None:
    again = short.root / "again"
    if short.learns:
        kills = [short.chances // 3, short.chances // 3]
        killed_and_resumed(again, short.config, short.train, kills)
    else:  # there is nothing to resume
        unbroken(again, short.config, short.train)
    same_files(short.folder, again, "policy")
    first, second = ((folder / "policy/model.safetensors").read_bytes() for folder in (short.folder, again))
    assert first == second


def test_evaluations_on_the_way_leave_training_as_it_is(short: Short) -> None:
    fewer = EvaluationConfig(curve_points=1, curve_episodes=1)
    run = Metered(short.root / "fewer", short.config.model_copy(update={"evaluation": fewer}))
    short.train(run)
    assert len(run.rows) < 3
    same_weights(short.folder, run.out, "policy")


def test_another_seed_is_another_run(short: Short, other_seed: Metered) -> None:
    rows = pd.read_csv(other_seed.out / "metrics.csv")
    assert (rows["return"] != short.metrics["return"]).all()
    task = get_task(short.config.task)
    obs = np.random.default_rng(0).normal(size=(8, task.observation_dim)).astype(np.float32)
    acts = [
        algorithms.load_policy(short.config.algorithm, folder / "policy")(obs, np.ones(8, bool))
        for folder in (short.folder, other_seed.out)
    ]
    assert acts[0].shape == acts[1].shape == (8, task.action_dim)
    assert np.abs(acts).max() <= 1 and np.abs(acts[0] - acts[1]).max() > 1e-3


def test_memory_is_bounded(short: Short, other_seed: Metered) -> None:
    """In the last quarter of its training a run comes to hold no more arrays and tensors."""
    if short.learns:
        assert short.chances >= FEWEST_SAVES and other_seed.chances == short.chances
        assert growth(other_seed) < SLACK


@pytest.mark.parametrize("short", CLAIMS[:1], indirect=True)
def test_observations_that_are_kept_would_show(short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, step = [], TaskVectorEnv.step

    def keep(env: TaskVectorEnv, actions: np.ndarray) -> tuple:
        outcome = step(env, actions)
        kept.append(outcome[0].copy())
        return outcome

    monkeypatch.setattr(TaskVectorEnv, "step", keep)
    assert growth(metered(short, "leaking")) > SLACK


def test_scores_come_from_the_shared_evaluation(short: Short) -> None:
    """The policy left behind earns what the curve's last point says, and its score by the task's own rule."""
    task, seed = get_task(short.config.task), short.config.seed
    load = lambda: algorithms.load_policy(short.config.algorithm, short.folder / "policy")  # noqa: E731
    curve = evaluate(load(), task.name, EVALUATION.curve_episodes, episode_seed("curve", seed))
    assert short.metrics["return"].iloc[-1] == pytest.approx(curve.returns.mean(), rel=1e-6)
    scored, final = evaluate_run(short.folder, 3), evaluate(load(), task.name, 3, episode_seed("final", seed))
    assert scored["returns"] == final.returns.tolist() and len(set(scored["returns"])) == 3
    own = final.success_last.mean() if task.score == "success" else final.returns.mean() / RETURN_UNIT[task.score]
    assert scored["score"] == pytest.approx(own)
