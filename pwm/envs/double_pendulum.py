"""A double pendulum that swings up by a torque at its shoulder: chaotic, and without contacts."""

import mujoco
import numpy as np

from pwm.envs.bodies import Array, namespace


class DoublePendulum:
    """Two rods in a plane (`models/double_pendulum.xml`). qpos: shoulder and elbow, rad, zero where they hang down.

    It has the methods of `pwm.envs.locomotion.Body`; no episode ends.
    """

    VELOCITY = 2.0  # rad/s: half the width of the uniform start distribution
    ACTION_COST = 0.01

    def start(self, model: mujoco.MjModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Any position, at a velocity of up to `VELOCITY`."""
        return rng.uniform(-np.pi, np.pi, model.nq), rng.uniform(-self.VELOCITY, self.VELOCITY, model.nv)

    def observe(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """Sines and cosines of both angles, and 0.1 × their velocities: [N, 6]."""
        xp = namespace(qpos)
        return xp.concat([xp.sin(qpos), xp.cos(qpos), 0.1 * qvel], 1)

    def reward(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """Height of the tip in lengths of the whole, −(cos q₁ + cos(q₁ + q₂)) / 2, less 0.01 a²."""
        xp = namespace(qpos)
        height = -(xp.cos(qpos[:, 0]) + xp.cos(qpos.sum(1))) / 2
        return height - self.ACTION_COST * (control**2).sum(1)
