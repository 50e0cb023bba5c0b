"""Where a result comes from: commit, command, versions, hardware, times."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pwm.config import Config
from pwm.hardware import processor
from pwm.nn import processes

PACKAGES = ("torch", "mujoco", "dm_control", "gymnasium", "numpy", "stable_baselines3")


def commit() -> str:
    """The commit this code is at, with "-dirty" where tracked files differ from it; "unknown" outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def provenance(config: Config, started: float, **facts: Any) -> dict[str, Any]:
    """What a manifest.json holds: commit, command, versions, hardware, seed, times and the stage's own facts."""
    installed = {name: metadata.version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "versions": {"python": platform.python_version(), **installed},
        "hardware": {
            "machine": platform.machine(),
            "processor": processor(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": processes.world_size(),  # each of them with so many threads and a GPU, if there is any
            "gpu": gpu,
        },
        "seed": config.seed,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
