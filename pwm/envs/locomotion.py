"""The locomotion suite in MuJoCo: all environments of a task advance as one batch in C threads."""

# Deviation D1: the paper simulates these bodies in dflex. Here the models are our own and contacts, joint limits and
# integration are MuJoCo's (hopper: 4 implicitfast time steps a control step, dflex 16 semi-implicit ones).

import os
from pathlib import Path
from typing import Protocol

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from pwm.envs.tasks import Task
from pwm.envs.vector import TaskVectorEnv, decode_json, encode_json
from pwm.errors import UserError

CONTROL_FREQUENCY = 60.0  # Hz
MODELS = Path(__file__).parent / "models"


class Body(Protocol):
    """What sets one task of the suite apart; arrays are float64 with a leading dimension N."""

    def start(self, model: mujoco.MjModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random first position `[nq]` and velocity `[nv]`."""

    def observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Observations `[N, O]`."""

    def reward(self, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Rewards `[N]` for having reached a state through an action in [-1, 1]."""

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Whether the body has fallen `[N]`."""


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

    def observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Height, pitch, joint angles, all velocities: everything but how far it has come."""
        return np.concatenate([qpos[:, 1:], qvel], axis=1)

    def reward(self, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray) -> np.ndarray:
        """v_x + height term + (1 − (pitch / 30°)²) − 0.1 Σa²; height pays up to 0.3 and costs −200 d² when low."""
        above = np.clip(qpos[:, 1] - (self.FLOOR + self.MARGIN), -1.0, 0.3)
        height = np.where(above < 0, -200.0 * above**2, above)
        upright = 1.0 - (qpos[:, 2] / self.PITCH_SCALE) ** 2
        return qvel[:, 0] + height + upright - self.ACTION_COST * (action**2).sum(axis=1)

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """The torso is below the floor height."""
        return qpos[:, 1] < self.FLOOR


BODIES: dict[str, Body] = {"hopper": Hopper()}


class LocomotionVectorEnv(TaskVectorEnv):
    """N copies of one body, stepped by `mujoco.rollout` in `OMP_NUM_THREADS` threads (unset: one per core).

    Each control step starts the contact solver cold, so that position and velocity are the whole state and a step
    does not depend on the thread that takes it.
    """

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        self._body = BODIES[task.name]
        self._model = mujoco.MjModel.from_xml_path(str(MODELS / f"{task.name}.xml"))
        self._control_steps = round(1.0 / (CONTROL_FREQUENCY * self._model.opt.timestep))
        threads = min(_thread_count(), num_envs)
        self._rollout = Rollout(nthread=threads if threads > 1 else 0)  # 0: in the calling thread
        self._models = [self._model] * num_envs
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        # MuJoCo's full physics state: time, qpos, qvel. [N, S]; [N, control steps, S]
        self._physics = np.zeros((num_envs, 1 + self._model.nq + self._model.nv))
        self._trajectory = np.zeros((num_envs, self._control_steps, self._physics.shape[1]))
        self._rngs: list[np.random.Generator] = []
        super().__init__(task, num_envs, seed)

    def close_extras(self, **kwargs: object) -> None:
        """Stop the threads."""
        self._rollout.close()

    def _seed(self, seeds: list[int]) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        for i in indices:
            qpos, qvel = self._body.start(self._model, self._rngs[i])
            self._physics[i] = np.concatenate([[0.0], qpos, qvel])
        qpos, qvel = self._positions_and_velocities()
        return self._body.observe(qpos[indices], qvel[indices])

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        controls = actions.astype(np.float64)
        self._physics[:, 0] = 0.0  # time counts from the start of the control step
        self._rollout.rollout(
            self._models,
            self._data,
            self._physics,
            np.repeat(controls[:, None], self._control_steps, axis=1),
            skip_checks=True,
            nstep=self._control_steps,
            state=self._trajectory,
        )
        self._physics = self._trajectory[:, -1].copy()
        diverged = np.flatnonzero(self._physics[:, 0] < 0.5 / CONTROL_FREQUENCY)  # MuJoCo resets a diverged body
        if diverged.size:
            raise FloatingPointError(f"{self.task.name}: the physics diverged in environments {diverged.tolist()}")
        qpos, qvel = self._positions_and_velocities()
        return (
            self._body.observe(qpos, qvel),
            self._body.reward(qpos, qvel, controls),
            self._body.terminated(qpos, qvel),
        )

    def _positions_and_velocities(self) -> tuple[np.ndarray, np.ndarray]:
        qpos, qvel = np.split(self._physics[:, 1:], [self._model.nq], axis=1)
        return qpos, qvel

    def _snapshot(self) -> dict[str, np.ndarray]:
        return {"physics": self._physics.copy(), "rng": encode_json([rng.bit_generator.state for rng in self._rngs])}

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        self._physics = state["physics"].copy()
        for rng, rng_state in zip(self._rngs, decode_json(state["rng"]), strict=True):
            rng.bit_generator.state = rng_state


def _thread_count() -> int:
    """`OMP_NUM_THREADS`, as other numerical libraries read it, or the cores this process may use."""
    requested = os.environ.get("OMP_NUM_THREADS")
    if requested is None:
        return len(os.sched_getaffinity(0))
    if not requested.isdigit() or int(requested) < 1:
        raise UserError(f"OMP_NUM_THREADS is {requested!r}; set it to a number of threads, such as 1, or unset it")
    return int(requested)
