"""DeepMind Control Suite tasks under TD-MPC2's names: `walker-walk`, `cup-catch`, …"""

import os

os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is drawn; dm_control would look for a display on import

import numpy as np
from dm_control import suite

from pwm.envs.tasks import Task
from pwm.envs.vector import TaskVectorEnv, decode_json, encode_json

DOMAINS = {"cup": "ball_in_cup"}  # where the name's first word is not the suite's domain


class DMControlVectorEnv(TaskVectorEnv):
    """N environments of one suite task, one after the other in this process.

    An action is scaled from [-1, 1] to the task's own range and held for `action_repeat` control steps, whose rewards
    are summed. The observation is the suite's, its entries flattened in their order.
    """

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        domain, suite_task = task.name.replace("-", "_").split("_", 1)
        self._envs = [suite.load(DOMAINS.get(domain, domain), suite_task) for _ in range(num_envs)]
        spec = self._envs[0].action_spec()
        self._centre, self._half_range = (spec.maximum + spec.minimum) / 2, (spec.maximum - spec.minimum) / 2
        # Some tasks keep an episode's facts in the model or in themselves (reacher its target), so what identifies an
        # environment's state exactly is its generator at the episode's start and the actions taken since.
        self._start_rng: list[dict] = [{} for _ in range(num_envs)]
        self._history = np.zeros((num_envs, task.episode_length, task.action_dim), np.float32)
        super().__init__(task, num_envs, seed)

    def _seed(self, seeds: list[int]) -> None:
        for env, seed in zip(self._envs, seeds, strict=True):
            env.task.random.seed(seed)

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._begin_one(i) for i in indices])

    def _begin_one(self, i: int) -> np.ndarray:
        self._start_rng[i] = self._envs[i].task.random.get_state(legacy=False)
        return _flatten(self._envs[i].reset().observation)

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._history[np.arange(self.num_envs), self._elapsed] = actions
        observation = np.empty(self.observation_space.shape)
        reward = np.empty(self.num_envs)
        for i, action in enumerate(actions):
            observation[i], reward[i] = self._advance_one(i, action)
        return observation, reward, np.zeros(self.num_envs, bool)

    def _advance_one(self, i: int, action: np.ndarray) -> tuple[np.ndarray, float]:
        scaled = self._centre + self._half_range * action
        reward = 0.0
        for _ in range(self.task.action_repeat):
            time_step = self._envs[i].step(scaled)
            reward += time_step.reward
        return _flatten(time_step.observation), reward

    def _snapshot(self) -> dict[str, np.ndarray]:
        return {"start_rng": encode_json(self._start_rng), "history": self._history.copy()}

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        self._history = state["history"].copy()
        for i, rng in enumerate(decode_json(state["start_rng"])):
            self._envs[i].task.random.set_state(rng)
            self._begin_one(i)
            for action in self._history[i, : self._elapsed[i]]:
                self._advance_one(i, action)


def _flatten(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in observation.values()])
