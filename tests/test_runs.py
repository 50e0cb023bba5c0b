"""A run's records: event files, provenance, and what ends it."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from support import refusal, run_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pwm.errors import exit_on_user_error
from pwm.runs import CHECK_EVERY, Run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda **options: Run(tmp_path / "run", run_config("hopper", seed=4), **options)


def test_a_file_in_the_folders_place_is_refused(run, tmp_path):
    (tmp_path / "run").write_text("mine")
    refusal(run, str(tmp_path / "run"), "is a file")
    assert (tmp_path / "run").read_text() == "mine"


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2e12])
def test_a_value_that_is_not_finite_or_exploded_stops_the_run(run, value):
    one = run()
    one.log({"updates": 1, "loss": -1e11})
    with pytest.raises(FloatingPointError, match=r"update 2: loss is .*: training diverged"):
        one.log({"updates": 2, "loss": value})
    assert len(one.rows) == 1


def test_watched_metrics_are_looked_through_in_time(run):
    """All together after a while: the first broken one is named."""
    one = run(save_every=0.0)
    for update in range(1, CHECK_EVERY):
        one.watch(update, {"loss": torch.tensor(float("nan") if update > 40 else 0.5)})
    with pytest.raises(FloatingPointError, match="update 41: loss is nan"):
        one.watch(CHECK_EVERY, {"loss": torch.tensor(0.5)})


@pytest.mark.parametrize(
    "end",
    [lambda one: one.save_state(dict), lambda one: one.finish(Path("policy"), {}), Run.check],
    ids=["save", "finish", "check"],
)
def test_a_broken_state_is_never_saved(run, end):
    one = run(save_every=0.0)
    one.watch(3, {"norm": torch.tensor(1.0)})
    one.save_state(lambda: {"good": 1})
    one.watch(7, {"norm": torch.tensor(float("inf"))})
    with pytest.raises(FloatingPointError, match=f"update 7: norm is inf.* {one.state_folder}$"):
        end(one)
    assert one.load_state() == {"good": 1} and not (one.out / "manifest.json").exists()


def test_divergence_ends_a_command_with_one_line(run, capsys):
    @exit_on_user_error
    def main():
        run().log({"updates": 9, "loss": float("nan")})

    with pytest.raises(SystemExit) as ended:
        main()
    message = capsys.readouterr().err
    assert ended.value.code == 1
    assert message.startswith("error: update 9: loss is nan: training diverged") and message.count("\n") == 1
