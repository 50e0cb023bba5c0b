"""Batches of windows and start states, drawn from the episodes of one task or many."""

import json
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch

from pwm.data.batch import Batch
from pwm.data.episodes import Episodes
from pwm.errors import UserError


class WindowSampler:
    """Draws windows that never cross an episode's end.

    Every data set is equally likely, then every valid window of it: an episode of length L has L - H + 1. With `piece`
    they do not cross a multiple of so many steps either: they are the windows of episodes cut into such pieces.
    Observations and actions are zero-padded to the widest task, or to `observation_dim` and `action_dim` if these are
    larger. Raises `UserError` for a data set without a valid window.

    With `share` (k, n) a batch is every n-th window, from the k-th on, of those that are drawn: n samplers of the same
    seed read one batch between them.
    """

    def __init__(
        self,
        datasets: Sequence[Episodes],
        batch_size: int,
        horizon: int,
        seed: int,
        observation_dim: int | None = None,
        action_dim: int | None = None,
        piece: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if not datasets or batch_size < 1 or horizon < 1:
            raise ValueError("a window sampler needs a data set, batch_size >= 1 and horizon >= 1")
        self.batch_size = batch_size
        self.horizon = horizon
        self.observation_dim = max(observation_dim or 0, *(data.meta.observation_dim for data in datasets))
        self.action_dim = max(action_dim or 0, *(data.meta.action_dim for data in datasets))
        self._sources = [_Source(data, horizon, piece) for data in datasets]
        self._rng = np.random.default_rng(seed)
        self._first, self._every = share

    def sample(self) -> Batch:
        """`batch_size` windows, or this sampler's share of them; shapes as in `Batch`."""
        horizon, drawn = self.horizon, self._rng.integers(len(self._sources), size=self.batch_size)
        task = drawn[self._first :: self._every]
        size = len(task)
        obs = np.zeros((horizon + 1, size, self.observation_dim), np.float32)
        action = np.zeros((horizon, size, self.action_dim), np.float32)
        reward = np.empty((horizon, size), np.float32)
        terminated = np.empty((horizon, size), np.float32)
        time = np.arange(horizon + 1)[:, None]
        for index, source in enumerate(self._sources):
            place = np.flatnonzero(drawn == index)
            mine = place % self._every == self._first
            column = place[mine] // self._every
            episode, window = (part[mine] for part in _draw(self._rng, source.windows, len(place)))
            start = source.start(window)
            step = episode * source.episode_length + start + time[:-1]
            obs[:, column, : source.obs.shape[1]] = source.obs[step[:1] + episode + time]
            action[:, column, : source.action.shape[1]] = source.action[step]
            reward[:, column] = source.reward[step]
            terminated[:, column] = source.terminated[step]
        return Batch(*map(torch.from_numpy, (obs, action, reward, terminated, task)))

    def sample_starts(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """States to act from, obs `[batch_size, O]`, and their task `[batch_size]`.

        Every data set is equally likely, then every observation of it but those a termination left behind.
        """
        obs = np.zeros((batch_size, self.observation_dim), np.float32)
        task = self._rng.integers(len(self._sources), size=batch_size)
        for index, source in enumerate(self._sources):
            row = np.flatnonzero(task == index)
            episode, start = _draw(self._rng, source.states, len(row))
            obs[row, : source.obs.shape[1]] = source.obs[episode * (source.episode_length + 1) + start]
        return torch.from_numpy(obs), torch.from_numpy(task)

    def state(self) -> str:
        """The generator's state as JSON: after `restore` the same batches follow."""
        return json.dumps(self._rng.bit_generator.state)

    def restore(self, state: str) -> None:
        """Go on from what `state` returned."""
        self._rng.bit_generator.state = json.loads(state)


class Ahead:
    """Draws a sampler's windows in a thread, one batch ahead, so that a read from disk is not waited for.

    The batches and states are those of the sampler, in its order; it is not to be used beside this.
    """

    def __init__(self, sampler: WindowSampler) -> None:
        self._sampler, self._state = sampler, sampler.state()
        self._thread = ThreadPoolExecutor(1)
        self._next = self._thread.submit(self._draw)

    def _draw(self) -> tuple[Batch, str]:
        return self._sampler.sample(), self._sampler.state()

    def sample(self) -> Batch:
        """The next batch."""
        batch, self._state = self._next.result()
        self._next = self._thread.submit(self._draw)
        return batch

    def state(self) -> str:
        """The sampler's after the batch that `sample` gave last."""
        return self._state


class _Source:
    """A data set as flat rows, with the running count over episodes of what can be drawn from each."""

    def __init__(self, data: Episodes, horizon: int, piece: int | None) -> None:
        self.episode_length = data.meta.episode_length
        self._piece = piece or self.episode_length
        self._per_piece = max(self._piece - horizon + 1, 1)  # windows of a whole piece
        for array in (data.obs, data.action, data.reward, data.terminated):
            array._mmap.madvise(mmap.MADV_RANDOM)  # read what is drawn, not the pages around it
        # Plain views of the maps: `np.memmap` itself is slow to index.
        self.obs = np.asarray(data.obs).reshape(-1, data.meta.observation_dim)
        self.action = np.asarray(data.action).reshape(-1, data.meta.action_dim)
        self.reward = np.asarray(data.reward).reshape(-1)
        self.terminated = np.asarray(data.terminated).reshape(-1)
        self._length = np.asarray(data.length)
        whole, rest = np.divmod(self._length, self._piece)
        counts = whole * max(self._piece - horizon + 1, 0) + np.maximum(rest - horizon + 1, 0)
        self.windows = np.cumsum(counts)  # [E]
        if self.windows[-1] == 0:
            longest = min(self._length.max(), self._piece)
            raise UserError(
                f"{data.folder}: no episode has a window of {horizon} steps, the longest has {longest}; "
                f"lower the horizon or collect longer episodes"
            )

    def start(self, window: np.ndarray) -> np.ndarray:
        """The first step of an episode's windows, by their number in it: piece after piece."""
        piece, within = np.divmod(window, self._per_piece)
        return piece * self._piece + within

    @cached_property
    def states(self) -> np.ndarray:
        """`[E]`, as `windows`, of observations that no termination left behind; reads one value per episode."""
        last = np.arange(len(self._length)) * self.episode_length + self._length - 1
        ended = (self._length > 0) & (self.terminated[last] > 0)
        return np.cumsum(self._length + 1 - ended)


def _draw(rng: np.random.Generator, cumulative: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform draws among the items counted by `cumulative` `[E]`: episode and offset in it, each `[size]`."""
    item = rng.integers(cumulative[-1], size=size)
    episode = np.searchsorted(cumulative, item, side="right")
    before = np.where(episode > 0, cumulative[episode - 1], 0)
    return episode, item - before
