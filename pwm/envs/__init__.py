"""Environments: `make` builds any task of the table; importing this package starts no simulator."""

import importlib
from functools import cache
from importlib import metadata

import gymnasium

from pwm.envs.parallel import ParallelVectorEnv
from pwm.envs.tasks import SUITES, TASKS, Task, get_task
from pwm.envs.vector import SingleEnv, TaskVectorEnv, thread_count
from pwm.errors import UserError

__all__ = ["SUITES", "TASKS", "SingleEnv", "Task", "TaskVectorEnv", "get_task", "make", "make_single"]

_VECTOR_ENVS = {
    "locomotion": ("pwm.envs.locomotion", "LocomotionVectorEnv"),
    "dmcontrol": ("pwm.envs.dmcontrol", "DMControlVectorEnv"),
    "metaworld": ("pwm.envs.metaworld", "MetaWorldVectorEnv"),
}
PYTHON_BOUND = ("dmcontrol", "metaworld")  # stepped in worker processes; MuJoCo has threads of its own for locomotion
# Scores of other versions are scores of other tasks: Meta-World's rewards have changed with its versions, contacts
# with MuJoCo's.
SIMULATORS = {
    "locomotion": {"mujoco": "3.3.0"},
    "dmcontrol": {"mujoco": "3.3.0", "dm_control": "1.0.28"},
    "metaworld": {"mujoco": "3.3.0", "metaworld": "3.1.1"},
}


def make(task: str, num_envs: int = 1, seed: int = 0, apart: bool = False) -> TaskVectorEnv:
    """`num_envs` environments of a task, stepped together; environment i is seeded with `seed + i`.

    `apart` puts even a single one into a process of its own, where Python would step it in this one.

    Raises:
        UserError: no such task, a number out of range, or another version of the simulator than the pinned one.
    """
    known = get_task(task)
    check_simulator(known.family)
    module, name = _VECTOR_ENVS[known.family]
    workers = min(thread_count(), num_envs)
    if known.family in PYTHON_BOUND and (apart or workers > 1):
        return ParallelVectorEnv(module, name, known, num_envs, seed, workers)
    return getattr(importlib.import_module(module), name)(known, num_envs, seed)


def simulator(task: str) -> str:
    """The packages and versions that define a task, as written with every score."""
    return ", ".join(f"{package} {version}" for package, version in SIMULATORS[get_task(task).family].items())


@cache
def check_simulator(family: str) -> None:
    """Refuse simulators of another version than the one the family's scores are defined by.

    Raises:
        UserError: one is missing or of another version.
    """
    for package, pinned in SIMULATORS[family].items():
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed = "missing"
        if installed != pinned:
            raise UserError(f"{package} is {installed}, the {family} tasks are defined by {pinned}; install that one")


def make_single(task: str, seed: int = 0) -> SingleEnv:
    """One environment of a task with Gymnasium's ordinary interface, as `gymnasium.make("pwm/<task>-v0")` builds it."""
    return SingleEnv(make(task, seed=seed))


for _name in TASKS:
    gymnasium.register(f"pwm/{_name}-v0", entry_point="pwm.envs:make_single", kwargs={"task": _name})
