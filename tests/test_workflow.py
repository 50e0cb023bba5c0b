"""The whole DAG at the `test` scale, in a copy of the project: what it makes, and what it makes again when."""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from project_copy import copy_project, environment, snakemake
from tensordict import TensorDict

from pwm.data.episodes import Episodes
from pwm.matrix import Matrix
from workflows.plan import jobs

pytestmark = pytest.mark.xdist_group("workflow")


def dry_run(project: Path, *words: str) -> dict[str, int]:
    """Jobs of a dry run by rule, without the target rule."""
    done = snakemake(project, "--dry-run", "--config", "scale=test", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    stats = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in stats if rule not in ("total", "all")}


def planned(project: Path) -> dict[str, int]:
    """The same without the report's pages, which follow whatever is made."""
    return {rule: count for rule, count in dry_run(project).items() if rule != "report_pages"}


def rerun(project: Path) -> dict[str, int]:
    """The same without those that only show what there is."""
    shown = ("plot_", "tabulate_", "configure_scale")
    return {rule: count for rule, count in planned(project).items() if not rule.startswith(shown)}


@pytest.fixture
def edited(project: Path):
    """Write new text into a file of the project; it is put back afterwards, with its old time."""
    saved: list[tuple[Path, str, os.stat_result]] = []

    def edit(path: str, old: str, new: str) -> None:
        file = project / path
        text = file.read_text()
        assert old in text
        saved.append((file, text, file.stat()))
        file.write_text(text.replace(old, new))

    yield edit
    for file, text, stat in saved:
        file.write_text(text)
        os.utime(file, (stat.st_atime, stat.st_mtime))


def test_every_expected_run_has_a_score(project: Path) -> None:
    scores = pd.read_csv(project / "results/test/scores.csv")
    keys = ["suite", "task", "algorithm", "variant", "seed"]
    wanted = {(run.suite, run.task, run.algorithm, run.variant, run.seed) for run in Matrix("test").runs()}
    assert set(scores[keys].itertuples(index=False, name=None)) == wanted
    assert scores["score"].notna().all()
    assert scores[scores["suite"] == "mt30"]["score"].between(0, 1).all()


def test_learning_curves_have_a_point_at_every_cadence(project: Path) -> None:
    curves = pd.read_csv(project / "results/test/curves.csv")
    extraction = curves[(curves["algorithm"] == "pwm") & (curves["suite"] == "mt30")]
    assert extraction.groupby(["task", "variant", "seed"])["updates"].apply(list).map(lambda u: u == [0, 2, 4]).all()


def test_figures_tables_and_records_exist(project: Path) -> None:
    figures = {path.stem for path in (project / "workflows/figures").glob("[!_]*.py")} - {"style"}
    tables = {path.stem for path in (project / "workflows/tables").glob("[!_]*.py")} - {"common"}
    for stem in figures:
        assert (project / f"figures/test/{stem}.pdf").read_bytes().startswith(b"%PDF")
        assert (project / f"figures/test/{stem}.png").read_bytes().startswith(b"\x89PNG")
    for stem in tables:
        for ending in ("csv", "md", "tex", "html"):
            assert (project / f"results/test/tables/{stem}.{ending}").stat().st_size > 0
    for run in Matrix("test").runs():
        folder = project / "results/test/runs" / run.path
        assert yaml.safe_load((folder / "config.yaml").read_text())["task"] == run.task
        assert '"commit"' in (folder / "manifest.json").read_text()
    assert not [path for path in (project / "state").rglob("*") if path.is_file()]


def test_a_second_run_does_nothing(project: Path) -> None:
    assert dry_run(project) == {}


def test_an_edited_figure_script_redraws_that_figure_alone(project: Path, edited) -> None:
    edited("workflows/figures/mt30_per_task.py", "import", "# edited\nimport")
    assert planned(project) == {"plot_mt30_per_task": 1}


def test_a_changed_setting_reruns_what_depends_on_it(project: Path, edited) -> None:
    edited("workflows/config/test.yaml", "env_steps: 256", "env_steps: 384")
    assert rerun(project) == {"configure_run": 2, "ppo": 2, "evaluate": 2, "film_strip": 1, "collate": 1}


def test_more_final_episodes_train_nothing(project: Path, edited) -> None:
    edited("workflows/config/test.yaml", "episodes: 2\nevaluation", "episodes: 3\nevaluation")
    assert rerun(project) == {"evaluate": len(Matrix("test").runs()), "collate": 1}


def test_another_model_seed_leaves_the_first_as_it_is(project: Path, edited) -> None:
    edited(
        "workflows/config/test.yaml",
        "    seeds: 2\n    collect: {mixture: {random: 20}}",
        "    seeds: 2\n    model_seeds: 2\n    collect: {mixture: {random: 20}}",
    )
    assert rerun(project) == {"configure_model": 1, "pretrain": 1, "extract": 1, "evaluate": 1, "collate": 1}


