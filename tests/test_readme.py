"""Every command of the README runs: in the workflow tests' project, with the scale `test` in place of any other."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_workflow import BIN, ROOT, project  # noqa: F401 - a fixture

pytestmark = pytest.mark.xdist_group("workflow")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]


def test_the_readme_has_commands() -> None:
    assert {"make reproduce", "make test", "snakemake --cores 2"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(project: Path, command: str) -> None:  # noqa: F811
    for name in ("Makefile", "README.md", "requirements.lock", "tests"):
        if not (project / name).exists():
            (project / name).symlink_to(ROOT / name)
    here = re.sub(r"\b(demo|laptop|paper)\b", "test", command)
    if here.startswith("make"):  # the continuous integration runs them for real
        here = f"{here} --dry-run"
    if here.startswith("source"):
        here = f"test -f {shlex.quote(str(BIN / 'activate'))}"
    if here == "snakemake --cores 2":  # without a scale it is the demo, which takes too long for a test
        here += " --dry-run"
    if "--executor slurm" in here:
        here += " --dry-run"
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(here, shell=True, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tables_and_figures_shown_are_those_computed() -> None:
    for image in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / image).read_bytes().startswith(b"\x89PNG")
    assert "| cartpole-swingup" in re.search(r"<!-- per_task_scores -->(.*?)<!-- end -->", README, flags=re.DOTALL)[1]
    assert shutil.which("python") or sys.executable
