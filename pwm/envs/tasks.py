"""The task table: what the other parts need to know of a task without starting its simulator."""

import difflib
from dataclasses import dataclass
from typing import Literal

from pwm.errors import UserError

Family = Literal["locomotion", "dmcontrol"]


@dataclass(frozen=True)
class Task:
    """A control task, known by its name.

    `episode_length` counts decisions, each held for `action_repeat` control steps of the simulator. `score` names the
    number an evaluation reports: the episode's return as it is, or divided by the highest one that can be reached.
    """

    name: str
    family: Family
    observation_dim: int
    action_dim: int
    episode_length: int
    action_repeat: int
    score: Literal["return", "return / 1000"]


# What a return is divided by, where the score is a return.
RETURN_UNIT = {"return": 1.0, "return / 1000": 1000.0}


def _locomotion(name: str, observation_dim: int, action_dim: int) -> Task:
    return Task(name, "locomotion", observation_dim, action_dim, episode_length=1000, action_repeat=1, score="return")


def _dmcontrol(name: str, observation_dim: int, action_dim: int) -> Task:
    return Task(
        name, "dmcontrol", observation_dim, action_dim, episode_length=500, action_repeat=2, score="return / 1000"
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _locomotion("hopper", 11, 3),
        _dmcontrol("cartpole-swingup", 5, 1),
        _dmcontrol("walker-walk", 24, 6),
        _dmcontrol("reacher-easy", 6, 2),
        _dmcontrol("cheetah-run", 17, 6),
    )
}


def _of_families(*families: Family) -> tuple[str, ...]:
    return tuple(name for name, task in TASKS.items() if task.family in families)


SUITES: dict[str, tuple[str, ...]] = {
    "locomotion": _of_families("locomotion"),
    "mt30": _of_families("dmcontrol"),
    "mt80": _of_families("dmcontrol"),
}


def get_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        UserError: there is no such task; the message offers the nearest names.
    """
    if name not in TASKS:
        nearest = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.3) or list(TASKS)
        raise UserError(f"no task is called {name!r}; the nearest are {', '.join(nearest)}")
    return TASKS[name]
