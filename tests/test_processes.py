"""World models trained by two processes, each with half of every batch, against one process with all of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from project_copy import ROOT
from safetensors.torch import load_file
from support import model_config, write_episodes

from pwm import config
from pwm.config import ModelConfig
from pwm.data.episodes import Episodes
from pwm.data.windows import WindowSampler

TASKS = ("cheetah-run", "reacher-easy")


def train(folder: Path, model: ModelConfig, processes: int) -> subprocess.CompletedProcess:
    """Pre-train `model` in `folder` by so many processes on the data of TASKS."""
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_text(config.dump(model))
    data = [str(folder.parent / task) for task in model.tasks]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "pwm.pretrain"]
    command += ["--config", str(file), "--data", *data, "--out", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Episodes of both tasks."""
    for seed, task in enumerate(TASKS):
        write_episodes(tmp_path / task, task, seed=seed)
    return tmp_path


def test_shares_make_up_the_batch(data: Path) -> None:
    sets = [Episodes.open(data / task) for task in TASKS]
    whole, *shares = (WindowSampler(sets, 12, 3, 7, share=share) for share in ((0, 1), (0, 3), (1, 3), (2, 3)))
    for _ in range(3):
        expected, parts = whole.sample(), [sampler.sample() for sampler in shares]
        for k, part in enumerate(parts):
            for name, numbers in part._asdict().items():
                all_of_it = getattr(expected, name)
                assert torch.equal(numbers, all_of_it[k::3] if name == "task" else all_of_it[:, k::3])
    assert {sampler.state() for sampler in (whole, *shares)} == {whole.state()}


@pytest.mark.parametrize("num_q", [0, 2])
def test_two_processes_learn_as_one(data: Path, num_q: int) -> None:
    network = {"bins": 7, "num_q": num_q} if num_q else {}
    model = model_config(*TASKS, **network)
    model = model.model_copy(update={"settings": without_dropout(model)})
    for name, processes in (("one", 1), ("two", 2)):
        done = train(data / name, model, processes)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (pd.read_csv(data / name / "metrics.csv").drop(columns="wall_time_s") for name in ("one", "two"))
    assert len(one) == 20 and one["model_loss"].iloc[-1] < one["model_loss"].iloc[0]
    np.testing.assert_allclose(two, one, rtol=2e-4, atol=2e-5)
    weights, others = (load_file(data / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=2e-4, msg=name)
    assert not [*(data / "two").glob("*.tmp")]


def without_dropout(model: ModelConfig):
    """Its settings; every process drops other activations than one process does."""
    settings = model.settings
    return settings.model_copy(update={"world_model": settings.world_model.model_copy(update={"dropout": 0.0})})


def test_a_batch_that_cannot_be_shared_out_is_refused(data: Path) -> None:
    done = train(data / "odd", model_config(*TASKS, batch_size=9), 2)
    assert done.returncode != 0
    assert "batch_size 9 leaves 1 over for 2 processes; make it a multiple" in done.stderr
