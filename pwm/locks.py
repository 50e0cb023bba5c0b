"""One process at a time: locks that the system lifts however their holder ends."""

import fcntl
import os
import sys
from pathlib import Path
from typing import IO


def hold(file: Path, what: str) -> IO[str]:
    """Hold a lock until this process ends or the returned handle is closed; wait for another process that holds it.

    Args:
        file: made where it is missing; it names the process that holds the lock.
        what: the thing that is locked, for the line that says what is waited for.
    """
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+")
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            print(f"waiting for process {handle.read().strip()}, which is at work on {what}", file=sys.stderr)
            fcntl.lockf(handle, fcntl.LOCK_EX)
        # Its last holder may have removed the file: then this lock is on nothing.
        if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
            break
        handle.close()
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def clear_stale_locks(folder: Path) -> IO[str]:
    """Remove what a killed Snakemake left of its locks in `folder` (`.snakemake`), if none is at work there.

    Returns:
        A shared lock that says that one is at work now; to be held until this process ends.
    """
    folder.mkdir(exist_ok=True)
    alive = (folder / "alive").open("a+")
    try:
        fcntl.lockf(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass  # Snakemake itself compares what the two are going to make
    else:
        for lock in (folder / "locks").glob("*.lock"):
            lock.unlink()
    fcntl.lockf(alive, fcntl.LOCK_SH)
    return alive
