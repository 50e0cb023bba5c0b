"""A run's records: event files, provenance, and what ends it."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from support import run_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pwm.runs import Run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda **options: Run(tmp_path / "run", run_config("hopper", seed=4), **options)


def test_tensorboard_holds_what_the_csv_holds(run, tmp_path):
    one = run(tensorboard=True)
    for updates, value in ((5, 1.5), (10, -2.0)):
        one.log({"updates": updates, "return": torch.tensor(value)})
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("return")] == [(5, 1.5), (10, -2.0)]
    assert not (tmp_path / "run" / "metrics.csv").exists()  # that one appears when the run has ended


def test_no_event_files_unless_asked_for(run, tmp_path):
    run().log({"updates": 1, "return": 0.0})
    assert not (tmp_path / "run").exists()


def test_manifest_tells_where_a_result_comes_from(run, tmp_path):
    one = run()
    one.log({"env_steps": 7, "updates": 3, "return": 0.0})
    one.finish(Path("policy"), {"x": torch.ones(2)}, task="hopper")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert manifest["commit"].removesuffix("-dirty") == (head.stdout.strip() or "unknown")
    assert manifest["seed"] == 4 and manifest["task"] == "hopper"
    assert (manifest["env_steps"], manifest["updates"]) == (7, 3)
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["train_wall_s"] >= 0 and manifest["started"] <= manifest["ended"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stops_the_run(run, value):
    one = run()
    one.log({"updates": 1, "loss": 0.5})
    with pytest.raises(FloatingPointError, match=r"loss is .* in row 1: training diverged"):
        one.log({"updates": 2, "loss": value})
    assert len(one.rows) == 1
