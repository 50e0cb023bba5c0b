"""Meta-World tasks under TD-MPC2's names: `mw-reach`, `mw-drawer-open`, …; and their scripted experts."""

import os

os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is drawn; a library would look for a display on import

import copy
import warnings
from collections.abc import Callable
from functools import lru_cache

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from pwm.envs.tasks import Task
from pwm.envs.vector import TaskVectorEnv

# An observation is the current frame, the one of the simulator step before, and the goal; positions in m.
FRAME, PREVIOUS_FRAME, GOAL = slice(0, 18), slice(18, 36), slice(36, 39)
HAND, FIRST_OBJECT, SECOND_OBJECT = slice(0, 3), slice(4, 7), slice(11, 14)  # of a frame
NO_ACTION = np.zeros(4, np.float32)
RNG_BYTES = 32
# Scripted policies end with their first success; these would leave it again before the episode ends. Distance between
# object and goal (m) from which on the hand moves only by what the object still lacks.
OVERSHOOTING = """
    coffee-push door-open door-close faucet-open faucet-close handle-press-side handle-press lever-pull peg-unplug-side
    pick-out-of-hole plate-slide-side plate-slide-back plate-slide-back-side push-back shelf-place stick-push
    sweep-into box-close
"""
HELD_WITHIN = dict.fromkeys(OVERSHOOTING.split(), 0.07) | {"coffee-button": 0.02}


