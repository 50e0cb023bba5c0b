"""The online buffer: the last transitions of N parallel environments, drawn as windows."""

import json

import numpy as np
import torch

from pwm.data.batch import Batch


class Replay:
    """Ring of `capacity // num_envs` steps of `num_envs` environments, in memory, float32.

    A window is H steps of one environment that follow each other in time, with no episode's end before its last step.
    """

    def __init__(self, capacity: int, num_envs: int, observation_dim: int, action_dim: int, seed: int) -> None:
        rows = capacity // num_envs
        if rows < 1:
            raise ValueError(f"a replay of {capacity} transitions has no room for a step of {num_envs} environments")
        self._num_envs = num_envs
        # Zeroed memory is only taken from the system when it is first written.
        self._rows = {
            "obs": np.zeros((rows, num_envs, observation_dim), np.float32),
            "action": np.zeros((rows, num_envs, action_dim), np.float32),
            "reward": np.zeros((rows, num_envs), np.float32),
            "terminated": np.zeros((rows, num_envs), np.float32),
            "next_obs": np.zeros((rows, num_envs, observation_dim), np.float32),
            # Steps of the episode up to and with this one: a window of H steps may end here where this is >= H.
            "age": np.zeros((rows, num_envs), np.int32),
        }
        self._capacity = rows
        self._head = 0  # the row written next
        self._size = 0  # rows filled
        self._running = np.zeros(num_envs, np.int32)  # steps so far of the episode under way
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Transitions stored."""
        return self._size * self._num_envs

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        next_obs: np.ndarray,
    ) -> None:
        """Store one step of every environment: obs and next_obs `[N, O]`, action `[N, A]`, the others `[N]`.

        `next_obs` is what the step led to, so an episode's final observation where one ended.
        """
        age = self._running + 1
        ended = np.logical_or(np.asarray(terminated), np.asarray(truncated))
        step = {"obs": obs, "action": action, "reward": reward, "terminated": terminated, "next_obs": next_obs}
        for name, value in {**step, "age": age}.items():
            row = self._rows[name][self._head]
            if np.shape(value) != row.shape:
                raise ValueError(f"{name} has shape {tuple(np.shape(value))}, expected {row.shape}")
            row[...] = value
        self._running = np.where(ended, 0, age)
        self._head = (self._head + 1) % self._capacity
        self._size = min(self._size + 1, self._capacity)

    def sample(self, batch_size: int, horizon: int) -> Batch:
        """`batch_size` windows, uniform over all there are; `task` is 0. Raises `ValueError` where there is none."""
        step, env = self._draw_ends(batch_size, horizon)
        step = (step + np.arange(1 - horizon, 1)[:, None]) % self._capacity  # [H, B]
        item = step * self._num_envs + env
        flat = {name: rows.reshape(-1, *rows.shape[2:]) for name, rows in self._rows.items()}
        obs = np.concatenate([flat["obs"][item[:1]], flat["next_obs"][item]])
        rest = (flat[name][item] for name in ("action", "reward", "terminated"))
        return Batch(*map(torch.from_numpy, (obs, *rest, np.zeros(batch_size, np.int64))))

    def _draw_ends(self, batch_size: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and environment, each `[B]`, of the last steps of windows drawn uniformly."""
        if not 1 <= horizon <= self._size:
            raise ValueError(f"the replay holds {self._size} steps of each environment, a window has {horizon}")
        oldest = self._head - self._size
        # Rejection: of twice as many candidates most are windows, unless episodes hardly outlast the horizon.
        step = (oldest + self._rng.integers(horizon - 1, self._size, size=2 * batch_size)) % self._capacity
        env = self._rng.integers(self._num_envs, size=2 * batch_size)
        valid = np.flatnonzero(self._rows["age"][step, env] >= horizon)[:batch_size]
        step, env = step[valid], env[valid]
        missing = batch_size - len(valid)
        if missing:  # then list them all, which is exact too but reads the whole ring
            allowed = self._rows["age"] >= horizon
            allowed[(oldest + np.arange(horizon - 1)) % self._capacity] = False  # their starts were overwritten
            ends = np.flatnonzero(allowed[: self._size])
            if len(ends) == 0:
                raise ValueError(f"no episode in the replay has {horizon} steps; lower the horizon or collect more")
            drawn = ends[self._rng.integers(len(ends), size=missing)]
            step = np.concatenate([step, drawn // self._num_envs])
            env = np.concatenate([env, drawn % self._num_envs])
        return step, env

    def state(self) -> dict[str, torch.Tensor | str]:
        """A copy of all it takes to go on exactly: the filled rows, the position and the generator."""
        tensors = {name: torch.from_numpy(rows[: self._size].copy()) for name, rows in self._rows.items()}
        tensors["running"] = torch.from_numpy(self._running.copy())
        tensors["ring"] = torch.tensor([self._capacity, self._head])
        return {**tensors, "rng": json.dumps(self._rng.bit_generator.state)}

    def restore(self, state: dict[str, torch.Tensor | str]) -> None:
        """Go on from what `state` returned, in a replay of the same sizes; `ValueError` for other sizes."""
        capacity, head = state["ring"].tolist()
        for name, rows in self._rows.items():
            if capacity != self._capacity or state[name].shape[1:] != rows.shape[1:]:
                saved = [capacity, *state[name].shape[1:]]
                raise ValueError(f"the saved replay's {name} is {saved}, this replay's is {list(rows.shape)}")
        self._size = len(state["obs"])
        self._head = head
        for name, rows in self._rows.items():
            rows[: self._size] = state[name].numpy()
        self._running = state["running"].numpy().copy()
        self._rng.bit_generator.state = json.loads(state["rng"])
