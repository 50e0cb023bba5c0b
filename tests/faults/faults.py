"""Counting of faults, and how single files are damaged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

# Rows of docs/reliability.md: what is done, and what it means to survive it.
KINDS = {
    "data": ("data set: a file cut off or a bit flipped", "named and refused, or read as it was written"),
    "checkpoint": ("checkpoint: a file cut off or a bit flipped", "named and refused, or read as it was written"),
    "state": ("state of a killed run: cut off or a bit flipped", "the one before is taken; both damaged: refused"),
    "results": ("run's metrics, scores or manifest: likewise", "named and refused, or collated as they were"),
    "collated": (
        "collated CSV file or its checksums.json: likewise",
        "named and refused, or read as it was written",
    ),
    "config": ("run's, model's or data set's config.yaml: likewise", "refused when read or when collated, or the same"),
    "malformed": ("malformed scale: a wrong value, key or file", "refused before any job, in one line that names it"),
    "pickle": ("pickle that acts when loaded, in any file", "never executed; refused by name"),
    "path": ("path that leads out of an archive or data set", "nothing is written there"),
    "yaml": ("YAML that makes objects, or means billions of entries", "never executed or written out; refused by name"),
    "shell": ("shell metacharacters in paths, names and settings", "refused by name, or taken as they are"),
    "hang": ("worker process that hangs in one of its commands", "an error says so, and no process is left"),
    "stalled": ("stage that hangs in its own process", "it ends, and one line says where it was"),
    "diverging": (
        "training that diverges to NaN or without bound",
        "the run names the metric and keeps its state",
    ),
    "memory": ("stage that needs more memory than there is", "it says so in one line and leaves no output"),
    "alone": ("one of these in a job of a workflow", "others finish; log and collated results tell of it"),
    "disk": ("full disk, at different moments of each stage", "one line says so, no half output, and it goes on later"),
    "killed": (
        "workflow killed with its jobs, at random moments",
        "the same command completes it, bit for bit as unbroken",
    ),
    "orphans": ("Snakemake killed alone, whose jobs go on", "the same command completes it, bit for bit as unbroken"),
    "killed stage": ("stage killed by itself, at random moments", "the same command ends bit for bit as unbroken"),
    "two": ("two workflows at once, of one scale and of two", "one says so and is refused; two complete"),
    "cores": ("the same scale on one core and on two", "the same scores, byte for byte but for the times"),
    "read-only": ("checkout that cannot be written, results elsewhere", "they are as usual, the checkout as before"),
    "command line": ("malformed command line", "refused before any job, in one line that names it"),
}


class Tally:
    """Faults of one kind: how many were tried, and which were lost, with why."""

    def __init__(self) -> None:
        self.tried = 0
        self.lost: list[str] = []

    @contextmanager
    def fault(self, what: str) -> Iterator[None]:
        """Try one fault: what is raised inside means that it was not survived."""
        self.tried += 1
        try:
            yield
        except (Exception, SystemExit, pytest.fail.Exception) as error:
            self.lost.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def table(tallies: dict[str, Tally], before: str = "") -> str:
    """Rows of docs/reliability.md; a kind that was not tried keeps its row of the table `before`, or says so."""
    lines = ["| fault | to survive is | tried | survived | lost |", "|---|---|--:|--:|--:|"]
    for kind, (what, survival) in KINDS.items():
        start, tally = f"| {what} | {survival} | ", tallies.get(kind)
        row = next((line for line in before.splitlines() if line.startswith(start)), f"{start}not tried | – | – |")
        if tally:
            row = f"{start}{tally.tried} | {tally.tried - len(tally.lost)} | {len(tally.lost)} |"
        lines.append(row)
    return "\n".join(lines)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """The file as a full disk or a killed copy leaves it."""
    return content[: rng.integers(len(content))]


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit turned."""
    spoilt, bit = bytearray(content), rng.integers(8 * len(content))
    spoilt[bit // 8] ^= 1 << bit % 8
    return bytes(spoilt)


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {"cut": cut, "flip": flip}


def damaged(file: Path, times: int, rng: np.random.Generator) -> Iterator[str]:
    """Damage a file in `times` ways, one after the other; it is whole again at the end. Yields the way's name."""
    whole = file.read_bytes()
    for number in range(times):
        way = [*DAMAGES][number % len(DAMAGES)]
        file.write_bytes(DAMAGES[way](whole, rng))
        yield f"{file.name}, {way} {number}"
    file.write_bytes(whole)
