"""Workflows and stages that are killed at random moments: the same command again completes, as if nothing had been."""

import json
import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from killing import Killable, assert_nothing_half, facts, results
from project_copy import copy_project

pytestmark = pytest.mark.xdist_group("workflow")

SHORT = "results/test/runs/locomotion/hopper/sac/default/seed0/eval.json"
MODEL, RUNS = "results/test/models/mt30/multitask/all/seed0", "results/test/runs/locomotion/hopper"
STAGES = {  # its folder, and what it makes there
    "collect": ("results/test/data/cartpole-swingup/episodes", ["*.npy", "meta.json"]),
    "pretrain": (MODEL, ["model.safetensors", "metrics.csv"]),
    "extract": (f"{RUNS}/pwm/default/seed0", ["policy/model.safetensors", "metrics.csv"]),
    "tdmpc2": (f"{RUNS}/tdmpc2/default/seed0", ["policy/model.safetensors", "metrics.csv"]),
    "evaluate": (f"{RUNS}/sac/default/seed1", ["eval.json"]),
    "collate": ("results/test", ["scores.csv", "curves.csv", "expected.csv", "data.csv"]),
}


def careful_copy(folder: Path) -> None:
    """A copy of the project whose runs save their state at every update, so that kills find states."""
    copy_project(folder)
    code = folder / "pwm" / "runs.py"
    text = code.read_text()
    assert "save_every: float = 60.0" in text
    code.write_text(text.replace("save_every: float = 60.0", "save_every: float = 0.0"))


def test_a_workflow_killed_again_and_again(project, tmp_path, faults, thorough):
    """All of it in turn with Snakemake alone, whose jobs then go on beside those of the next one.

    Moments are counted in finished jobs, and some seconds more: from before the first job to the last ones.
    """
    careful_copy(tmp_path)
    rng = np.random.default_rng(3)
    kills, jobs, target = (20, 110, []) if thorough else (2, 2, ["--", SHORT])
    command = ["snakemake", "--cores", "2", "--config", "scale=test", *target]
    moments = np.diff(np.sort(rng.integers(0, jobs, kills)), prepend=0)
    started = [Killable(tmp_path, command, tmp_path / "log0")]

    def again() -> None:
        """It must get as far as the next moment, or to its end."""
        started.append(Killable(tmp_path, command, tmp_path / f"log{len(started)}"))
        if len(started) <= kills:
            assert started[-1].run_until(moments[len(started) - 1]), started[-1].printed[-3000:]
            return
        started[-1].finish()
        assert_nothing_half(tmp_path)
        made, unbroken = results(tmp_path), results(project)
        assert {*made} == {*unbroken} if thorough else made
        assert not [name for name, content in made.items() if content != unbroken[name]]

    try:
        assert started[0].run_until(moments[0])
        for number in range(kills):
            alone = number % 2 == 1
            seconds = rng.uniform(0, 1 if moments[number] else 12 if thorough else 3)
            assert started[-1].run_for(seconds), started[-1].printed[-3000:]
            started[-1].kill(alone)
            with faults("orphans" if alone else "killed") as tally, tally.fault(f"after {moments[number]} jobs"):
                again()
    finally:
        for workflow in started:
            workflow.clean_up()


def made_by(stage: str, project: Path) -> tuple[list[str], dict[Path, bytes]]:
    """A stage's command, and what it has made in `project`, by the path from there."""
    folder, globs = STAGES[stage]
    files = [path for glob in globs for path in sorted((project / folder).glob(glob))]
    by_hand = {
        "collect": f"python -m pwm.collect --config {Path(folder).parent}/config.yaml --out {folder}",
        "evaluate": f"python -m pwm.evaluate --run {folder} --episodes 2",
        "collate": f"python -m pwm.scores --scale test --out {folder}",
    }
    command = by_hand.get(stage) or json.loads((project / folder / "manifest.json").read_text())["command"]
    return shlex.split(command), {path.relative_to(project): facts(path) for path in files}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage(project, tmp_path, faults, thorough, stage):
    """By itself: killed at random moments and started again each time, until it ends."""
    if stage != "extract" and not thorough:
        pytest.skip("takes half a minute; make faults runs it")
    careful_copy(tmp_path)
    shutil.copytree(project / "results" / "test", tmp_path / "results" / "test")
    command, made = made_by(stage, project)
    assert made

    def start() -> Killable:
        return Killable(tmp_path, command, tmp_path / "log")

    def remove() -> None:
        for path in made:
            (tmp_path / path).unlink()
        shutil.rmtree(tmp_path / "state", ignore_errors=True)

    def compare() -> None:
        assert {path: facts(tmp_path / path) for path in made} == made
        assert_nothing_half(tmp_path)

    remove()
    began = time.time()
    start().finish()
    compare()
    duration, rng = time.time() - began, np.random.default_rng(len(stage))
    with faults("killed stage") as tally:
        for _ in range(3 if thorough else 1):
            remove()
            killed = start()
            moment = rng.uniform(0.2, 1)
            while not killed.run_for(moment * duration):  # it was quicker this time
                moment *= 0.9
                remove()
                killed = start()
            killed.kill()
            with tally.fault(f"{stage} at {moment:.2f} of {duration:.0f} s"):
                start().finish()
                compare()
