"""docs/add-a-baseline.md, add-a-task.md and add-a-figure.md, followed to the letter; and a baseline that breaks."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from project_copy import PARTS, copy_project, snakemake
from synthetic_results import write_results
from tutorials import follow, run

from workflows.figures import style

pytestmark = pytest.mark.xdist_group("workflow")
CEM = "results/test/runs/locomotion/hopper/cem/default"
FIGURES = {
    "locomotion_per_task",
    "learning_curves",
    "learning_curves_wall_time",
    "locomotion_aggregate",
}  # at least these
TABLES = {"per_task_scores", "aggregates"}
TESTS = ("tests", "pyproject.toml")  # what a copy needs to run tests, too


@pytest.fixture
def finished(project: Path, tmp_path: Path) -> Iterator[Path]:
    """The workflow tests' project with the test scale finished, to change at will; it is put back afterwards.

    It stays in its place, since Snakemake draws everything again where the paths of the scripts are others.
    """
    shutil.copytree(project, tmp_path / "before", symlinks=True)
    copy_project(project, TESTS)
    yield project
    shutil.rmtree(project)
    shutil.move(tmp_path / "before", project)


def has_colour(picture: Path, colour: str) -> bool:
    """Whether more than a few pixels are exactly of this colour."""
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    return (pixels == tuple(bytes.fromhex(colour[1:]))).all(axis=1).sum() > 20


def shows(file: Path, algorithm: str) -> bool:
    """Whether the numbers of a figure or table hold runs of this algorithm on the hopper's suite."""
    numbers = pd.read_csv(file)
    own = numbers[numbers["suite"] == "locomotion"] if "suite" in numbers else numbers
    return "algorithm" in own and algorithm in set(own["algorithm"])


def test_add_a_baseline(finished: Path, tmp_path: Path) -> None:
    """Wherever PPO's runs on the hopper are shown, so are the new ones, in a colour that nothing else has."""
    follow("add-a-baseline", finished)
    for folder in ("runs", "models", "data", "gradients"):  # nothing that was finished is made again
        for file in (tmp_path / "before/results/test" / folder).rglob("*.*"):
            now = finished / file.relative_to(tmp_path / "before")
            assert now.stat().st_mtime_ns == file.stat().st_mtime_ns, now
    scores = pd.read_csv(finished / "results/test/scores.csv").query("algorithm == 'cem'").set_index("seed")
    assert (scores["task"] == "hopper").all() and sorted(scores.index) == [0, 1]
    for seed, score in scores.iterrows():
        told = json.loads((finished / f"{CEM}/seed{seed}/eval.json").read_text())
        assert score["score"] == pytest.approx(np.mean(told["returns"])) and len(told["returns"]) == 2
        assert score["updates"] == 10 and 10 * 16 <= score["env_steps"] <= 10 * 16 * 1000
    curves = pd.read_csv(finished / "results/test/curves.csv").query("algorithm == 'cem'").groupby("seed")["return"]
    assert curves.last().mean() > curves.first().mean() + 200  # it learns to stand: a step pays about 1
    expected = pd.read_csv(finished / "results/test/expected.csv")
    assert (expected["algorithm"] == "cem").sum() == 2

    numbers = [*(finished / "figures/test").glob("*.csv"), *(finished / "results/test/tables").glob("*.csv")]
    of_runs = {file.stem for file in numbers if shows(file, "ppo")}
    assert of_runs >= FIGURES | TABLES
    assert of_runs == {file.stem for file in numbers if shows(file, "cem")}
    for stem in TABLES:
        assert re.search(r"\bcem\b", (finished / f"results/test/tables/{stem}.md").read_text())
    colour = style.SPARE_COLOURS[0]
    for stem in FIGURES:  # elsewhere a bar may be too short to be seen
        assert has_colour(finished / f"figures/test/{stem}.png", colour), stem
        assert not has_colour(tmp_path / f"before/figures/test/{stem}.png", colour), stem
    assert (finished / f"{CEM}/seed0/film_strip.png").exists()