def test_a_changed_world_model_reruns_its_own_runs_only(project: Path, edited) -> None:
    edited("workflows/config/test.yaml", "consistency_coef: 20.0", "consistency_coef: 10.0")
    assert rerun(project) == {
        "configure_model": 1,
        "pretrain": 1,
        "extract": 4,
        "tdmpc2": 4,
        "evaluate": 8,
        "collate": 1,
    }


def test_a_measurement_is_made_again_by_itself(project: Path, edited) -> None:
    edited("workflows/config/test.yaml", "ball_wall: {seeds: 2", "ball_wall: {seeds: 3")
    settings = {"configure_scale": 1, "tabulate_hyperparameters": 1}
    again = {"configure_gradients": 1, "ball_wall": 1, "plot_ball_wall": 1, "tabulate_claims": 1}
    assert planned(project) == again | settings


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Path:
    """A clean clone of a repository with the code and a scale's committed CSV files, and nothing else."""
    origin = tmp_path / "origin"
    copy_project(origin)
    (origin / "results/test").mkdir()
    for name in ("scores", "curves", "expected", "data"):
        shutil.copy(project / f"results/test/{name}.csv", origin / "results/test")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"], ["clone", "-q", ".", "../clone"]):
        subprocess.run([*git, *words], cwd=origin, check=True)
    return tmp_path / "clone"


def test_a_figure_is_redrawn_from_committed_scores_without_training(project: Path, clone: Path) -> None:
    began = time.time()
    done = snakemake(clone, "figures/test/mt30_per_task.pdf")
    print(f"redrawn in {time.time() - began:.1f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, flags=re.MULTILINE)) == {
        "plot_mt30_per_task"
    }
    assert not (clone / "results/test/runs").exists()
    drawn = {ending: clone / f"figures/test/mt30_per_task.{ending}" for ending in ("pdf", "png", "csv", "json")}
    bytes_drawn = {ending: file.read_bytes() for ending, file in drawn.items()}
    assert bytes_drawn == {
        ending: (project / f"figures/test/{file.name}").read_bytes() for ending, file in drawn.items()
    }
    # And by the command that its bundle names, without Snakemake.
    bundle = json.loads(bytes_drawn["json"])
    assert yaml.safe_load(bundle["config"])["suites"].keys() == Matrix("test").config.suites.keys()
    assert bundle["commit"] == pd.read_csv(clone / "results/test/scores.csv")["commit"].unique().item()
    for file in drawn.values():
        file.unlink()
    subprocess.run(shlex.split(bundle["command"]), cwd=clone, env=environment(), check=True)
    assert bytes_drawn == {ending: file.read_bytes() for ending, file in drawn.items()}


def test_a_plan_counts_the_jobs_of_the_dag(project: Path) -> None:
    todo = dry_run(project, "--forceall")
    of_dag: Counter[str] = Counter()
    for rule, count in todo.items():
        if not rule.startswith("configure_") and rule != "report_pages":  # not measured
            of_dag[re.sub(r"^(plot|tabulate|import)_.*", r"\1", rule)] += count
    assert Counter(job.rule for job in jobs(Matrix("test"))) == of_dag


@pytest.mark.parametrize(
    "scale", ["test", "demo", "contacts", "learning", "online", "timing", "laptop", "paper", "sizes"]
)
def test_every_scale_resolves(project: Path, tmp_path: Path, scale: str) -> None:
    done = snakemake(project, "--dry-run", "--quiet", "--directory", str(tmp_path), "--config", f"scale={scale}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_world_model_on_two_gpus_is_that_on_one(project: Path, tmp_path: Path) -> None:
    """By two processes, here on the CPU, which learn what one did."""
    model = "results/test/models/mt30/default/reacher-easy/seed0"
    words = ["--directory", str(tmp_path), "--resources", "gpu=2", "--set-resources", "pretrain:gpu=2"]
    done = snakemake(project, *words, "--config", "scale=test", "--", f"{model}/model.safetensors")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / model / "manifest.json").read_text())
    assert manifest["hardware"]["processes"] == 2
    one, two = (pd.read_csv(folder / model / "metrics.csv") for folder in (project, tmp_path))
    assert len(two) == len(one) > 0
    pd.testing.assert_series_equal(two["model_loss"], one["model_loss"], rtol=1e-3)
    assert len([*(tmp_path / model).glob("*.safetensors")]) == 1 and not [*(tmp_path / "state").rglob("*.pt")]


