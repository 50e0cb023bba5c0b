"""TD-MPC2's eleven tasks: rewards against formulas by hand, from MuJoCo's raw state."""

import math
from collections.abc import Callable

import mujoco
import numpy as np
import pytest

from pwm import envs
from pwm.envs.dmcontrol import Environment, load
from pwm.envs.dmcontrol_custom import TASKS


def bell(shortfall: float, margin: float) -> float:
    """1 at no shortfall, 0.1 at a shortfall of `margin`."""
    return 0.1 ** ((max(0.0, shortfall) / margin) ** 2)


def ramp(shortfall: float, width: float) -> float:
    """1 at no shortfall, 0 from `width` on."""
    return max(0.0, 1.0 - max(0.0, shortfall) / width)


class Raw:
    """A simulation's state through MuJoCo's plain bindings."""

    def __init__(self, env: Environment) -> None:
        self.model, self.data = env.physics.model.ptr, env.physics.data.ptr

    def height(self, body: str) -> float:
        return float(self.data.body(body).xpos[2])

    def centre_of_mass_speed(self) -> float:
        """Along x, from the momenta of all bodies (the world has no mass)."""
        velocity, momentum = np.zeros(6), 0.0
        for i, mass in enumerate(self.model.body_mass):
            mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_BODY, i, velocity, 0)
            momentum += mass * velocity[3]  # angular before linear, of the body's own centre of mass
        return float(momentum / self.model.body_mass.sum())

    def joint_speed(self, joint: str) -> float:
        return float(self.data.joint(joint).qvel[0])


def walker_backwards(raw: Raw, target: float) -> float:
    upright = (1 + raw.data.body("torso").xmat[8]) / 2
    stand = 0.75 * bell(1.2 - raw.height("torso"), 0.6) + 0.25 * upright
    return stand * (1 / 6 + 5 / 6 * ramp(target + raw.centre_of_mass_speed(), target))


def cheetah_on_one_foot(raw: Raw, raised: str) -> float:
    up = 0.6 * bell(1.2 - raw.height(raised), 0.6) + 0.4 * bell(1.2 - raw.height("torso"), 0.6)
    return up * (1 / 6 + 5 / 6 * ramp(6 - raw.centre_of_mass_speed(), 6))


def cheetah_jump(raw: Raw) -> float:
    still = ramp(abs(raw.centre_of_mass_speed()) - 0.5, 0.5)
    heights = [(raw.height("torso") + raw.height(foot)) / 2 for foot in ("ffoot", "bfoot")]
    return 5 / 12 * sum(bell(1.2 - height, 0.6) for height in heights) + still / 6


def hopper_backwards(raw: Raw) -> float:
    stance = raw.data.body("torso").xipos[2] - raw.data.body("foot").xipos[2]
    return (0.6 <= stance <= 2) * ramp(1 + raw.centre_of_mass_speed(), 1)


def reacher_three(raw: Raw, reach: float) -> float:
    gap = raw.data.geom("target").xpos[:2] - raw.data.geom("finger").xpos[:2]
    return float(math.hypot(*gap) <= reach)


def cup_spin(raw: Raw) -> float:
    gap = (raw.data.site("target").xpos - raw.data.body("ball").xpos)[[0, 2]]
    inside = (np.abs(gap) < raw.model.site("target").size[[0, 2]] - raw.model.geom("ball").size[0]).all()
    speed = math.hypot(raw.joint_speed("ball_x"), raw.joint_speed("ball_z"))
    return (not inside) * (ramp(0.5 - math.hypot(*gap), 0.5) + 2 * ramp(6 - speed, 6)) / 3


