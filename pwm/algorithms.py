"""Which algorithms there are, and the contract each one's module keeps.

`pwm` is the method itself; every other algorithm is one file `baselines/<name>.py` with

- `Settings`: its hyper-parameters, a `pwm.config.Config`, light to import; where a setting `world_model` names one of
  the suite's, the run starts from it, `run.model`, which must have Q-functions;
- `SUITES`: the suites it supports;
- `train(run)`: trains on `run.config`, logs learning-curve points and finishes the run with a checkpoint in `policy/`;
- `load_policy(folder)`: the trained, deterministic policy of such a checkpoint.
"""

import difflib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from pwm.config import Config, ExtractConfig
from pwm.envs.tasks import SUITES
from pwm.errors import UserError

BASELINES = Path(__file__).resolve().parent.parent / "baselines"


class Policy(Protocol):
    """Observations [N, O] float32 and where an episode begins [N] bool → actions [N, A] in [−1, 1]."""

    def __call__(self, obs: np.ndarray, first: np.ndarray) -> np.ndarray: ...


def names() -> list[str]:
    """All algorithms: pwm, then the baselines by name."""
    return ["pwm", *sorted(file.stem for file in BASELINES.glob("*.py") if not file.stem.startswith("_"))]


def baseline(name: str) -> ModuleType:
    """The module of a baseline."""
    return import_module(f"baselines.{name}")


def check(name: str, suite: str) -> None:
    """Refuse an unknown algorithm, or a suite it does not support.

    Raises:
        UserError: with the nearest name, or the suites supported.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(names())}"
        raise UserError(f"unknown algorithm '{name}'; {hint}")
    supported = tuple(SUITES) if name == "pwm" else baseline(name).SUITES
    if suite not in supported:
        raise UserError(f"algorithm '{name}' does not support suite '{suite}'; it supports {', '.join(supported)}")


def settings_class(name: str) -> type[Config]:
    """The class that validates an algorithm's settings."""
    return ExtractConfig if name == "pwm" else baseline(name).Settings


def load_policy(name: str, folder: Path) -> Policy:
    """The trained policy in a run's `policy/` folder.

    Raises:
        UserError: the checkpoint is missing, damaged or does not fit its config.
    """
    module = import_module("pwm.extract") if name == "pwm" else baseline(name)
    try:
        return module.load_policy(folder)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: weights do not fit the config ({reason}); train the run again") from None
