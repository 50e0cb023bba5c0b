"""C++ beside the Python that it serves, compiled by each process when it is first wanted, so that it leaves no file."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pwm.errors import UserError


def compiled(source: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """A file of C++ as a library, by `$CXX` or what else there is.

    Raises:
        UserError: there is no C++ compiler that can.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
    if compiler is None:
        raise UserError("there is no C++ compiler; install g++")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{source.stem}.so"
        command = [compiler, "-std=c++17", "-shared", "-fPIC", *flags, source, "-o", target]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "it says no more")
            raise UserError(f"{compiler} cannot compile {source.name}: {reason}")
        return ctypes.CDLL(str(target))
