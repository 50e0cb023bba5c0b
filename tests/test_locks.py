"""Two processes at one thing, and what a killed one leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project_copy import BIN, copy_project, environment, snakemake

from pwm.locks import hold

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import sys
from pathlib import Path
from pwm.locks import hold
handle = hold(Path(sys.argv[1]), "the thing")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start processes that hold `tmp_path/lock` until their stdin is closed."""
    started = []

    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("removed", [False, True], ids=["left", "removed"])
def test_the_second_waits_for_the_first_to_end(holder, tmp_path, removed):
    """Also where the first one takes the lock's file with it, as a finished run does."""
    first = holder()
    assert first.stdout.readline() == "held\n"
    second = holder()
    assert second.stderr.readline() == f"waiting for process {first.pid}, which is at work on the thing\n"
    assert second.poll() is None
    if removed:
        (tmp_path / "lock").unlink()
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == "held\n"
    assert (tmp_path / "lock").read_text() == str(second.pid)


def test_a_process_does_not_wait_for_itself(tmp_path):
    handles = [hold(tmp_path / "a" / "lock", "the thing") for _ in range(2)]
    assert handles[1].name == str(tmp_path / "a" / "lock")


def test_a_killed_workflow_goes_on_without_unlocking(tmp_path):
    """While it lives, another is refused; when it has been killed, the same command again completes."""
    copy_project(tmp_path)
    target = "results/test/data/reacher-easy/episodes/meta.json"
    words = ("--config", "scale=test", "--", target)
    command = [BIN / "snakemake", "--cores", "1", *words]
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.time() + 120
        while not (list(tmp_path.glob(".snakemake/locks/*.lock")) and (tmp_path / "state").exists()):
            assert first.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGSTOP)  # so that it is not done before the other has looked
        second = snakemake(tmp_path, *words)
        assert second.returncode == 1 and "cannot be locked" in second.stdout + second.stderr
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not (tmp_path / target).exists() and list(tmp_path.glob(".snakemake/locks/*.lock"))
    again = snakemake(tmp_path, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / target).exists()
