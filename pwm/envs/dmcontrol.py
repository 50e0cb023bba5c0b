"""DeepMind Control Suite tasks, and TD-MPC2's on its bodies, under TD-MPC2's names: `walker-walk`, `cup-spin`, …"""

import copy
import os

os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is drawn; dm_control would look for a display on import

import mujoco
import numpy as np
from dm_control import suite
from dm_control.rl.control import Environment, PhysicsError

from pwm.envs import dmcontrol_custom, dmcontrol_fast
from pwm.envs.tasks import Task
from pwm.envs.vector import TaskVectorEnv

RNG_WORDS = 628
DOMAINS = {"cup": "ball_in_cup"}  # where the name's first word is not the suite's domain

# Their starts place a target in the model or set a damping; environments of other tasks share one model, which spares
# 12 MB each, textures for the most part, and a sixth of the time of the fast ones.
CHANGE_THEIR_MODEL = ("reacher", "finger", "fish")


def load(name: str, seed: int | None = None) -> Environment:
    """dm_control's own environment of a task; without a seed, of a random one."""
    if name in dmcontrol_custom.TASKS:
        env = dmcontrol_custom.load(name)
    else:
        domain, suite_task = name.replace("-", "_").split("_", 1)
        env = suite.load(DOMAINS.get(domain, domain), suite_task)
    env.task.random.seed(seed)
    return env


class DMControlVectorEnv(TaskVectorEnv):
    """N environments of one task, one after the other in this process.

    An action is scaled from [-1, 1] to the task's own range and held for `action_repeat` control steps, whose rewards
    are summed. The observation is the suite's, its entries flattened in their order.
    """

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        first = load(task.name)
        spec = first.action_spec()
        self._centre, self._half_range = (spec.maximum + spec.minimum) / 2, (spec.maximum - spec.minimum) / 2
        shared = not task.name.startswith(CHANGE_THEIR_MODEL)
        copies = [_copy(first, shared) for _ in range(num_envs - 1)]
        self._envs = [_Simulation(task.name, env) for env in (first, *copies)]
        # Some tasks keep an episode's facts in the model or in themselves (reacher its target), so what identifies an
        # environment's state exactly is its generator at the episode's start and the actions taken since.
        self._start_rng = np.zeros((num_envs, RNG_WORDS), np.uint32)
        self._history = np.zeros((num_envs, task.episode_length, task.action_dim), np.float32)
        super().__init__(task, num_envs, seed)

    def scene(self) -> tuple[mujoco.MjModel, np.ndarray, np.ndarray]:
        physics = self._envs[0].physics
        return physics.model.ptr, physics.data.qpos.copy(), physics.control()

    def _seed(self, seeds: list[int]) -> None:
        for env, seed in zip(self._envs, seeds, strict=True):
            env.task.random.seed(seed)

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._begin_one(i) for i in indices])

    def _begin_one(self, i: int) -> np.ndarray:
        self._start_rng[i] = _rng_words(self._envs[i].task.random)
        return self._envs[i].begin()

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._history[np.arange(self.num_envs), self._elapsed] = actions
        observation = np.empty(self.observation_space.shape)
        reward = np.empty(self.num_envs)
        with dmcontrol_fast.fast_rewards():
            for i, control in enumerate(self._controls(actions)):
                observation[i], reward[i] = self._envs[i].advance(control, self.task.action_repeat)
        return observation, reward, np.zeros(self.num_envs, bool)

    def _controls(self, actions: np.ndarray) -> np.ndarray:
        return self._centre + self._half_range * actions

    def _snapshot(self) -> dict[str, np.ndarray]:
        return {"start_rng": self._start_rng.copy(), "history": self._history.copy()}

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        self._history = state["history"].copy()
        for i, env in enumerate(self._envs):
            _set_rng(env.task.random, state["start_rng"][i])
            self._begin_one(i)
            for control in self._controls(self._history[i, : self._elapsed[i]]):
                env.advance(control, self.task.action_repeat)


class _Simulation:
    """One environment of dm_control, stepped without the observations and time steps that nobody reads."""

    def __init__(self, name: str, env: Environment) -> None:
        self._name = name
        self._env, self.task, self.physics = env, env.task, env.physics
        self._model, self._data = self.physics.model.ptr, self.physics.data.ptr
        self._substeps = round(env.control_timestep() / self.physics.timestep())
        self._runge_kutta = self._model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        self._warnings = self._data.warning.number  # a view; zeros after a reset
        dmcontrol_fast.cache_names(self.physics)

    def begin(self) -> np.ndarray:
        """Start an episode; its first observation `[O]`."""
        return _flatten(self._env.reset().observation)

    def advance(self, control: np.ndarray, repeats: int) -> tuple[np.ndarray, float]:
        """Hold a control for `repeats` control steps; the observation `[O]` after them and their summed reward.

        Raises:
            PhysicsError: MuJoCo warned, as it does of positions that are not finite.
        """
        self.task.before_step(control, self.physics)  # sets what the actuators are given, which then stays
        reward = 0.0
        for _ in range(repeats):
            self._step()
            reward += self.task.get_reward(self.physics)
        if any(self._warnings.tolist()):  # faster than NumPy on so few
            warnings = [mujoco.mjtWarning(i).name for i in np.flatnonzero(self._warnings)]
            raise PhysicsError(f"{self._name}: the simulation broke down; MuJoCo warned of {', '.join(warnings)}")
        return _flatten(self.task.get_observation(self.physics)), reward

    def _step(self) -> None:
        """`physics.step`: each ends in `mj_step1`, for positions and velocities to agree with all that follows."""
        if self._runge_kutta:
            mujoco.mj_step(self._model, self._data, self._substeps)
        else:
            mujoco.mj_step2(self._model, self._data)
            if self._substeps > 1:
                mujoco.mj_step(self._model, self._data, self._substeps - 1)
        mujoco.mj_step1(self._model, self._data)


def _copy(env: Environment, share_model: bool) -> Environment:
    """The environment once more, six times as fast as from its file."""
    physics = env.physics.copy(share_model)
    return Environment(physics, copy.deepcopy(env.task), control_timestep=env.control_timestep())


def _flatten(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(observation.values()), axis=None)


def _rng_words(random: np.random.RandomState) -> np.ndarray:
    """The state of a Mersenne twister: 624 words, the place among them, and half of a pair of normal draws."""
    _, key, position, has_normal, normal = random.get_state()
    return np.concatenate([key, np.array([position, has_normal], np.uint32), np.array([normal]).view(np.uint32)])


def _set_rng(random: np.random.RandomState, words: np.ndarray) -> None:
    key, (position, has_normal), normal = np.split(words, [624, 626])
    random.set_state(("MT19937", key, int(position), int(has_normal), normal.view(np.float64)[0]))
