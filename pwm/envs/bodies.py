"""The bodies of the locomotion suite: where they start, what they observe, what they are paid for, when they fall.

Observations and rewards are written for NumPy's arrays and torch's tensors alike, the latter with their gradients.
"""

from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import mujoco
import numpy as np

Array = TypeVar("Array")  # np.ndarray or torch.Tensor


def namespace(x: Array) -> ModuleType:
    """NumPy for its arrays, torch for its tensors; torch is loaded only where there is one."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


class Hopper:
    """One leg in a plane. qpos: forward, height, pitch, hip, knee, ankle; height is relative to the upright pose.

    Reward, noise and floor are those of SHAC's dflex hopper (Xu et al. 2022), which the paper uses.
    """

    FLOOR = -0.45  # m; an episode ends below it
    MARGIN = 0.15  # m above the floor, from where height pays
    PITCH_SCALE = np.pi / 6
    ACTION_COST = 0.1
    NOISE = 0.05  # m, rad, m/s, rad/s: half the width of the uniform start distribution

    def start(self, model: mujoco.MjModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Upright and at rest, give or take `NOISE`; unlike dflex's, joints start within their limits."""
        qpos = rng.uniform(-self.NOISE, self.NOISE, model.nq)
        qvel = rng.uniform(-self.NOISE, self.NOISE, model.nv)
        qpos[3:] = qpos[3:].clip(*model.jnt_range[3:].T)
        return qpos, qvel

    def observe(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """Height, pitch, joint angles, all velocities: everything but how far it has come."""
        return namespace(qpos).concat([qpos[:, 1:], qvel], 1)

    def reward(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """v_x + height term + (1 − (pitch / 30°)²) − 0.1 Σa²; height pays up to 0.3 and costs −200 d² when low."""
        above = (qpos[:, 1] - (self.FLOOR + self.MARGIN)).clip(-1.0, 0.3)
        height = namespace(qpos).where(above < 0, -200.0 * above**2, above)
        upright = 1.0 - (qpos[:, 2] / self.PITCH_SCALE) ** 2
        return qvel[:, 0] + height + upright - self.ACTION_COST * (control**2).sum(1)

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """The torso is below the floor height."""
        return qpos[:, 1] < self.FLOOR


class Walker:
    """A body with a free-floating torso that is paid for walking along x. qpos: free joint, hinges.

    Reward, noise and floors of ant, anymal and humanoid are those of their dflex namesakes, which the paper uses.
    """

    def __init__(self, floor: float, height_reward: Callable[[Array], Array], action_cost: float) -> None:
        """`floor` [m]: an episode ends below it; `height_reward` gets the torso's height above it, `[N]`, in m."""
        self._floor = floor
        self._height_reward = height_reward
        self._action_cost = action_cost

    def start(self, model: mujoco.MjModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The model's first key frame, disturbed."""
        return disturbed_start(model, rng)

    def observe(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """Torso, joint angles and velocities, and the last action."""
        return Torso(qpos, qvel).observe(qpos[:, 7:], qvel[:, 6:], control)

    def reward(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """v_x + 0.1 up + head + height reward − cost · Σa²."""
        torso = Torso(qpos, qvel)
        height = self._height_reward(torso.height - self._floor)
        return torso.linear[:, 0] + 0.1 * torso.up + torso.head + height - self._action_cost * (control**2).sum(1)

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """The torso is below the floor height."""
        return qpos[:, 2] < self._floor


def linear_height(above: Array) -> Array:
    """One a metre above the floor."""
    return above


def upright_height(above: Array) -> Array:
    """For bodies that can crouch: ten a metre from 0.1 m above the floor, at most 1; −200 d² below that."""
    distance = (above - 0.1).clip(-1.0, 0.1)
    return namespace(above).where(distance < 0, -200.0 * distance**2, 10.0 * distance)


class Torso:
    """What a free-floating torso's pose and velocity say, read from its free joint, the first of the model."""

    def __init__(self, qpos: Array, qvel: Array) -> None:
        self._qpos, self._qvel = qpos, qvel

    @property
    def height(self) -> Array:
        """[N], m."""
        return self._qpos[:, 2]

    @property
    def linear(self) -> Array:
        """Velocity in the world's frame, [N, 3]."""
        return self._qvel[:, :3]

    @property
    def up(self) -> Array:
        """The vertical part of the torso's up axis, [N]."""
        return 1.0 - 2.0 * (self._qpos[:, 4] ** 2 + self._qpos[:, 5] ** 2)

    @property
    def head(self) -> Array:
        """The torso's forward axis along the world's x, where the target lies infinitely far, [N]."""
        return 1.0 - 2.0 * (self._qpos[:, 5] ** 2 + self._qpos[:, 6] ** 2)

    @property
    def angular(self) -> Array:
        """Angular velocity in the world's frame, [N, 3]; MuJoCo's free joint has it in the torso's."""
        w, x, y, z = self._qpos[:, 3:7].T
        a, b, c = self._qvel[:, 3:6].T
        # v + 2w (u × v) + 2u × (u × v), with u = (x, y, z)
        p, q, r = 2.0 * (y * c - z * b), 2.0 * (z * a - x * c), 2.0 * (x * b - y * a)
        parts = [a + w * p + y * r - z * q, b + w * q + z * p - x * r, c + w * r + x * q - y * p]
        return namespace(self._qpos).stack(parts, 1)

    def observe(self, joint_angles: Array, joint_velocities: Array, *last: Array) -> Array:
        """The suite's observation `[N, O]`: height, quaternion (w first), linear and angular velocity in the world's
        frame, joint angles, 0.1 × joint velocities, up, head, then `last`, arrays `[N, ...]`."""
        return namespace(self._qpos).concat(
            [
                self._qpos[:, 2:7],
                self.linear,
                self.angular,
                joint_angles,
                0.1 * joint_velocities,
                self.up[:, None],
                self.head[:, None],
                *last,
            ],
            1,
        )


def disturbed_start(model: mujoco.MjModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The model's first key frame, moved as dflex's tasks do: place, orientation, joints and velocities.

    Returns:
        Position `[nq]`, hinges within their ranges, and velocity `[nv]`.
    """
    tangent = rng.uniform(-0.2, 0.2, model.nv)  # rad
    tangent[:3] = rng.uniform(-0.1, 0.1, 3)  # m
    axis = rng.normal(size=3)
    tangent[3:6] = axis / np.linalg.norm(axis) * rng.uniform(-np.pi / 24, np.pi / 24)
    qpos = model.key_qpos[0].copy()
    mujoco.mj_integratePos(model, qpos, tangent, 1.0)
    hinges = (model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & (model.jnt_range[:, 0] < model.jnt_range[:, 1])
    address = model.jnt_qposadr[hinges]
    qpos[address] = qpos[address].clip(*model.jnt_range[hinges].T)
    return qpos, rng.uniform(-0.25, 0.25, model.nv)
