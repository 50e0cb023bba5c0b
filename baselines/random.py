"""Uniformly random actions: the floor that every other score is read against."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pwm.algorithms import Policy
from pwm.config import Config
from pwm.envs.tasks import SUITES as ALL_SUITES
from pwm.envs.tasks import get_task

if TYPE_CHECKING:
    from pwm.runs import Run

SUITES = tuple(ALL_SUITES)


class Settings(Config):
    """There is nothing to set."""


def train(run: "Run") -> None:
    """Nothing is learnt: one point of the learning curve, and a checkpoint that names the task."""
    import torch

    from pwm.evaluate import curve_point

    curve_point(run, _policy(run.config.task, run.config.seed), env_steps=0, updates=0)
    run.finish(Path("policy"), {"none": torch.zeros(1)}, task=run.config.task)


def load_policy(folder: Path) -> Policy:
    """The policy, seeded by the run's seed."""
    from pwm.runs import load_checkpoint

    _, saved = load_checkpoint(folder)
    return _policy(saved["config"]["task"], saved["config"]["seed"])


def _policy(task: str, seed: int) -> Policy:
    rng = np.random.default_rng(seed)
    action_dim = get_task(task).action_dim
    return lambda obs, first: rng.uniform(-1.0, 1.0, (len(obs), action_dim)).astype(np.float32)
