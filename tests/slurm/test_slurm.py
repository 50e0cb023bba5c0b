"""The Slurm profile on a real cluster of two nodes, of which one breaks; skipped where no Slurm can be started."""

import re
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from cluster import Cluster, cluster, mark, missing
from project_copy import BIN, copy_project, environment

from pwm.matrix import Matrix

pytestmark = [
    pytest.mark.xdist_group("workflow"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
PROFILE = ["--workflow-profile", "workflows/profiles/slurm", "--slurm-init-seconds-before-status-checks", "3"]
# GPUs that nothing is done on, but that have to be found.
PROFILE += ["--set-resources", "collect:gpu=2", "extract:gpu=1"]
TASK = "reacher-easy"
PART = [run.path for run in Matrix("test").runs() if (run.suite, run.task, run.variant) == ("mt30", TASK, "default")]
PART = [path for path in PART if "/pwm/" in path or "/random/" in path]


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


def disturb(slurm: Cluster, snakemake: subprocess.Popen, until: float) -> tuple[str, str]:
    """Cancel a running job, then break the node of another. Returns the job's number and the node's name."""
    told, broken = "", ""
    while snakemake.poll() is None and not broken:
        assert time.monotonic() < until, "there was no job, or no other one, to disturb"
        time.sleep(0.5)
        running = jobs(slurm, "RUNNING")
        if told in dict(running + jobs(slurm, "COMPLETING")) or not running:
            continue
        if told in dict(jobs(slurm, "CANCELLED")):
            broken = running[0][1]
            slurm.break_node(broken)
        else:  # none was told to end yet, or it was done before
            told = running[0][0]
            slurm.ask("scancel", told)
    return told, broken


def test_the_workflow_outlives_a_cancelled_job_and_a_broken_node(
    project: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    copy_project(tmp_path)
    whole = pytestconfig.getoption("--whole-scale", default=False)
    targets = [] if whole else ["--", *(f"results/test/runs/{run}/eval.json" for run in PART)]
    command = [str(BIN / "snakemake"), *PROFILE, "--config", "scale=test", *targets]
    until = time.monotonic() + (7200 if whole else 900)
    with cluster() as slurm, (tmp_path / "out.txt").open("w") as out:
        own = environment() | slurm.environment | {"PATH": f"{BIN}:{slurm.environment['PATH']}"}
        snakemake = subprocess.Popen(command, cwd=tmp_path, env=own, stdout=out, stderr=out)
        try:
            cancelled, broken = disturb(slurm, snakemake, until)
            snakemake.wait(timeout=until - time.monotonic())
        finally:  # printed if the test fails, of which a time that is over is a way
            print((tmp_path / "out.txt").read_text()[-20000:], slurm.report(), sep="\n")
            snakemake.kill()
        told = (tmp_path / "out.txt").read_text()
        assert snakemake.returncode == 0
        assert cancelled and broken
        assert re.search(rf"SLURM-job '{cancelled}' failed|JOB {cancelled} ON \w+ CANCELLED", told)  # alone, or a group
        assert "Trying to restart job" in told
        state = re.search(r"State=(\S+)", slurm.ask("scontrol", "show", "node", broken))[1]
        assert {"DOWN", "NOT_RESPONDING"} <= {*state.split("+")}  # as told, and as found out
    assert not [process for process in psutil.process_iter() if mark(process).startswith(str(slurm.folder))]
    here, there = outputs(tmp_path), outputs(project)
    assert here.keys() == ({*there} if whole else {f"results/test/runs/{run}" for run in PART})
    for run, scores in here.items():
        pd.testing.assert_series_equal(scores, there[run])
    if whole:
        assert len(pd.read_csv(tmp_path / "results/test/scores.csv")) == len(Matrix("test").runs())
