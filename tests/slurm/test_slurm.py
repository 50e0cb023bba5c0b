"""The Slurm profile on a real cluster of two nodes, of which one breaks; skipped where no Slurm can be started."""

import re
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from cluster import Cluster, cluster, missing
from project_copy import BIN, copy_project, environment

from pwm.matrix import Matrix

pytestmark = [
    pytest.mark.xdist_group("workflow"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
PROFILE = ["--workflow-profile", "workflows/profiles/slurm", "--slurm-init-seconds-before-status-checks", "3"]
# One world model of two tasks, policies from it and beside it: all kinds of rules but figures and tables.
PART = [run.path for run in Matrix("test").runs() if run.suite == "mt30" and run.variant == "multitask"]
PART += [run.path for run in Matrix("test").runs() if run.suite == "mt30" and run.algorithm == "random"]


def outputs(project: Path) -> dict[str, pd.Series]:
    """The scores of the runs that are there, by run."""
    files = (project / "results/test/runs").rglob("eval.json")
    return {
        str(file.parent.relative_to(project)): pd.read_json(file, typ="series").drop(["eval_wall_s", "seal"])
        for file in files
    }


def jobs(slurm: Cluster, state: str) -> list[tuple[str, str]]:
    """Jobs in that state: number and node."""
    lines = slurm.ask("squeue", "--noheader", f"--states={state}", "--format=%A %N").splitlines()
    return [tuple((line + " ").split(" ")[:2]) for line in lines]


def disturb(slurm: Cluster, snakemake: subprocess.Popen) -> tuple[str, str]:
    """Cancel a running job; then break node two under another. Returns both jobs' numbers once Slurm knows of it."""
    cancelled = broken = ""
    while snakemake.poll() is None and not (cancelled and broken):
        time.sleep(0.5)
        if not cancelled and (running := jobs(slurm, "RUNNING")):
            slurm.ask("scancel", running[0][0])
            gone = [job for job, _ in jobs(slurm, "CANCELLED")]
            cancelled = gone[0] if gone else ""
        elif cancelled and (there := [job for job, node in jobs(slurm, "RUNNING") if node == "two"]):
            slurm.crash("two")
            broken = there[0]
    return cancelled, broken


def test_the_workflow_outlives_a_cancelled_job_and_a_broken_node(
    project: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    copy_project(tmp_path)
    whole = pytestconfig.getoption("--whole-scale")
    targets = [] if whole else ["--", *(f"results/test/runs/{run}/eval.json" for run in PART)]
    command = [str(BIN / "snakemake"), *PROFILE, "--config", "scale=test", *targets]
    with cluster() as slurm, (tmp_path / "out.txt").open("w") as out:
        own = environment() | slurm.environment | {"PATH": f"{BIN}:{slurm.environment['PATH']}"}
        snakemake = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=out, stderr=out)
        try:
            cancelled, broken = disturb(slurm, snakemake)
            snakemake.wait(timeout=1800)
        finally:
            snakemake.kill()
        told = (tmp_path / "out.txt").read_text()
        print(told[-5000:])
        assert snakemake.returncode == 0
        assert cancelled and broken
        assert re.search(rf"SLURM-job '{cancelled}' failed, SLURM status is: 'CANCELLED'", told)
        assert "Trying to restart job" in told
        assert slurm.ask("sinfo", "--noheader", "--nodes=two", "--format=%T").startswith("down")
    here, there = outputs(tmp_path), outputs(project)
    assert here.keys() == ({*there} if whole else {f"results/test/runs/{run}" for run in PART})
    for run, scores in here.items():
        pd.testing.assert_series_equal(scores, there[run])
    if whole:
        assert len(pd.read_csv(tmp_path / "results/test/scores.csv")) == len(Matrix("test").runs())
