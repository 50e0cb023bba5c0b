"""One process at a time: locks that the system lifts however their holder ends."""

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import IO

from pwm.errors import UserError


def hold(file: Path, what: str) -> IO[str]:
    """Hold a lock until this process ends or the returned handle is closed; wait for another process that holds it.

    Args:
        file: made where it is missing; it names the process that holds the lock.
        what: the thing that is locked, for the line that says what is waited for.
    """
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+")
        if not _lock(handle):
            handle.seek(0)
            print(f"waiting for process {handle.read().strip()}, which is at work on {what}", file=sys.stderr)
            while not _lock(handle):  # not in one call: `pwm.watchdog` would take that for one that hangs
                time.sleep(0.2)
        # Its last holder may have removed the file: then this lock is on nothing.
        if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
            break
        handle.close()
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _lock(handle: IO[str]) -> bool:
    """Lock a file, if no other process has locked it; whether it is locked now."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def clear_stale_locks(folder: Path) -> IO[str]:
    """Remove what a killed Snakemake left of its locks in `folder` (`.snakemake`), if none is at work there.

    Returns:
        A shared lock that says that one is at work now; to be held until this process ends.

    Raises:
        UserError: the folder cannot be written into.
    """
    try:
        folder.mkdir(exist_ok=True)
        alive = (folder / "alive").open("a+")
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise UserError(f"{folder.absolute()}: {reason}; name a folder for the results: --directory FOLDER") from None
    if _lock(alive):
        for lock in (folder / "locks").glob("*.lock"):
            lock.unlink()
    else:
        # Snakemake itself compares what the two are going to make, and refuses this one by a text that blames a kill.
        what = "ends with 'cannot be locked' if both are to make the same files: wait for it, --unlock is of no use"
        print(f"warning: another Snakemake is at work in {folder.parent.absolute()}; this one {what}", file=sys.stderr)
    fcntl.lockf(alive, fcntl.LOCK_SH)
    return alive
