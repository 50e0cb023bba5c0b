"""TD-MPC2's eleven tasks on bodies of the DeepMind Control Suite (Hansen et al. 2024), after their public definitions.

Bodies, starts and observations are the suite's, except where it is said; each class is a reward. Its numbers are those
of TD-MPC2, so that returns compare with published ones. (TD-MPC2's own files of the walker and the cheetah differ from
the suite's in how far the ground is drawn, not in what it does.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
from dm_control.rl import control
from dm_control.suite import ball_in_cup, base, cheetah, hopper, pendulum, reacher, walker
from dm_control.utils import rewards


def _at_least(value: float, target: float, margin: float, at_margin: float) -> float:
    """1 from `target` upwards; below it a line through `at_margin` at a distance of `margin`, down to 0."""
    return rewards.tolerance(value, (target, math.inf), margin, "linear", at_margin)


def _high(height: float, target: float) -> float:
    """1 from `target` (m) upwards; below it a bell curve that is 0.1 at half the height."""
    return rewards.tolerance(height, (target, math.inf), target / 2)


class WalkerBackwards(walker.PlanarWalker):
    """Upright at 1.2 m, moving backwards at `move_speed` (m/s): the suite's walk and run, mirrored."""

    def get_reward(self, physics: walker.Physics) -> float:
        upright = (1 + physics.torso_upright()) / 2
        stand = (3 * _high(physics.torso_height(), 1.2) + upright) / 4
        move = _at_least(-physics.horizontal_velocity(), self._move_speed, self._move_speed / 2, 0.5)
        return stand * (5 * move + 1) / 6


class CheetahBackwards(cheetah.Cheetah):
    """Run backwards at 8 m/s."""

    def get_reward(self, physics: cheetah.Physics) -> float:
        return _at_least(-physics.speed(), 8.0, 8.0, 0.0)


class CheetahOnOneFoot(cheetah.Cheetah):
    """Run forwards at 6 m/s with the torso and one foot, "ffoot" or "bfoot", raised to 1.2 m."""

    def __init__(self, raised: str) -> None:
        super().__init__()
        self._raised = raised

    def get_reward(self, physics: cheetah.Physics) -> float:
        torso, foot = physics.named.data.xpos["torso", "z"], physics.named.data.xpos[self._raised, "z"]
        up = (3 * _high(foot, 1.2) + 2 * _high(torso, 1.2)) / 5
        return up * (5 * _at_least(physics.speed(), 6.0, 6.0, 0.0) + 1) / 6


class CheetahJump(cheetah.Cheetah):
    """Torso and both feet at 1.2 m while moving at no more than 0.5 m/s either way."""

    def get_reward(self, physics: cheetah.Physics) -> float:
        height = physics.named.data.xpos
        still = rewards.tolerance(physics.speed(), (-0.5, 0.5), 0.5, "linear", 0.0)
        back, front = (
            (5 * _high((height["torso", "z"] + height[foot, "z"]) / 2, 1.2) + still) / 6 for foot in ("bfoot", "ffoot")
        )
        return (back + front) / 2


class HopperBackwards(hopper.Hopper):
    """Hop backwards at 1 m/s, half of the suite's speed forwards, with the torso 0.6 m above the foot."""

    def __init__(self) -> None:
        super().__init__(hopping=True)

    def get_reward(self, physics: hopper.Physics) -> float:
        standing = rewards.tolerance(physics.height(), (0.6, 2))
        return standing * _at_least(-physics.speed(), 1.0, 0.5, 0.5)


