"""Environments: `make` builds any task of the table; importing this package starts no simulator."""

import importlib

import gymnasium

from pwm.envs.tasks import SUITES, TASKS, Task, get_task
from pwm.envs.vector import SingleEnv, TaskVectorEnv

__all__ = ["SUITES", "TASKS", "SingleEnv", "Task", "TaskVectorEnv", "get_task", "make", "make_single"]

_VECTOR_ENVS = {
    "locomotion": ("pwm.envs.locomotion", "LocomotionVectorEnv"),
    "dmcontrol": ("pwm.envs.dmcontrol", "DMControlVectorEnv"),
}


def make(task: str, num_envs: int = 1, seed: int = 0) -> TaskVectorEnv:
    """`num_envs` environments of a task, stepped together; environment i is seeded with `seed + i`.

    Raises:
        UserError: no such task, or a number out of range.
    """
    known = get_task(task)
    module, name = _VECTOR_ENVS[known.family]
    return getattr(importlib.import_module(module), name)(known, num_envs, seed)


def make_single(task: str, seed: int = 0) -> SingleEnv:
    """One environment of a task with Gymnasium's ordinary interface, as `gymnasium.make("pwm/<task>-v0")` builds it."""
    return SingleEnv(make(task, seed=seed))


for _name in TASKS:
    gymnasium.register(f"pwm/{_name}-v0", entry_point="pwm.envs:make_single", kwargs={"task": _name})
