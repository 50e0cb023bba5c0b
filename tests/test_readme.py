"""Every command of the README and the pages in docs/ runs: in the workflow tests' project, at the scale `test`.

But for those of the tutorials, which test_tutorials.py follows.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from project_copy import BIN, ROOT, environment
from tutorials import TUTORIALS

pytestmark = pytest.mark.xdist_group("workflow")
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem not in TUTORIALS]
PAGES = README + "".join(page.read_text(encoding="utf-8") for page in DOCS)
SCALES = [file.stem for file in sorted((ROOT / "workflows/config").glob("*.yaml"))]
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGES, flags=re.DOTALL) for line in block.splitlines()]


def test_the_readme_has_commands() -> None:
    assert {"make reproduce", "make test", "snakemake --cores 2"} <= set(COMMANDS)


@pytest.fixture(scope="module")
def clone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workflow tests' project, finished results included, for the commands to change as they like."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("readme") / "project", symlinks=True)
    for name in ("Makefile", "README.md", "benchmarks", "requirements.lock", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(clone: Path, command: str) -> None:
    here = re.sub(rf"\b({'|'.join(SCALES)})\b", "test", command)
    if here.startswith("make"):  # the continuous integration runs them for real
        here = f"{here} --dry-run"
    if here.startswith("source"):
        here = f"test -f {shlex.quote(str(BIN / 'activate'))}"
    if here == "snakemake --cores 2":  # without a scale it is the demo, which takes too long for a test
        here += " --dry-run"
    if "pwm.evaluate" in here:  # as the scale does: figures refuse scores by other numbers of episodes
        here += " --episodes 2"
    if "profiles/slurm" in here or "--cores 16" in here:
        here += " --dry-run"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(
        here, shell=True, cwd=clone, env=environment(), text=True, start_new_session=True, **pipes
    )
    try:
        told, _ = process.communicate(timeout=600)
    finally:
        if process.poll() is None:  # what the shell has started goes with it
            os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode == 0, told


def test_the_table_of_scores_is_filled() -> None:
    filled = re.search(r"<!-- per_task_scores -->(.*?)<!-- end -->", README, flags=re.DOTALL)[1]
    assert "cartpole-swingup" in filled
