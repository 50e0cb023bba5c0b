"""The contract every environment keeps, written once: seeding, episode ends, autoreset, snapshots."""

import json
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from pwm.envs.tasks import Task
from pwm.errors import UserError

MAX_SEED = 2**32 - 1


class TaskVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` (N) independent episodes of one task, stepped together.

    Observations are float32 `[N, O]`, actions float32 `[N, A]` clipped to [-1, 1], rewards float32 `[N]`. Environment
    i draws from a generator seeded with `seed + i`, so it repeats a single environment with that seed bit for bit.
    An episode that ends is reset within the same step: `info["final_obs"]` `[N, O]` holds the observation that the
    action led to, in every row; `info["success"]` `[N]` is the task's own success in that state, `info["speed"]` `[N]`
    the body's velocity forward, m/s, NaN where the task has none. An episode that terminates on its last step is
    `terminated`, not `truncated`.

    A family supplies `_seed`, `_begin`, `_advance`, `_snapshot` and `_revert`.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012 Gymnasium's declaration

    def __init__(self, task: Task, num_envs: int, seed: int) -> None:
        """Raises `UserError` for a number of environments or a seed out of range."""
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}; ask for at least 1 environment")
        self.task = task
        self.num_envs = num_envs
        self.single_observation_space = Box(-np.inf, np.inf, (task.observation_dim,), np.float32)
        self.single_action_space = Box(-1.0, 1.0, (task.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._observation: np.ndarray | None = None  # [N, O], what reset, step or restore returned last
        self._seed(self._checked_seeds(seed))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin N episodes. Without a seed the generators carry on.

        Returns:
            Observations `[N, O]` and an empty info.
        """
        if seed is not None:
            self._seed(self._checked_seeds(seed))
        self._observation = self._begin(np.arange(self.num_envs)).astype(np.float32)
        self._elapsed[:] = 0
        return self._observation.copy(), {}

    def begin(self, actions: np.ndarray) -> None:
        """Let what is not done in this process of the `step` with these actions, which has to follow, begin."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one decision in every environment.

        Returns:
            Observations `[N, O]` (of the new episode where one ended), rewards, terminated, truncated `[N]`, info.

        Raises:
            UserError: the actions are not `[N, A]`, or not numbers.
            ResetNeeded: there was no reset before.
        """
        if self._observation is None:
            raise ResetNeeded("call reset before step")
        observation, reward, terminated = self._advance(self._checked_actions(actions))
        observation = observation.astype(np.float32)
        info = {"final_obs": observation.copy(), "success": self._success(), "speed": self._speed()}
        self._elapsed += 1
        truncated = (self._elapsed >= self.task.episode_length) & ~terminated
        ended = np.flatnonzero(terminated | truncated)
        if ended.size:
            observation[ended] = self._begin(ended)
            self._elapsed[ended] = 0
        self._observation = observation
        return observation.copy(), reward.astype(np.float32), terminated, truncated, info

    def state(self) -> dict[str, np.ndarray]:
        """An exact snapshot, arrays only; after `restore` of it the same actions give the same numbers."""
        if self._observation is None:
            raise ResetNeeded("call reset before state")
        return {"elapsed": self._elapsed.copy(), "observation": self._observation.copy(), **self._snapshot()}

    def restore(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Go back to a snapshot of the same task and number of environments.

        Returns:
            The observations `[N, O]` to act on next.
        """
        if state["observation"].shape != self.observation_space.shape:
            theirs, ours = state["observation"].shape, self.observation_space.shape
            raise UserError(f"the snapshot's observations are {theirs}, {self.task.name}'s {ours}; restore its own")
        self._elapsed = state["elapsed"].copy()
        self._observation = state["observation"].copy()
        self._revert(state)
        return self._observation.copy()

    def scene(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """For drawing, of the first environment: MuJoCo's model, positions `[nq]` and controls `[nu]`."""
        raise NotImplementedError

    def _seed(self, seeds: list[int]) -> None:
        """Give environment i a new generator of `seeds[i]`."""
        raise NotImplementedError

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        """Start a new episode in the K environments `indices`; their first observations `[K, O]`."""
        raise NotImplementedError

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Observations `[N, O]`, rewards `[N]` and terminated `[N]` after the clipped float32 actions `[N, A]`."""
        raise NotImplementedError

    def _success(self) -> np.ndarray:
        """Whether each environment is in a state of success `[N]`; never, where a task knows only its reward."""
        return np.zeros(self.num_envs, bool)

    def _speed(self) -> np.ndarray:
        """How fast each body moves forward `[N]`, m/s; NaN in families whose tasks are about other things."""
        return np.full(self.num_envs, np.nan)

    def _snapshot(self) -> dict[str, np.ndarray]:
        """The family's part of `state`: generators and physics."""
        raise NotImplementedError

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        """Put back what `_snapshot` took; `_elapsed` is back already."""
        raise NotImplementedError

    def _checked_seeds(self, seed: int) -> list[int]:
        if not 0 <= seed <= MAX_SEED - self.num_envs:
            raise UserError(f"seed is {seed}; choose one from 0 to {MAX_SEED - self.num_envs}")
        return [seed + i for i in range(self.num_envs)]

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape:
            raise UserError(f"{self.task.name}: actions have shape {actions.shape}; give {self.action_space.shape}")
        if np.isnan(actions).any():
            raise FloatingPointError(f"{self.task.name}: actions hold NaN: the policy that made them diverged")
        return actions.clip(-1.0, 1.0)


class SingleEnv(gymnasium.Env):
    """A Gymnasium environment over a vector environment of one."""

    metadata = {"render_modes": []}  # noqa: RUF012 Gymnasium's declaration

    def __init__(self, vector_env: TaskVectorEnv) -> None:
        self.vector_env = vector_env
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self._next_start: np.ndarray | None = None  # where an episode just ended: the first observation of the next

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode, the same one that the vector environment begins on its own after an episode's end."""
        super().reset(seed=seed)
        if seed is None and self._next_start is not None:
            observation = self._next_start
        else:
            observation = self.vector_env.reset(seed=seed)[0][0]
        self._next_start = None
        return observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one decision; after an episode's end `reset` must come first."""
        if self._next_start is not None:
            raise ResetNeeded("the episode has ended: call reset before step")
        observation, reward, terminated, truncated, info = self.vector_env.step(np.asarray(action)[None])
        if terminated[0] or truncated[0]:
            self._next_start = observation[0]
        final = info["final_obs"][0]
        return final, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {"success": bool(info["success"][0])}

    def close(self) -> None:
        self.vector_env.close()


def encode_json(value: Any) -> np.ndarray:
    """JSON-like data, such as the state of a random generator, as an array of bytes (arrays become lists)."""
    return np.frombuffer(json.dumps(value, default=np.ndarray.tolist).encode(), np.uint8).copy()


def decode_json(data: np.ndarray) -> Any:
    """What `encode_json` encoded."""
    return json.loads(data.tobytes())


def thread_count() -> int:
    """`OMP_NUM_THREADS`, as other numerical libraries read it, or the cores this process may use.

    Raises:
        UserError: the variable holds something else than a number of threads.
    """
    requested = os.environ.get("OMP_NUM_THREADS")
    if requested is None:
        return len(os.sched_getaffinity(0))
    if not requested.isdigit() or int(requested) < 1:
        raise UserError(f"OMP_NUM_THREADS is {requested!r}; set it to a number of threads, such as 1, or unset it")
    return int(requested)
