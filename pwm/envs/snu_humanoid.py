"""The SNU humanoid: pelvis and legs, moved by 152 muscles."""

import mujoco
import numpy as np

from pwm.envs.bodies import Array, Torso


class SNUHumanoid:
    """A lower body whose controls are muscle activations in [0, 1].

    qpos: pelvis position and quaternion, then right and left leg: hip quaternion, knee, ankle quaternion, hallux,
    other toes. Reward, floor and start velocities are those of SHAC's dflex SNU humanoid (Xu et al. 2022), which the
    paper uses.
    """

    FLOOR = 0.46  # m; an episode ends when the pelvis is below it
    UP_WEIGHT = 0.1
    ACTIVATION_COST = 0.001
    # Deviation D13: dflex starts upright 1 m up, ± 0.1 m and 7.5°. Here it stands bent, where the muscles balance it.
    NOISE = 0.05  # m, rad: half the width of the uniform start distribution
    VELOCITY_NOISE = 0.25  # m/s, rad/s: the same

    def start(self, model: mujoco.MjModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The model's first key frame, give or take the noise; the feet begin a little above the ground."""
        qpos = model.key_qpos[0].copy()
        qpos[2] += self.NOISE
        mujoco.mj_integratePos(model, qpos, rng.uniform(-self.NOISE, self.NOISE, model.nv), 1.0)
        return qpos, rng.uniform(-self.VELOCITY_NOISE, self.VELOCITY_NOISE, model.nv)

    def observe(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """Pelvis height, quaternion and velocities, joint positions and velocities, up and head; no activations."""
        return Torso(qpos, qvel).observe(qpos[:, 7:], qvel[:, 6:])

    def reward(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """v_x + 0.1 up + head − 0.001 Σ|activation|."""
        torso = Torso(qpos, qvel)
        cost = self.ACTIVATION_COST * abs(control).sum(1)
        return qvel[:, 0] + self.UP_WEIGHT * torso.up + torso.head - cost

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """The pelvis is below the floor height."""
        return qpos[:, 2] < self.FLOOR
