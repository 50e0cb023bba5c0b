"""Runs that are killed and started again, and what is compared with a run that was never killed."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pwm.runs import Run


class Killed(Exception):
    """Stands for the signal that ends a run."""


class MortalRun(Run):
    """A run that saves at every opportunity and dies in the middle of the work after its n-th save."""

    def __init__(self, out, config, saves):
        super().__init__(out, config, save_every=0.0)
        self.saves_left = saves

    def save_state(self, make_state):
        if self.saves_left == 0:
            raise Killed
        super().save_state(make_state)
        self.saves_left -= 1


def killed_and_resumed(out, config, work, kills):
    """Start `work(run)` again after every kill, each time in a world that moved on, then let it end."""
    for saves in kills:
        with pytest.raises(Killed):
            work(MortalRun(out, config, saves))
        torch.rand(7), np.random.rand(7)  # noqa: NPY002 - what a new process draws before it resumes
    run = Run(out, config, save_every=0.0)
    assert (run.state_folder / "state.pt").exists()
    work(run)
    assert not run.state_folder.exists()


def unbroken(out, config, work):
    """Let `work(run)` end."""
    work(Run(out, config))


def same_weights(a, b, checkpoint="."):
    """Equal weights."""
    x, y = (load_file(folder / checkpoint / "model.safetensors") for folder in (a, b))
    assert x.keys() == y.keys()
    for name in x:
        assert torch.equal(x[name], y[name]), name


def same_files(a, b, checkpoint="."):
    """Equal weights and equal metrics, but for the time they took; as many rows as an unbroken run has."""
    same_weights(a, b, checkpoint)
    metrics = [pd.read_csv(folder / "metrics.csv").drop(columns="wall_time_s") for folder in (a, b)]
    pd.testing.assert_frame_equal(*metrics, check_exact=True)
    assert metrics[0]["updates"].is_monotonic_increasing and metrics[0]["updates"].is_unique