class MetaWorldVectorEnv(TaskVectorEnv):
    """N environments of one Meta-World task, one after the other in this process.

    Every episode draws its goal and object positions anew from the environment's own generator; the goal is in the
    observation. An action is held for `action_repeat` simulator steps, whose rewards (Meta-World's default reward
    function "v2", 0 to 10 a step) are summed; success is the last step's.
    """

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        self._envs = [_build(task.name) for _ in range(num_envs)]
        # An environment's state is spread over its physics, its model and its attributes; its generator at the
        # episode's start and the actions taken since identify it exactly.
        self._start_rng = np.zeros((num_envs, RNG_BYTES), np.uint8)
        self._history = np.zeros((num_envs, task.episode_length, task.action_dim), np.float32)
        self._succeeded = np.zeros(num_envs, bool)
        super().__init__(task, num_envs, seed)

    def scene(self) -> tuple[mujoco.MjModel, np.ndarray, np.ndarray]:
        env = self._envs[0]
        return env.model, env.data.qpos.copy(), env.data.ctrl.copy()

    def _seed(self, seeds: list[int]) -> None:
        for env, seed in zip(self._envs, seeds, strict=True):
            env.seed(seed)

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._begin_one(i) for i in indices])

    def _begin_one(self, i: int) -> np.ndarray:
        """Reset, then take a simulator step without action, as TD-MPC2 does; the first observation `[O]`."""
        env = self._envs[i]
        self._start_rng[i] = _encode_rng(env.np_random)
        env.reset()
        # Deviation D11: TD-MPC2's first observation is the reset's, where some tasks show the object at a former place.
        observation = env.step(NO_ACTION)[0]
        observation[PREVIOUS_FRAME] = observation[FRAME]  # as Meta-World does at a reset
        return observation

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._history[np.arange(self.num_envs), self._elapsed] = actions
        observation = np.empty(self.observation_space.shape)
        reward = np.empty(self.num_envs)
        for i, action in enumerate(actions):
            observation[i], reward[i], self._succeeded[i] = self._advance_one(i, action)
        return observation, reward, np.zeros(self.num_envs, bool)

    def _advance_one(self, i: int, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        total = 0.0
        for _ in range(self.task.action_repeat):
            observation, reward, _, _, info = self._envs[i].step(action)
            total += reward
        return observation, total, bool(info["success"])

    def _success(self) -> np.ndarray:
        return self._succeeded.copy()

    def _snapshot(self) -> dict[str, np.ndarray]:
        return {"start_rng": self._start_rng.copy(), "history": self._history.copy()}

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        self._history = state["history"].copy()
        for i, env in enumerate(self._envs):
            _set_rng(env.np_random, state["start_rng"][i])
            self._begin_one(i)
            for action in self._history[i, : self._elapsed[i]]:
                self._advance_one(i, action)


class _Lean:
    """Methods of Meta-World's base class that give the same numbers faster."""

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = copy.copy(_compiled(self.fullpath))  # a copy, because a reset moves bodies within the model
        return model, mujoco.MjData(model)

    def _reset_hand(self, steps: int = 50) -> None:
        # A reset runs twice, and clears the physics before the second time: where the hand went first is forgotten.
        if self.data.time == 0.0:
            super()._reset_hand(steps)

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        data, frame = self.data, np.zeros(18)
        frame[HAND] = data.body("hand").xpos
        frame[3] = min(np.linalg.norm(data.body("rightclaw").xpos - data.body("leftclaw").xpos) / 0.1, 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for k in range(len(positions) // 3):
            frame[4 + 7 * k : 7 + 7 * k] = positions[3 * k : 3 * k + 3]
            frame[7 + 7 * k : 11 + 7 * k] = quaternions[4 * k : 4 * k + 4]
        return frame

    def touching_object(self, object_geom_id: int) -> bool:
        geoms, addresses = self.data.contact.geom, self.data.contact.efc_address
        of_object = (geoms == object_geom_id).any(1)

        def force(pad: str) -> float:
            of_pad = (geoms == self.data.geom(pad).id).any(1)
            return sum(self.data.efc_force[addresses[of_object & of_pad]])

        return force("leftpad_geom") > 0 and force("rightpad_geom") > 0


@lru_cache(maxsize=1)  # a task's environments are built one after the other; a model is 20 MB
def _compiled(path: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(path)


def _build(name: str) -> SawyerXYZEnv:
    """Meta-World's environment with the goal in its observations, drawing from its own generator at every reset."""
    original = ALL_V3_ENVIRONMENTS[_key(name)]  # Deviation D11: version 3 of the environments
    env = type(original.__name__, (_Lean, original), {})()
    env._partially_observable = False
    del env.sawyer_observation_space  # cached with the goal hidden; observations are clipped to it
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._set_task_called = True
    return env


def _key(name: str) -> str:
    return f"{name.removeprefix('mw-')}-v3"


def _encode_rng(rng: np.random.Generator) -> np.ndarray:
    """The state of a PCG64, two integers of 128 bits, as bytes."""
    state = rng.bit_generator.state["state"]
    return np.frombuffer(b"".join(state[key].to_bytes(16, "little") for key in ("state", "inc")), np.uint8)


def _set_rng(rng: np.random.Generator, data: np.ndarray) -> None:
    state, inc = (int.from_bytes(half.tobytes(), "little") for half in np.split(data, 2))
    rng.bit_generator.state |= {"state": {"state": state, "inc": inc}}


def scripted_expert(task: str) -> Callable[[np.ndarray], np.ndarray]:
    """Meta-World's own scripted policy of a task, kept at the goal where it would carry on past it (`HELD_WITHIN`).

    Returns:
        A function of observations `[N, 39]` that gives float32 actions `[N, 4]` in [-1, 1]. It keeps no state.
    """
    policy = ENV_POLICY_MAP[_key(task)]()
    radius = HELD_WITHIN.get(task.removeprefix("mw-"), 0.0)
    moved = SECOND_OBJECT if task == "mw-stick-push" else FIRST_OBJECT

    def act(observations: np.ndarray) -> np.ndarray:
        observations = observations.astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an action is out of range: it is clipped
            # A copy each: some policies write into what they are given.
            actions = np.stack([policy.get_action(observation.copy()) for observation in observations])
        missing = observations[:, GOAL] - observations[:, moved]
        velocity = observations[:, HAND] - observations[:, PREVIOUS_FRAME][:, HAND]  # m a simulator step
        near = np.linalg.norm(missing, axis=1) < radius
        # Damped because the hand lags behind the point that the actions move.
        actions[near, :3] = (10.0 * missing - 100.0 * velocity)[near]
        return actions.clip(-1.0, 1.0)

    return act
