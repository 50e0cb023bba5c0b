"""How data is acted out: policies with noise and bursts, and a recorder of the episodes that environments finish."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from tqdm import tqdm

from pwm.config import CollectConfig
from pwm.data.episodes import EpisodeWriter
from pwm.envs import Task, TaskVectorEnv

# observations [N, O], where an episode begins [N] → actions [N, A]
Behaviour = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Perturbed:
    """A policy with action noise and bursts, so that the data covers what a new policy will try.

    Environment i acts with noise level `noise[i]`, white in one half of its episodes and slowly changing in the other.
    With a small probability per decision a burst begins: some steps of random actions or of one constant action.

    Args:
        policy: observations [N, O] → actions [N, A], or None for uniformly random actions.
        noise: standard deviation of the action noise per environment [N].
        settings: burst probability and lengths.
        action_dim: A.
        rng: of all the noise.
    """

    CORRELATION = 0.9  # of slowly changing noise, from one decision to the next

    def __init__(
        self,
        policy: Callable[[np.ndarray], np.ndarray] | None,
        noise: np.ndarray,
        settings: CollectConfig,
        action_dim: int,
        rng: np.random.Generator,
    ) -> None:
        self.policy, self.noise, self.settings, self.rng = policy, noise, settings, rng
        shape = (len(noise), action_dim)
        self.slow, self.burst_action = np.zeros(shape), np.zeros(shape)
        self.burst_left = np.zeros(len(noise), dtype=int)
        self.correlated, self.constant = np.zeros(len(noise), dtype=bool), np.zeros(len(noise), dtype=bool)

    def __call__(self, obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Actions [N, A] in [−1, 1]; `first` marks environments at an episode's start."""
        shape = self.slow.shape
        uniform = self.rng.uniform(-1.0, 1.0, shape)
        if self.policy is None:
            return uniform
        self.correlated = np.where(first, self.rng.random(len(first)) < 0.5, self.correlated)
        white = self.rng.standard_normal(shape)
        keep = np.where(first, 0.0, self.CORRELATION)[:, None]
        self.slow = keep * self.slow + np.sqrt(1.0 - keep**2) * white
        action = self.policy(obs) + self.noise[:, None] * np.where(self.correlated[:, None], self.slow, white)

        begins = (self.burst_left == 0) & (self.rng.random(len(first)) < self.settings.burst_probability)
        shortest, longest = self.settings.burst_length
        lengths = self.rng.integers(shortest, longest + 1, len(first))
        self.burst_left = np.where(begins, lengths, np.maximum(np.where(first, 0, self.burst_left - 1), 0))
        self.constant = np.where(begins, self.rng.random(len(first)) < 0.5, self.constant)
        self.burst_action = np.where((self.constant & ~begins)[:, None], self.burst_action, uniform)
        return np.clip(np.where((self.burst_left > 0)[:, None], self.burst_action, action), -1.0, 1.0)


class Episode(NamedTuple):
    """A finished episode of L steps, in the order of `EpisodeWriter.add`'s arguments."""

    obs: np.ndarray  # [L + 1, O]
    action: np.ndarray  # [L, A]
    reward: np.ndarray  # [L]
    terminated: bool
    success: bool | None  # None where the task knows only its reward


