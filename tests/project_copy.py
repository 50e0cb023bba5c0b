"""A copy of the project in a folder of its own, and Snakemake run in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("pwm", "baselines", "workflows", "profiles", "Snakefile", "environment.yml")
PARTS += ("results/published", "results/rates.csv", "results/gpu_rates.csv")
BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """This process's environment, with the interpreter's own programs first on the path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}"}


def snakemake(project: Path, *words: str) -> subprocess.CompletedProcess:
    """Run Snakemake in `project` on two cores."""
    command = [str(BIN / "snakemake"), "--cores", "2", *words]
    return subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, timeout=3600, check=False
    )


def copy_project(folder: Path, parts: tuple[str, ...] = PARTS) -> None:
    """Copy what a run needs into `folder`."""
    for part in parts:
        source = ROOT / part
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part, follow_symlinks=False)
