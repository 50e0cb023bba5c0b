"""A command that hangs in its own process is ended: a workflow waits for it, and it may hold a GPU."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HANGING = 1800  # s without any work, after which a command is taken to hang; workers have ANSWER_TIME, which is less
LOOK_EVERY = 10.0  # s
PROJECT = Path(__file__).resolve().parent.parent


@contextmanager
def watched(limit: float = HANGING) -> Iterator[None]:
    """End this process, with one line and exit code 1, where the thread inside does nothing for `limit` seconds.

    Nothing is meant: it waits, without a moment of processor time, for a lock, a file or another process that does not
    answer. One that loops for ever is not noticed.
    """
    done = threading.Event()
    threading.Thread(target=_watch, args=(threading.get_ident(), done, limit), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(thread: int, done: threading.Event, limit: float) -> None:
    clock, every = time.pthread_getcpuclockid(thread), min(LOOK_EVERY, limit / 10)
    used, looks = -1.0, 0
    while not done.wait(every):  # looks are counted: the time that the process itself was stopped does not matter
        before, used = used, time.clock_gettime(clock)
        looks = looks + 1 if used == before else 0
        if looks * every >= limit:
            print(f"error: no work for {limit:g} s, {_place(thread)}; start this again to go on", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)  # an exception would have to wait for what hangs


def _place(thread: int) -> str:
    """Where a thread is: the project's innermost line."""
    frame = sys._current_frames()[thread]
    while frame.f_back and not Path(frame.f_code.co_filename).is_relative_to(PROJECT):
        frame = frame.f_back
    return f"in {frame.f_code.co_name} ({frame.f_code.co_filename}, line {frame.f_lineno})"