def test_a_baseline_that_raises(finished: Path) -> None:
    """It fails alone, leaves its log and its state, is named where results are partial, and goes on once mended."""
    follow("add-a-baseline", finished, commands=False)
    file = finished / "baselines/cem.py"
    whole = file.read_text()
    loop = '    for iteration in run.progress(settings.iterations, search["updates"]):\n'
    fault = "        if iteration == 3 and run.config.seed == 1:\n            raise ArithmeticError('out of numbers')\n"
    assert loop in whole
    file.write_text(whole.replace(loop, "    run.save_every = 0.0\n" + loop + fault))
    targets = ["figures/test/locomotion_per_task.pdf", "results/test/tables/per_task_scores.md"]
    before = (finished / "results/test/scores.csv").read_bytes()

    broken = snakemake(finished, *targets, "--config", "scale=test")
    assert broken.returncode == 1 and "ArithmeticError: out of numbers" in broken.stdout + broken.stderr
    assert (finished / f"{CEM}/seed0/eval.json").exists() and not (finished / f"{CEM}/seed1/policy").exists()
    assert (finished / f"{CEM}/seed1/log.txt").read_text().endswith("ArithmeticError: out of numbers\n")
    (state,) = (finished / "state/test/runs/locomotion/hopper/cem/default/seed1").glob("*/state.pt")
    assert torch.load(state, weights_only=True)["state"]["updates"] == 3
    assert (finished / "results/test/scores.csv").read_bytes() == before  # no result without the run

    partial = snakemake(finished, *targets, "--config", "scale=test", "partial=true")
    assert partial.returncode == 0, partial.stdout + partial.stderr
    assert "missing: locomotion/hopper/cem/default/seed1\n" in (finished / "results/test/logs/collate.log").read_text()
    scores, expected = (pd.read_csv(finished / f"results/test/{name}.csv") for name in ("scores", "expected"))
    assert scores.query("algorithm == 'cem'")["seed"].tolist() == [0]
    assert expected.query("algorithm == 'cem'")["seed"].tolist() == [0, 1]
    drawn = pd.read_csv(finished / "figures/test/locomotion_per_task.csv").query(
        "algorithm == 'cem' and seed == 'mean'"
    )
    assert drawn[["n", "expected"]].values.tolist() == [[1, 2]]
    table = (finished / "results/test/tables/per_task_scores.md").read_text()
    assert len(re.findall(r"\(1/2\)", table)) == 1 and "/2)" not in table.replace("(1/2)", "")

    file.write_text(whole)
    mended = snakemake(finished, *targets, "--config", "scale=test")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert f"resuming from {state.relative_to(finished)}" in (finished / f"{CEM}/seed1/log.txt").read_text()
    assert not state.exists()
    run(f"python -m baselines --config {CEM}/seed1/config.yaml --out unbroken", finished)
    resumed, unbroken = (finished / folder / "policy/model.safetensors" for folder in (f"{CEM}/seed1", "unbroken"))
    assert resumed.read_bytes() == unbroken.read_bytes()
    assert "(1/2)" not in (finished / "results/test/tables/per_task_scores.md").read_text()


REWARD = """
import numpy as np
from pwm import envs
from pwm.envs.dmcontrol import load
env = load("cartpole-spin", 0)
env.reset()
for turn in np.linspace(-15, 15, 13):
    env.physics.data.qvel[:] = [3.0, turn]
    assert np.isclose(env.task.get_reward(env.physics), min(abs(turn) / 10, 1)), turn
env.reset()
assert env.physics.pole_angle_cosine()[0] < -0.9  # it hangs
assert "cartpole-spin" not in envs.SUITES["mt30"] + envs.SUITES["mt80"]
"""


def test_add_a_task(tmp_path: Path) -> None:
    copy_project(tmp_path, PARTS + TESTS)
    follow("add-a-task", tmp_path)
    (tmp_path / "reward.py").write_text(REWARD)
    run("PYTHONPATH=. python reward.py", tmp_path)
    scores = pd.read_csv(tmp_path / "results/extra/scores.csv").set_index("algorithm")
    assert set(scores.index) == {"pwm", "random"} and (scores["task"] == "cartpole-spin").all()
    assert scores["score"].between(0, 1).all() and np.allclose(scores["return_mean"], 1000 * scores["score"])
    assert set(pd.read_csv(tmp_path / "figures/extra/learning_curves.csv")["suite"]) == {"extra"}
    table = (tmp_path / "results/extra/tables/per_task_scores.md").read_text()
    assert "| extra | cartpole-spin | return / 1000 |" in table


def test_add_a_figure(tmp_path: Path) -> None:
    """Drawn from made-up CSV files, by one job; two runs of PPO are missing."""
    copy_project(tmp_path, PARTS + TESTS)
    paths = write_results(tmp_path / "results/test", "test", missing=("algorithm == 'ppo' and seed > 0",))
    follow("add-a-figure", tmp_path)
    assert not (tmp_path / "results/test/runs").exists()
    logs = [path.stem for path in (tmp_path / "results/test/logs").rglob("*.log")]
    assert logs == ["cost"]
    assert (tmp_path / "figures/test/cost.pdf").read_bytes().startswith(b"%PDF")
    data, scores = pd.read_csv(tmp_path / "figures/test/cost.csv"), pd.read_csv(paths["scores"])
    unit = scores.query("task == 'hopper' and algorithm == 'ppo'")["score"].mean()
    runs = scores[~scores["algorithm"].isin(["random", "data"])]
    assert len(data) == len(runs) and (data["minutes"] == 1).all()
    hopper = data.query("suite == 'locomotion'")["score"].to_numpy()
    assert hopper == pytest.approx(runs.query("suite == 'locomotion'")["score"].to_numpy() / unit, rel=1e-6)
    for colour in ("pwm", "ppo", "shac", "tdmpc2"):
        assert has_colour(tmp_path / "figures/test/cost.png", style.COLOURS[colour])
