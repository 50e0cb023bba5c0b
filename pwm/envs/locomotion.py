"""The locomotion suite in MuJoCo: all environments of a task advance as one batch in C threads."""

# Deviation D1: the paper simulates these bodies in dflex. Here the models are our own; contacts, integration and limits
# that are no springs, are MuJoCo's (2 to 4 implicitfast time steps a control step, dflex 16 to 48 semi-implicit ones).

import math
from pathlib import Path
from typing import Protocol

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from pwm.envs.bodies import Array, Hopper, Walker, linear_height, upright_height
from pwm.envs.muscles import add_muscles
from pwm.envs.snu_humanoid import SNUHumanoid
from pwm.envs.tasks import Task
from pwm.envs.vector import TaskVectorEnv, decode_json, encode_json, thread_count

CONTROL_FREQUENCY = 60.0  # Hz
STOP_STIFFNESS = 1000.0  # Nm/rad, dflex's
MODELS = Path(__file__).parent / "models"


class Body(Protocol):
    """What sets one body apart; arrays, or torch's tensors (`Array`), are float64 with a leading dimension N.

    `control` `[N, A]` is what the actuators were given on the way to a state, in their own range; zeros after a reset.
    """

    def start(self, model: mujoco.MjModel, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random first position `[nq]` and velocity `[nv]`."""

    def observe(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """Observations `[N, O]`."""

    def reward(self, qpos: Array, qvel: Array, control: Array) -> Array:
        """Rewards `[N]` for having reached a state."""

    def terminated(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Whether the body has fallen `[N]`."""


BODIES: dict[str, Body] = {
    "hopper": Hopper(),
    "ant": Walker(floor=0.27, height_reward=linear_height, action_cost=0.0),
    "anymal": Walker(floor=0.25, height_reward=linear_height, action_cost=0.005),
    "humanoid": Walker(floor=0.74, height_reward=upright_height, action_cost=0.002),
    "snu-humanoid": SNUHumanoid(),
}


def add_stops(spec: mujoco.MjSpec) -> None:
    """Springs in the place of limits, as dflex has them, for every hinge that has a range but no limits.

    A limit of MuJoCo's holds a joint so hard that a torque against it moves nothing, and has no gradient.
    """
    for joint in spec.joints:
        if joint.limited == mujoco.mjtLimited.mjLIMITED_FALSE and joint.range[0] < joint.range[1]:
            if spec.compiler.degree:
                joint.range = np.radians(joint.range)  # as compiling does for limited joints alone
            stop = spec.add_tendon(name=f"{joint.name}_stop", stiffness=STOP_STIFFNESS, springlength=joint.range)
            stop.wrap_joint(joint.name, 1.0)


def as_gymnasiums(spec: mujoco.MjSpec) -> None:
    """Give the hopper what sets Gymnasium's apart: a foot that grips, contacts that yield, joints that damp less."""
    spec.geom("foot").friction[0] = 2.0
    for geom in spec.geoms:
        geom.solimp[:3] = 0.8, 0.8, 0.01
    for name in ("hip", "knee", "ankle"):
        spec.joint(name).damping = 1.0


def build_model(body: str, contact_stiffness: float = 1.0, gymnasiums: bool = False) -> mujoco.MjModel:
    """The model of a body, its muscles attached where it has a table of them.

    Contacts are `contact_stiffness` times as stiff as the body's own, at the same damping ratio: MuJoCo's stiffness
    goes with the inverse square of `solref`'s time constant. MuJoCo keeps that constant above two time steps, so the
    time step shrinks along with it, and a contact is resolved as well as before.
    """
    spec = mujoco.MjSpec.from_file(str(MODELS / f"{body}.xml"))
    if gymnasiums:
        as_gymnasiums(spec)
    add_stops(spec)
    muscles = MODELS / f"{body}.csv"
    if muscles.exists():
        add_muscles(spec, muscles)
    # Deviation D10: the paper's stiff hopper has 5 times dflex's stiffness and 10 times its damping.
    for geom in spec.geoms:
        geom.solref[0] /= math.sqrt(contact_stiffness)
    spec.option.timestep /= math.ceil(math.sqrt(contact_stiffness))
    return spec.compile()


class Simulation:
    """Control steps of N copies of one model, by `mujoco.rollout` in `OMP_NUM_THREADS` threads (unset: one per core).

    Each control step starts the contact solver cold, so that position and velocity are the whole state and a step
    does not depend on the thread that takes it.
    """

    def __init__(self, model: mujoco.MjModel, num_envs: int) -> None:
        self.model = model
        self.control_steps = round(1.0 / (CONTROL_FREQUENCY * model.opt.timestep))  # K, time steps a control step
        self.threads = min(thread_count(), num_envs)
        # MuJoCo's full physics state: time, qpos, qvel, activations
        self.size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._rollout = Rollout(nthread=self.threads if self.threads > 1 else 0)  # 0: in the calling thread
        self._models = [model] * num_envs
        self._data = [mujoco.MjData(model) for _ in range(self.threads)]
        self._trajectory = np.zeros((num_envs, self.control_steps, self.size))

    def advance(self, physics: np.ndarray, control: np.ndarray) -> np.ndarray:
        """The states `[N, K, S]` after each time step of a control step, overwritten by the next call.

        Args:
            physics: states `[N, S]`, their time 0.
            control: `[N, nu]`, in the actuators' own range.

        Raises:
            FloatingPointError: the physics diverged; names the environments.
        """
        self._rollout.rollout(
            self._models,
            self._data,
            physics,
            np.repeat(control[:, None], self.control_steps, axis=1),
            skip_checks=True,
            nstep=self.control_steps,
            state=self._trajectory,
        )
        diverged = np.flatnonzero(self._trajectory[:, -1, 0] < 0.5 / CONTROL_FREQUENCY)  # MuJoCo resets such a body
        if diverged.size:
            raise FloatingPointError(f"the physics diverged in environments {diverged.tolist()}")
        return self._trajectory

    def close(self) -> None:
        """Stop the threads."""
        self._rollout.close()


class LocomotionVectorEnv(TaskVectorEnv):
    """N copies of one body."""

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        self._body = BODIES[task.body]
        self._model = build_model(task.body, task.contact_stiffness, task.gymnasiums)
        low, high = self._model.actuator_ctrlrange.T
        self._centre, self._half_range = (high + low) / 2, (high - low) / 2
        self._simulation = Simulation(self._model, num_envs)
        self._physics = np.zeros((num_envs, self._simulation.size))
        self._control = np.zeros((num_envs, self._model.nu))  # on the way to this state; zeros after a reset
        self._rngs: list[np.random.Generator] = []
        super().__init__(task, num_envs, seed)

    def close_extras(self, **kwargs: object) -> None:
        """Stop the threads."""
        self._simulation.close()

    def scene(self) -> tuple[mujoco.MjModel, np.ndarray, np.ndarray]:
        qpos, _ = self._positions_and_velocities()
        return self._model, qpos[0].copy(), self._control[0].copy()

    def _seed(self, seeds: list[int]) -> None:
        self._rngs = [np.random.default_rng(seed) for seed in seeds]

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        self._physics[indices] = 0.0
        self._control[indices] = 0.0
        for i in indices:
            qpos, qvel = self._body.start(self._model, self._rngs[i])
            self._physics[i, 1 : 1 + len(qpos) + len(qvel)] = np.concatenate([qpos, qvel])
        qpos, qvel = self._positions_and_velocities()
        return self._body.observe(qpos[indices], qvel[indices], self._control[indices])

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._control = self._centre + self._half_range * actions
        self._physics[:, 0] = 0.0  # time counts from the start of the control step
        try:
            self._trajectory = self._simulation.advance(self._physics, self._control)
        except FloatingPointError as error:
            raise FloatingPointError(f"{self.task.name}: {error}") from None
        self._physics = self._trajectory[:, -1].copy()
        qpos, qvel = self._positions_and_velocities()
        return (
            self._body.observe(qpos, qvel, self._control),
            self._body.reward(qpos, qvel, self._control),
            self._body.terminated(qpos, qvel),
        )

    def _speed(self) -> np.ndarray:
        return self._positions_and_velocities()[1][:, 0].copy()  # every body's first coordinate is its place along x

    def _positions_and_velocities(self) -> tuple[np.ndarray, np.ndarray]:
        model = self._model
        return self._physics[:, 1 : 1 + model.nq], self._physics[:, 1 + model.nq : 1 + model.nq + model.nv]

    def _snapshot(self) -> dict[str, np.ndarray]:
        return {
            "physics": self._physics.copy(),
            "control": self._control.copy(),
            "rng": encode_json([rng.bit_generator.state for rng in self._rngs]),
        }

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        self._physics = state["physics"].copy()
        self._control = state["control"].copy()
        for rng, rng_state in zip(self._rngs, decode_json(state["rng"]), strict=True):
            rng.bit_generator.state = rng_state
