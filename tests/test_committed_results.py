"""Results that are committed: whole, of runs that the scale lists, and enough to draw figures from in a clean clone."""

import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from drawing import draw
from project_copy import ROOT, copy_project, environment, snakemake
from test_figures import module_of

from pwm import statistics
from pwm.integrity import check_listed, unseal
from pwm.matrix import Matrix, RunId
from workflows.figures import style

SCALES = ("contacts", "laptop", "learning", "online-cpu", "tuning")
TABLES = ("scores", "curves", "expected", "data")
LIMIT = 3_000_000  # bytes, of all that is committed of these scales
DRAWN = [(scale, file.stem) for scale in SCALES for file in sorted((ROOT / "figures" / scale).glob("*.json"))]


def committed(scale: str) -> list[Path]:
    """The files of a scale that a clone has."""
    words = ["git", "ls-files", f"results/{scale}", f"figures/{scale}"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not told:
        pytest.skip("not a clone")
    return [ROOT / name for name in told]


def files(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.csv" for name in TABLES}


@pytest.mark.parametrize("scale", SCALES)
def test_the_files_are_whole_and_their_runs_are_listed(scale: str) -> None:
    folder = ROOT / "results" / scale
    listed = unseal((folder / "checksums.json").read_bytes())
    assert {*listed} == {f"{name}.csv" for name in (*TABLES, "provenance")}
    for name in listed:
        check_listed(folder / name)
    scores = statistics.load_scores(folder / "scores.csv")
    runs = {RunId(*row) for row in scores[statistics.RUN_KEYS].itertuples(index=False)}
    assert runs and runs <= {*Matrix(scale).runs()}
    made = set(pd.read_csv(folder / "provenance.csv")["made"])
    assert {f"runs/{run.path}" for run in runs} <= made


def test_what_is_committed_is_small_and_made_of_no_runs() -> None:
    found = [file for scale in SCALES for file in committed(scale)]
    assert sum(file.stat().st_size for file in found) < LIMIT
    assert not [
        file for file in found if {"runs", "models", "data", "benchmarks"} & {*file.relative_to(ROOT).parts[2:-1]}
    ]


@pytest.mark.parametrize(("scale", "stem"), DRAWN)
def test_committed_figures_are_drawn_from_committed_results(scale: str, stem: str, tmp_path: Path) -> None:
    (figure, data), results = draw(module_of(stem), files(ROOT / "results" / scale), scale, tmp_path / stem)
    style.save(figure, data, results)
    for ending in ("csv", "json"):
        there = ROOT / "figures" / scale / f"{stem}.{ending}"
        assert (tmp_path / there.name).read_bytes() == there.read_bytes(), f"draw {there} again"


def test_the_page_counts_the_runs() -> None:
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for scale in SCALES:
        have, want = (len(pd.read_csv(ROOT / f"results/{scale}/{name}.csv")) for name in ("scores", "expected"))
        assert f"| `{scale}` | {have} of {want} |" in page


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has: code and collated results, no runs. The code is newer, as a checkout may leave it."""
    folder = tmp_path_factory.mktemp("clone")
    copy_project(folder)
    old = time.time() - 3600
    for scale in SCALES:
        for file in (ROOT / "results" / scale).glob("*.*"):
            (folder / "results" / scale).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / "results" / scale)
            os.utime(folder / "results" / scale / file.name, (old, old))
    return folder


@pytest.mark.parametrize(
    ("scale", "stem", "partial"),
    [
        ("laptop", "locomotion_per_task", True),
        ("learning", "mt30_per_task", True),
        ("learning", "time_per_task", False),
    ],
)
def test_a_clean_clone_redraws_a_figure_and_starts_nothing_else(
    clone: Path, scale: str, stem: str, partial: bool
) -> None:
    before = {file: file.read_bytes() for file in (clone / "results" / scale).glob("*.*")}
    words = ["--config", f"scale={scale}", *(["partial=true"] * partial), "--", f"figures/{scale}/{stem}.pdf"]
    done = snakemake(clone, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    started = {
        line.split()[1] for line in (done.stdout + done.stderr).splitlines() if line.startswith(("rule ", "local"))
    }
    assert started == {f"plot_{stem}:"}
    assert {file: file.read_bytes() for file in before} == before
    assert not {"runs", "models", "data"} & {file.name for file in (clone / "results" / scale).iterdir()}
    drawn = clone / "figures" / scale / f"{stem}.csv"
    assert drawn.read_bytes() == (ROOT / "figures" / scale / drawn.name).read_bytes()


def test_the_command_in_a_figures_bundle_draws_it_alone(clone: Path) -> None:
    bundle = json.loads((ROOT / "figures/learning/locomotion_per_task.json").read_text(encoding="utf-8"))
    assert bundle["scale"] == "learning" and bundle["commit"] and "suites:" in bundle["config"]
    subprocess.run(shlex.split(bundle["command"]), cwd=clone, env=environment(), check=True)
    for ending in ("csv", "json"):
        name = f"figures/learning/locomotion_per_task.{ending}"
        assert (clone / name).read_bytes() == (ROOT / name).read_bytes()
    assert (clone / "figures/learning" / bundle["data"]).exists()


def test_everything_of_a_scale_needs_its_runs_unless_partial_results_do(clone: Path) -> None:
    """So that committed results do not pass for those of one's own runs."""
    whole = snakemake(clone, "--dry-run", "--quiet", "rules", "--config", "scale=learning")
    told = whole.stdout + whole.stderr
    assert whole.returncode == 0 and "pretrain" in told and "collate" in told
    part = snakemake(clone, "--dry-run", "--config", "scale=learning", "partial=true")
    told = part.stdout + part.stderr
    assert part.returncode == 0 and "tabulate_claims" in told and "pretrain" not in told and "rule collate" not in told