FORMULAS: dict[str, Callable[[Raw], float]] = {
    "walker-walk-backwards": lambda raw: walker_backwards(raw, 1),
    "walker-run-backwards": lambda raw: walker_backwards(raw, 8),
    "cheetah-run-backwards": lambda raw: ramp(8 + raw.centre_of_mass_speed(), 8),
    "cheetah-run-front": lambda raw: cheetah_on_one_foot(raw, "bfoot"),
    "cheetah-run-back": lambda raw: cheetah_on_one_foot(raw, "ffoot"),
    "cheetah-jump": cheetah_jump,
    "hopper-hop-backwards": hopper_backwards,
    "reacher-three-easy": lambda raw: reacher_three(raw, 0.05 + 0.01),
    "reacher-three-hard": lambda raw: reacher_three(raw, 0.015 + 0.01),
    "cup-spin": cup_spin,
    "pendulum-spin": lambda raw: ramp(9 - abs(raw.joint_speed("hinge")), 9),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_reward_is_the_formulas(name: str) -> None:
    env = load(name)
    env.task.random.seed(3)
    raw, rng, seen = Raw(env), np.random.default_rng(0), []
    for _ in range(10):
        env.reset()
        env.physics.data.qvel[:] = rng.normal(0, 4, env.physics.model.nv)
        env.physics.data.qpos[:2] += rng.uniform(0, 0.5, len(env.physics.data.qpos[:2]))  # slides: off the ground, too
        env.physics.forward()
        if name.startswith("reacher"):
            near_finger = env.physics.data.geom("finger").xpos + rng.uniform(-0.03, 0.03, 3)
            env.physics.model.geom("target").pos[:] = near_finger
        for action in rng.uniform(-1, 1, (15, *env.action_spec().shape)):
            reward = env.step(action).reward
            assert reward == pytest.approx(FORMULAS[name](raw), abs=1e-9)
            seen.append(reward)
    assert len(set(seen)) > 1
    assert min(seen) >= 0 and max(seen) <= 1


def at_rest(name: str, **qpos: float) -> Environment:
    """All joints at 0 but those given, no velocity."""
    env = load(name)
    env.reset()
    return moved(env, qpos=dict.fromkeys(joints(env), 0.0) | qpos)


def joints(env: Environment) -> list[str]:
    return [env.physics.model.joint(i).name for i in range(env.physics.model.njnt)]


def moved(env: Environment, qpos: dict[str, float] | None = None, **qvel: float) -> Environment:
    """The positions given and the rest kept, the velocities given and the rest 0."""
    for joint, value in (qpos or {}).items():
        env.physics.named.data.qpos[joint] = value
    env.physics.data.qvel[:] = 0
    for joint, value in qvel.items():
        env.physics.named.data.qvel[joint] = value
    env.physics.forward()
    return env


def reward(env: Environment) -> float:
    return env.task.get_reward(env.physics)


@pytest.mark.parametrize(
    ("name", "qpos", "joint", "earned"),
    [
        ("walker-walk-backwards", {}, "rootx", {-1: 1, -0.5: 3.5 / 6, 0: 1 / 6, 1: 1 / 6}),
        ("walker-run-backwards", {}, "rootx", {-8: 1, -4: 3.5 / 6, 0: 1 / 6, 8: 1 / 6}),
        ("cheetah-run-backwards", {}, "rootx", {-9: 1, -8: 1, -4: 0.5, 0: 0, 5: 0}),
        ("cheetah-run-front", {"rootz": 2}, "rootx", {6: 1, 3: 3.5 / 6, 0: 1 / 6, -6: 1 / 6}),
        ("cheetah-run-back", {"rootz": 2}, "rootx", {6: 1, 3: 3.5 / 6, 0: 1 / 6, -6: 1 / 6}),
        ("cheetah-jump", {"rootz": 2}, "rootx", {0: 1, 0.5: 1, 0.75: 5.5 / 6, -1: 5 / 6, 4: 5 / 6}),
        ("hopper-hop-backwards", {}, "rootx", {-1: 1, -3: 1, -0.5: 0.5, 0: 0, 1: 0}),
        ("pendulum-spin", {}, "hinge", {9: 1, -9: 1, 4.5: 0.5, 0: 0}),
        ("cup-spin", {}, "ball_x", {6: 1, -3: 2 / 3, 0: 1 / 3}),
    ],
)
def test_what_a_speed_earns(name: str, qpos: dict[str, float], joint: str, earned: dict[float, float]) -> None:
    env = at_rest(name, **qpos)
    if name == "cup-spin":
        moved(env, {"ball_z": -0.6})  # far below the cup
    for speed, expected in earned.items():
        assert reward(moved(env, **{joint: speed})) == pytest.approx(expected, abs=1e-6), speed


def test_a_ball_in_the_cup_earns_nothing() -> None:
    env = load("cup-spin")
    gap = env.physics.ball_to_target()
    moved(env, {"ball_x": gap[0], "ball_z": gap[1]}, ball_x=8.0)
    assert env.physics.in_target() and reward(env) == 0


def test_cup_spin_starts_nine_times_in_ten_with_the_ball_in_the_cup() -> None:
    env = load("cup-spin")
    env.task.random.seed(0)
    inside = []
    for _ in range(200):
        env.reset()
        inside.append(env.physics.in_target())
        assert env.physics.data.ncon == 0
    assert 0.85 < np.mean(inside) < 0.97


def test_each_runner_on_one_foot_raises_the_other() -> None:
    front, back = (at_rest(name, rooty=-0.8, rootz=0.5) for name in ("cheetah-run-front", "cheetah-run-back"))
    raw = Raw(front)
    raised = {"bfoot": front, "ffoot": back}
    higher, lower = sorted(raised, key=raw.height, reverse=True)
    assert raw.height(higher) > raw.height(lower) + 0.3
    assert reward(raised[higher]) > reward(raised[lower])


@pytest.mark.parametrize(("name", "target"), [("reacher-three-easy", 0.05), ("reacher-three-hard", 0.015)])
def test_three_links_reach_as_their_lengths_say(name: str, target: float) -> None:
    env = load(name)
    assert [env.physics.model.actuator(i).name for i in range(3)] == ["shoulder", "elbow", "wrist"] == joints(env)
    assert env.action_spec().shape == (3,)
    angles = np.random.default_rng(0).uniform(-1.3, 1.3, (5, 3))
    for a in angles:
        env.reset()
        directions = np.cumsum(a)
        tip = 0.09 * np.array([np.cos(directions).sum(), np.sin(directions).sum()])
        for gap, expected in ((target + 0.0099, 1.0), (target + 0.0101, 0.0)):
            env.physics.named.model.geom_pos["target", :2] = tip[0] + gap, tip[1]
            moved(env, dict(zip(joints(env), a, strict=True)))
            assert reward(env) == expected
            np.testing.assert_allclose(env.task.get_observation(env.physics)["to_target"], [gap, 0], atol=1e-12)
        assert env.physics.named.model.geom_size["target", 0] == target
    np.testing.assert_allclose(env.physics.named.model.jnt_range[["elbow", "wrist"]], np.deg2rad([[-80, 80]] * 2))
    assert env.physics.named.model.jnt_limited["shoulder"] == 0


def test_each_motor_turns_its_own_joint() -> None:
    for i in range(3):
        env = load("reacher-three-easy")
        env.reset()
        moved(env, dict.fromkeys(joints(env), 0.0))
        for _ in range(3):
            env.step(np.eye(3)[i])
        assert np.argmax(env.physics.data.qvel) == i and env.physics.data.qvel[i] > 0


def test_the_table_holds_all_eleven() -> None:
    assert tuple(TASKS) == envs.SUITES["mt30"][19:] == tuple(FORMULAS)
