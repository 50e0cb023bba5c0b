"""The task table: what the other parts need to know of a task without starting its simulator."""

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from pwm.errors import UserError

Family = Literal["locomotion", "dmcontrol", "metaworld"]


@dataclass(frozen=True)
class Task:
    """A control task, known by its name.

    `episode_length` counts decisions, each held for `action_repeat` control steps of the simulator. `score` names the
    number an evaluation reports: the episode's return as it is, or divided by the highest one that can be reached, or
    success in the episode's last state. `body`, `contact_stiffness`, as a multiple of the body's own, and
    `gymnasiums`, whether foot and joints are those of Gymnasium's namesake, are for locomotion.
    """

    name: str
    family: Family
    observation_dim: int
    action_dim: int
    episode_length: int
    action_repeat: int
    score: Literal["return", "return / 1000", "success"]
    body: str = ""
    contact_stiffness: float = 1.0
    gymnasiums: bool = False


# What a return is divided by, where the score is a return.
RETURN_UNIT = {"return": 1.0, "return / 1000": 1000.0}


def _locomotion(name: str, observation_dim: int, action_dim: int) -> Task:
    return Task(name, "locomotion", observation_dim, action_dim, 1000, 1, "return", name)


def _dmcontrol(name: str, observation_dim: int, action_dim: int) -> Task:
    return Task(
        name, "dmcontrol", observation_dim, action_dim, episode_length=500, action_repeat=2, score="return / 1000"
    )


def _metaworld(name: str) -> Task:
    return Task(f"mw-{name}", "metaworld", 39, 4, episode_length=100, action_repeat=2, score="success")


LOCOMOTION = (
    _locomotion("hopper", 11, 3),
    _locomotion("ant", 37, 8),
    _locomotion("anymal", 49, 12),
    _locomotion("humanoid", 76, 21),
    _locomotion("snu-humanoid", 53, 152),
)
# The stiffness ablation's body, its opposite, and the hopper of Gymnasium; of no suite that is aggregated.
# Deviation D27: the paper has neither of the last two.
CONTACTS = (
    replace(LOCOMOTION[0], name="hopper-stiff", contact_stiffness=25.0),
    replace(LOCOMOTION[0], name="hopper-soft", contact_stiffness=1 / 9),
    replace(LOCOMOTION[0], name="hopper-gymnasium", gymnasiums=True),
)
# In TD-MPC2's order, which fixes the index of a task in a multi-task model: the suite's own 19, then its authors' 11.
DMCONTROL = (
    _dmcontrol("walker-stand", 24, 6),
    _dmcontrol("walker-walk", 24, 6),
    _dmcontrol("walker-run", 24, 6),
    _dmcontrol("cheetah-run", 17, 6),
    _dmcontrol("reacher-easy", 6, 2),
    _dmcontrol("reacher-hard", 6, 2),
    _dmcontrol("acrobot-swingup", 6, 1),
    _dmcontrol("pendulum-swingup", 3, 1),
    _dmcontrol("cartpole-balance", 5, 1),
    _dmcontrol("cartpole-balance-sparse", 5, 1),
    _dmcontrol("cartpole-swingup", 5, 1),
    _dmcontrol("cartpole-swingup-sparse", 5, 1),
    _dmcontrol("cup-catch", 8, 2),
    _dmcontrol("finger-spin", 9, 2),
    _dmcontrol("finger-turn-easy", 12, 2),
    _dmcontrol("finger-turn-hard", 12, 2),
    _dmcontrol("fish-swim", 24, 5),
    _dmcontrol("hopper-stand", 15, 4),
    _dmcontrol("hopper-hop", 15, 4),
    _dmcontrol("walker-walk-backwards", 24, 6),
    _dmcontrol("walker-run-backwards", 24, 6),
    _dmcontrol("cheetah-run-backwards", 17, 6),
    _dmcontrol("cheetah-run-front", 17, 6),
    _dmcontrol("cheetah-run-back", 17, 6),
    _dmcontrol("cheetah-jump", 17, 6),
    _dmcontrol("hopper-hop-backwards", 15, 4),
    _dmcontrol("reacher-three-easy", 8, 3),
    _dmcontrol("reacher-three-hard", 8, 3),
    _dmcontrol("cup-spin", 8, 2),
    _dmcontrol("pendulum-spin", 3, 1),
)
METAWORLD_NAMES = """
    assembly basketball button-press-topdown button-press-topdown-wall button-press button-press-wall coffee-button
    coffee-pull coffee-push dial-turn disassemble door-open door-close drawer-close drawer-open faucet-open
    faucet-close hammer handle-press-side handle-press handle-pull-side handle-pull lever-pull peg-insert-side
    peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide plate-slide-side plate-slide-back
    plate-slide-back-side push-back push push-wall reach reach-wall shelf-place soccer stick-push stick-pull
    sweep-into sweep window-open window-close bin-picking box-close door-lock door-unlock hand-insert
"""
METAWORLD = tuple(_metaworld(name) for name in METAWORLD_NAMES.split())

# All suites and, by them, all tasks; the same task is in both MT30 and MT80.
GROUPS: dict[str, tuple[Task, ...]] = {
    "locomotion": LOCOMOTION,
    "stiffness": CONTACTS,
    "mt30": DMCONTROL,
    "mt80": DMCONTROL + METAWORLD,
}
TASKS: dict[str, Task] = {task.name: task for tasks in GROUPS.values() for task in tasks}
SUITES: dict[str, tuple[str, ...]] = {suite: tuple(task.name for task in tasks) for suite, tasks in GROUPS.items()}


def get_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        UserError: there is no such task; the message offers the nearest names.
    """
    if name not in TASKS:
        nearest = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.3) or list(TASKS)
        raise UserError(f"no task is called {name!r}; the nearest are {', '.join(nearest)}")
    return TASKS[name]
