"""Tests run on one thread: their networks are tiny, and threads would only wait for each other."""

import os
from pathlib import Path

import pytest
from project_copy import copy_project, snakemake

from pwm import statistics

# Before torch or MuJoCo is imported; commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals only have to be there, not to be exact: 50 resamples are drawn instead of 2000."""
    bootstrap = statistics._bootstrap
    monkeypatch.setattr(statistics, "_bootstrap", lambda measure, scores, _, seed: bootstrap(measure, scores, 50, seed))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the test scale has run once. Its users share one worker (xdist group)."""
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    done = snakemake(folder, "--config", "scale=test")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
