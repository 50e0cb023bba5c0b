"""Tests run on one thread: their networks are tiny, and threads would only wait for each other."""

import os
from pathlib import Path

import pytest
from project_copy import copy_project, snakemake

# Before torch or MuJoCo is imported; commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the test scale has run once. Its users share one worker (xdist group)."""
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    done = snakemake(folder, "--config", "scale=test")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
