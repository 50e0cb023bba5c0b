"""Rates of rival implementations, measured in turns, so that a busy machine slows them all alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

ROUNDS = 3
SECONDS = 0.3  # of one measurement


def rates(rivals: Mapping[str, Callable[[], int]], seconds: float = SECONDS, rounds: int = ROUNDS) -> dict[str, float]:
    """Median work per second of every rival.

    Args:
        rivals: name → a call that does some work and returns how much, in units that all of them share.
        seconds: how long one measurement lasts at least.
        rounds: measurements of each; every round goes through all rivals.
    """
    seen: dict[str, list[float]] = {name: [] for name in rivals}
    for work in rivals.values():
        work()  # caches and threads warm up
    for _ in range(rounds):
        for name, work in rivals.items():
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                done += work()
            seen[name].append(done / (time.perf_counter() - began))
    return {name: median(values) for name, values in seen.items()}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its first column aligned left and the others right."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
