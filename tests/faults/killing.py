"""Workflows and stages that are killed, and what is compared with ones that never were."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
from project_copy import BIN, environment

# Seconds that something took, and who took them: all that may differ between two runs of the same.
TIMES = ["train_wall_s", "eval_wall_s", "wall_time_s"]


class Killable:
    """A command at work in a folder, in a process group of its own with all that it starts.

    Args:
        folder: where it works.
        command: its words, of which the first is a program of the environment.
        log: file for what it prints; what was there is overwritten.
    """

    def __init__(self, folder: Path, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=folder,
                env=environment(),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def run_for(self, seconds: float) -> bool:
        """Let it work for a while; whether it still does then."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.alive

    def run_until(self, jobs: int) -> bool:
        """Let Snakemake work until it has finished so many jobs; whether it still works then."""
        while self.alive and self.printed.count("Finished jobid: ") < jobs:
            time.sleep(0.05)
        return self.alive

    def kill(self, alone: bool = False) -> None:
        """End it at once, and all that it started unless `alone`."""
        (os.kill if alone else os.killpg)(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Hold it and all that it started, until `go_on`."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo `stop`."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def finish(self) -> None:
        """Let it end, which it must do well."""
        assert self._process.wait() == 0, self.printed[-3000:]

    def clean_up(self) -> None:
        """End whatever is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def facts(path: Path) -> bytes:
    """A result's content, but for the times in it."""
    if path.name == "eval.json":
        content = json.loads(path.read_text())
        return json.dumps({key: content[key] for key in content if key not in (*TIMES, "seal")}).encode()
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return table.drop(columns=TIMES, errors="ignore").to_csv(index=False).encode()
    return path.read_bytes()


def results(project: Path, scale: str = "test") -> dict[str, bytes]:
    """What a scale's folder holds of data, weights, curves and scores, by file; not when and where they were made."""
    folder = project / "results" / scale
    kept = ["**/*.npy", "**/*.safetensors", "**/metrics.csv", "**/eval.json", "*.csv", "tables/per_task_scores.csv"]
    files = [path for glob in kept for path in sorted(folder.glob(glob)) if path.name != "provenance.csv"]
    return {str(path.relative_to(folder)): facts(path) for path in files}


def assert_nothing_half(project: Path) -> None:
    """No state and no temporary file is left."""
    files = [path.relative_to(project) for path in project.rglob("*") if path.is_file()]
    assert not [path for path in files if path.parts[0] == "state" or ".tmp" in "".join(path.parts)]