class CupSpin(ball_in_cup.BallInCup):
    """Swing the ball around the cup: 0.5 m or more from its inside at 6 m/s, and never within.

    Nine starts in ten have the ball in the cup; the suite's seldom do.
    """

    def initialize_episode(self, physics: ball_in_cup.Physics) -> None:
        anywhere = self.random.uniform() < 0.1
        while True:
            physics.named.data.qpos["ball_x"] = self.random.uniform(-0.2, 0.2)
            physics.named.data.qpos["ball_z"] = self.random.uniform(0.2, 0.5)
            physics.after_reset()  # finds the contacts
            if physics.data.ncon == 0 and (anywhere or physics.in_target()):
                break
        base.Task.initialize_episode(self, physics)

    def get_reward(self, physics: ball_in_cup.Physics) -> float:
        distance = np.linalg.norm(physics.ball_to_target())
        speed = np.linalg.norm(physics.named.data.qvel[["ball_x", "ball_z"]])
        spin = (_at_least(distance, 0.5, 0.25, 0.5) + 2 * _at_least(speed, 6.0, 3.0, 0.5)) / 3
        return (1 - physics.in_target()) * spin


class PendulumSpin(pendulum.SwingUp):
    """Turn at 9 rad/s, either way."""

    def get_reward(self, physics: pendulum.Physics) -> float:
        return _at_least(np.linalg.norm(physics.angular_velocity()), 9.0, 4.5, 0.5)


def _three_links() -> tuple[bytes, dict[str, bytes]]:
    """The suite's reacher with one more link: two arms of 9 cm, joints beyond the shoulder within 80° either way."""
    xml, assets = reacher.get_model_and_assets()
    model = ElementTree.fromstring(xml)
    arm, hand, finger = (model.find(f".//body[@name='{name}']") for name in ("arm", "hand", "finger"))
    arm.find("geom").set("fromto", "0 0 0 0.09 0 0")
    arm.remove(hand)
    second = ElementTree.SubElement(arm, "body", name="arm2", pos="0.09 0 0")
    ElementTree.SubElement(second, "geom", {**arm.find("geom").attrib, "name": "arm2"})
    ElementTree.SubElement(second, "joint", name="elbow", limited="true", range="-80 80")
    second.append(hand)
    hand.set("pos", "0.09 0 0")
    hand.find("joint").set("range", "-80 80")
    finger.set("pos", "0.09 0 0")
    model.find("actuator").insert(1, ElementTree.Element("motor", name="elbow", joint="elbow"))
    return ElementTree.tostring(model), assets


@dataclass(frozen=True)
class _Definition:
    """A task, the suite's domain that has its body, and how long a control step lasts (s; None: one time step)."""

    domain: ModuleType
    make_task: Callable[[], base.Task]
    control_timestep: float | None = None
    model: Callable[[], tuple[bytes, dict[str, bytes]]] | None = None  # None: the domain's own


TASKS = {
    "walker-walk-backwards": _Definition(walker, lambda: WalkerBackwards(move_speed=1), 0.025),
    "walker-run-backwards": _Definition(walker, lambda: WalkerBackwards(move_speed=8), 0.025),
    "cheetah-run-backwards": _Definition(cheetah, CheetahBackwards),
    "cheetah-run-front": _Definition(cheetah, lambda: CheetahOnOneFoot(raised="bfoot")),
    "cheetah-run-back": _Definition(cheetah, lambda: CheetahOnOneFoot(raised="ffoot")),
    "cheetah-jump": _Definition(cheetah, CheetahJump),
    "hopper-hop-backwards": _Definition(hopper, HopperBackwards, 0.02),
    "reacher-three-easy": _Definition(reacher, lambda: reacher.Reacher(target_size=0.05), model=_three_links),
    "reacher-three-hard": _Definition(reacher, lambda: reacher.Reacher(target_size=0.015), model=_three_links),
    "cup-spin": _Definition(ball_in_cup, CupSpin, 0.02),
    "pendulum-spin": _Definition(pendulum, PendulumSpin),
}


def load(name: str) -> control.Environment:
    """A new environment of a task, without a time limit."""
    definition = TASKS[name]
    model = definition.model or definition.domain.get_model_and_assets
    physics = definition.domain.Physics.from_xml_string(*model())
    return control.Environment(physics, definition.make_task(), control_timestep=definition.control_timestep)
