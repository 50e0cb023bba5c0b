"""The stages as commands, and the checkpoints between them: what is damaged or does not fit is refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import model_config, refusal, run_config, write_episodes

from pwm.config import dump
from pwm.pretrain import build_model
from pwm.runs import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent


def command(folder, *words):
    """Run a stage as a user does; its error output must be one line."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("given", ["", "soon", "0", "nan", "inf"])
def test_patience_is_a_number_of_seconds(tmp_path, monkeypatch, given):
    monkeypatch.setenv("PWM_HANGING", given)
    assert f"PWM_HANGING is '{given}'" in command(tmp_path, "workflows.licences")


def write_config(path, config):
    path.write_text(dump(config), encoding="utf-8")
    return path


def test_stages_refuse_in_one_line(tmp_path):
    """The commands themselves: exit code 2, one line on stderr, no traceback, and nothing is written."""
    data = write_episodes(tmp_path / "data", "hopper")
    with (data / "reward.npy").open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"x")
    settings = model_config("hopper")
    model = write_config(tmp_path / "model.yaml", settings)
    save_checkpoint(
        tmp_path / "model",
        build_model(settings.settings, ("hopper",)).state_dict(),
        {"config": settings.model_dump(mode="json")},
    )
    other = write_config(tmp_path / "walker.yaml", run_config("walker-walk"))
    unknown = write_config(tmp_path / "unknown.yaml", run_config("hopper", algorithm="pppo"))
    out = tmp_path / "out"
    assert "none.yaml" in command(tmp_path, "pwm.collect", "--config", "none.yaml", "--out", out)
    pretrain = command(tmp_path, "pwm.pretrain", "--config", model, "--data", data, "--out", out)
    assert "reward.npy" in pretrain and "checksum" in pretrain
    extract = ("pwm.extract", "--data", data, "--out", out)
    wrong = command(tmp_path, *extract, "--config", other, "--model", tmp_path / "model")
    assert "'walker-walk'" in wrong and "model of hopper" in wrong
    assert "'ppo'" in command(tmp_path, "baselines", "--config", unknown, "--out", out)
    assert "config.yaml" in command(tmp_path, "pwm.evaluate", "--run", tmp_path / "nothing")
    assert not out.exists()


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "c", {"w": torch.arange(6.0).view(2, 3)}, {"kind": "x"})
    return tmp_path / "c"


def test_checkpoint_round_trip(checkpoint):
    tensors, saved = load_checkpoint(checkpoint)
    assert saved == {"format": 1, "kind": "x"} and tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_checkpoints_are_refused(checkpoint, name):
    file = checkpoint / name
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for broken in (b"", whole[:-1], whole[:20], rng.bytes(200)):
        file.write_bytes(broken)
        refusal(lambda: load_checkpoint(checkpoint), str(checkpoint), "damaged", "delete")
    file.unlink()
    refusal(lambda: load_checkpoint(checkpoint), str(checkpoint), "missing", "delete")


def test_a_checkpoint_of_another_format_is_refused(checkpoint):
    for content in ('{"format": 2}', "{}"):
        (checkpoint / "config.json").write_text(content)
        refusal(lambda: load_checkpoint(checkpoint), "format", "expected 1")