def test_runs_are_learned_together_where_a_scale_says_so(project: Path, edited, tmp_path: Path) -> None:
    edited("workflows/config/test.yaml", "env_steps: 100\n", "env_steps: 100\n          together: true\n")
    folders = [f"results/test/runs/locomotion/hopper/tdmpc2/default/seed{seed}" for seed in (0, 1)]
    words = [
        "--directory",
        str(tmp_path),
        "--config",
        "scale=test",
        "--",
        *(f"{folder}/eval.json" for folder in folders),
    ]
    done = snakemake(project, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    for seed, folder in enumerate(folders):
        assert json.loads((tmp_path / folder / "manifest.json").read_text())["together"] == folders
        assert pd.read_csv(tmp_path / folder / "metrics.csv")["updates"].iloc[-1] == 100
        assert json.loads((tmp_path / folder / "policy/config.json").read_text())["config"]["seed"] == seed
    assert [file.name for file in (tmp_path / "results/test/benchmarks").iterdir()].count("tdmpc2_together.tsv") == 1


@pytest.mark.parametrize("rule", ["pretrain", "ppo"])
def test_a_job_has_the_threads_of_its_rule(project: Path, rule: str) -> None:
    """In the scale `test` all have one, but for PPO."""
    folders = {"pretrain": "models/mt30/default/reacher-easy/seed0", "ppo": "runs/locomotion/hopper/ppo/default/seed0"}
    manifest = json.loads((project / "results/test" / folders[rule] / "manifest.json").read_text())
    assert manifest["hardware"]["threads"] == Matrix("test").resources(rule).threads == (2 if rule == "ppo" else 1)


def test_episodes_are_imported_where_a_scale_says_so(project: Path, edited, tmp_path: Path) -> None:
    """Refused before any job while TD-MPC2's files are absent; then one job makes the data sets of all their tasks."""
    edited(
        "workflows/config/test.yaml",
        "reacher-easy: {}",
        "reacher-easy: {collect: {tdmpc2: true}}\n      cup-catch: {collect: {tdmpc2: true}}",
    )
    targets = [f"results/test/data/{task}/episodes/meta.json" for task in ("reacher-easy", "cup-catch")]
    words = ["--directory", str(tmp_path), "--config", "scale=test", "--", *targets]
    refused = snakemake(project, *words)
    assert refused.returncode == 2 and not (tmp_path / "results").exists()
    assert "error: data/tdmpc2" in refused.stderr and "huggingface.co/datasets/nicklashansen/tdmpc2" in refused.stderr
    tensors = {"obs": torch.zeros(3, 501, 24), "action": torch.zeros(3, 501, 6), "reward": torch.ones(3, 501)}
    tensors["task"] = torch.tensor([4, 12, 4])[:, None].repeat(1, 501)
    (tmp_path / "data/tdmpc2/mt30").mkdir(parents=True)
    torch.save(TensorDict(tensors, batch_size=(3, 501)), tmp_path / "data/tdmpc2/mt30/own.pt")
    done = snakemake(project, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [Episodes.open((tmp_path / target).parent).meta.episodes for target in targets] == [2, 1]
    assert len(list((tmp_path / "results/test/logs/import").iterdir())) == 1
    shutil.rmtree(tmp_path / "data")  # 20 GB may go once they are sharded
    again = snakemake(project, *words)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr + again.stdout


BAD_INPUT = {
    "unknown scale": ((), "scale=tset", "unknown scale 'tset'"),
    "unknown command-line key": ((), "sclae=test", "unknown key 'sclae'"),
    "unknown key": (("2\n    collect:", "2\n    sedes: 2\n    collect:"), "scale=test", "'suites.locomotion.sedes'"),
    "unknown setting": (("env_steps: 256", "env_step: 256"), "scale=test", "did you mean 'env_steps'?"),
    "wrong type": (("env_steps: 256", "env_steps: many"), "scale=test", "'env_steps': input should be a valid integer"),
    "negative budget": (("env_steps: 256", "env_steps: -256"), "scale=test", "'env_steps'"),
    "unknown setting of a measurement": (("starts: 10", "start: 10"), "scale=test", "did you mean 'starts'?"),
    "unknown task": (("hopper: {}", "hoper: {}"), "scale=test", "hopper"),
    "unknown algorithm": (("ppo:\n", "pop:\n"), "scale=test", "unknown algorithm 'pop'; did you mean 'ppo'?"),
    "together without planning": (
        ("planning: null,", "planning: null, together: true,"),
        "scale=test",
        "only online runs that plan are trained together",
    ),
    "suite not supported": (
        ("random:\n        default: {}\n\n  mt80", "shac:\n        default: {}\n\n  mt80"),
        "scale=test",
        "'shac' does not support suite 'mt30'; it supports loco",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_ends_before_any_job_in_one_line(project: Path, edited, case: str) -> None:
    change, setting, message = BAD_INPUT[case]
    if change:
        edited("workflows/config/test.yaml", *change)
    done = snakemake(project, "--config", setting)
    lines = [
        line for line in done.stderr.splitlines() if line and not line.startswith("Using workflow specific profile")
    ]
    assert done.returncode == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], done.stderr