class Recorder(gymnasium.vector.VectorWrapper):
    """A task's environments that keep the episodes finished in them, whoever acts.

    Args:
        env: N environments of a task.
        keep: how many finished episodes stay, the last ones; None: all, until they are taken out of `finished`.
    """

    def __init__(self, env: TaskVectorEnv, keep: int | None = None) -> None:
        super().__init__(env)
        self.task = env.task
        self.finished: deque[tuple[int, Episode]] = deque(maxlen=keep)  # with its environment, oldest first
        self._obs = np.empty(0)
        # Of the episode under way in each environment: (observation, action, reward) of every step.
        self._running: list[list[tuple[np.ndarray, np.ndarray, np.float32]]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin N episodes; those under way are forgotten."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._running = [[] for _ in range(self.num_envs)]
        return self._obs, info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the environments and keep the episodes that end."""
        taken = np.clip(actions, -1.0, 1.0).astype(np.float32)
        obs, reward, terminated, truncated, info = self.env.step(actions)
        for i, steps in enumerate(self._running):
            steps.append((self._obs[i], taken[i], reward[i]))
            if terminated[i] or truncated[i]:
                observations, *rest = map(np.array, zip(*steps, strict=True))
                success = bool(info["success"][i]) if self.task.score == "success" else None
                whole = np.concatenate([observations, info["final_obs"][i : i + 1]])
                self.finished.append((i, Episode(whole, *rest, bool(terminated[i]), success)))
                steps.clear()
        self._obs = obs
        return obs, reward, terminated, truncated, info

    def state(self) -> dict[str, np.ndarray]:
        """The environments' snapshot with the episodes kept and those under way, arrays only."""
        flags = [
            (i, episode.terminated, -1 if episode.success is None else episode.success) for i, episode in self.finished
        ]
        running = [tuple(zip(*steps, strict=True)) or ((), (), ()) for steps in self._running]
        return {
            **self.env.state(),
            "finished.flags": np.array(flags, np.int64).reshape(-1, 3),
            **_pack("finished", [episode[:3] for _, episode in self.finished], self.task),
            **_pack("running", running, self.task),
        }

    def restore(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Go back to a snapshot; the observations `[N, O]` to act on next."""
        self._obs = self.env.restore(state)
        self._running = [list(zip(*track, strict=True)) for track in _unpack("running", state)]
        self.finished.clear()
        for (i, terminated, success), arrays in zip(state["finished.flags"], _unpack("finished", state), strict=True):
            episode = Episode(*arrays, bool(terminated), None if success < 0 else bool(success))
            self.finished.append((int(i), episode))
        return self._obs


def _pack(name: str, tracks: Sequence[tuple[Sequence, Sequence, Sequence]], task: Task) -> dict[str, np.ndarray]:
    """Observations, actions and rewards of many tracks, joined, with the rows of each."""
    packed = {}
    widths = {"obs": (task.observation_dim,), "action": (task.action_dim,), "reward": ()}
    for k, (key, width) in enumerate(widths.items()):
        parts = [np.reshape(np.asarray(track[k], np.float32), (-1, *width)) for track in tracks]
        packed[f"{name}.{key}"] = np.concatenate([np.zeros((0, *width), np.float32), *parts])
        packed[f"{name}.{key}_rows"] = np.array([len(part) for part in parts], np.int64)
    return packed


def _unpack(name: str, state: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The tracks that `_pack` joined."""
    ends = {key: np.cumsum(state[f"{name}.{key}_rows"]) for key in ("obs", "action", "reward")}
    columns = [np.split(state[f"{name}.{key}"], end)[:-1] for key, end in ends.items()]
    return list(zip(*columns, strict=True))


def roll_out(env: TaskVectorEnv, behaviour: Behaviour, episodes: int, seed: int, writer: EpisodeWriter) -> None:
    """Append `episodes` whole episodes of a behaviour: the first ones of each environment, in equal numbers.

    Taking whatever ends first would prefer short episodes.

    Args:
        env: N environments of the task.
        behaviour: acts in all of them.
        episodes: how many to append.
        seed: environment i starts from seed + i.
        writer: of the data set.
    """
    recorder = Recorder(env)
    obs, _ = recorder.reset(seed=seed)
    first = np.ones(env.num_envs, dtype=bool)
    left = np.diff(np.linspace(0, episodes, env.num_envs + 1).round().astype(int))
    with tqdm(total=episodes, desc=f"{env.task.name} episodes", unit="episode", mininterval=2.0, leave=False) as bar:
        while left.any():
            obs, _, terminated, truncated, _ = recorder.step(behaviour(obs, first).astype(np.float32))
            first = terminated | truncated
            while recorder.finished:
                i, episode = recorder.finished.popleft()
                if left[i]:
                    writer.add(*episode)
                    left[i] -= 1
                    bar.update()
