"""The replay against a list of everything that was added to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm.data.replay import Replay

OBS, ACT = 3, 2


class Reference:
    """All steps ever added; windows by the definition, one at a time."""

    def __init__(self, capacity: int, num_envs: int) -> None:
        self.kept = capacity // num_envs
        self.steps: list[list[tuple]] = [[] for _ in range(num_envs)]

    def windows(self, horizon: int) -> set[tuple]:
        """Every valid window as the tuple of its transitions' identities `(obs, next_obs, terminated)`."""
        found = set()
        for steps in self.steps:
            kept = steps[-self.kept :]
            for start in range(len(kept) - horizon + 1):
                window = kept[start : start + horizon]
                if not any(ended for *_, ended in window[:-1]):
                    found.add(tuple(step[:3] for step in window))
        return found


def fill(replay: Replay, reference: Reference, ends: np.ndarray) -> None:
    """Add S steps, every state a new number; `ends` `[S, N]`: 0 goes on, 1 terminated, 2 truncated."""
    num_envs = ends.shape[1]
    for row in ends:
        first = sum(len(steps) for steps in reference.steps) * 2
        now = first + np.arange(num_envs)
        after = now + num_envs
        wide = np.ones((1, OBS))
        replay.add(
            now[:, None] * wide, -now[:, None] * wide[:, :ACT], now / 2, row == 1, row == 2, after[:, None] * wide
        )
        for env, steps in enumerate(reference.steps):
            steps.append((int(now[env]), int(after[env]), bool(row[env] == 1), bool(row[env] > 0)))


def drawn(replay: Replay, batch_size: int, horizon: int) -> list[tuple]:
    """Windows as the reference writes them, after checking that each array tells of the same transition."""
    batch = replay.sample(batch_size, horizon)
    assert batch.obs.shape == (horizon + 1, batch_size, OBS) and batch.action.shape == (horizon, batch_size, ACT)
    assert all(part.dtype == torch.float32 for part in batch[:4]) and batch.task.tolist() == [0] * batch_size
    now = -batch.action[..., 0]
    assert torch.equal(batch.reward, now / 2)
    assert torch.equal(batch.action[..., 0], batch.action[..., 1]) and torch.equal(batch.obs[0, :, 0], now[0])
    assert torch.equal(batch.obs[..., 0], batch.obs[..., 2])
    columns = torch.stack([now, batch.obs[1:, :, 0], batch.terminated], dim=-1).transpose(0, 1).tolist()
    return [tuple((int(a), int(b), bool(t)) for a, b, t in window) for window in columns]


@settings(max_examples=60, deadline=None)
@given(
    num_envs=st.integers(1, 4),
    rows=st.integers(1, 12),
    steps=st.integers(1, 30),
    horizon=st.integers(1, 5),
    end_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_draws_exactly_the_reference_windows(num_envs, rows, steps, horizon, end_share, seed):
    rng = np.random.default_rng(seed)
    capacity = rows * num_envs + rng.integers(num_envs)
    replay, reference = Replay(capacity, num_envs, OBS, ACT, seed), Reference(capacity, num_envs)
    ends = np.where(rng.random((steps, num_envs)) < end_share, rng.integers(1, 3, (steps, num_envs)), 0)
    fill(replay, reference, ends)
    assert len(replay) == min(steps, rows) * num_envs
    expected = reference.windows(horizon)
    if not expected:
        with pytest.raises(ValueError, match="steps"):
            replay.sample(4, horizon)
        return
    # 48 windows at most: 1500 draws miss one of them with probability below 1e-12.
    assert set(drawn(replay, 1500, horizon)) == expected


@pytest.mark.parametrize("end_share", [0.05, 0.6])  # few rejections; mostly the exhaustive listing
def test_windows_are_uniform(end_share):
    rng = np.random.default_rng(0)
    replay, reference = Replay(120, 3, OBS, ACT, 1), Reference(120, 3)
    fill(replay, reference, (rng.random((70, 3)) < end_share).astype(int))
    expected = reference.windows(3)
    counts = dict.fromkeys(expected, 0)
    for _ in range(200):
        for window in drawn(replay, 100, 3):
            counts[window] += 1
    mean = 20000 / len(expected)
    chi2 = sum((count - mean) ** 2 / mean for count in counts.values())
    degrees = len(expected) - 1
    assert chi2 < degrees + 4 * np.sqrt(2 * degrees)


def test_resumed_replay_draws_the_same_and_goes_on_the_same():
    for steps in (9, 50):  # ring half full; written over twice
        rng = np.random.default_rng(steps)
        ends = (rng.random((steps + 7, 2)) < 0.15).astype(int)
        one, reference = Replay(40, 2, OBS, ACT, 3), Reference(40, 2)
        fill(one, reference, ends[:steps])
        one.sample(8, 2)
        state = one.state()
        assert all(torch.is_tensor(value) or isinstance(value, str) for value in state.values())
        assert len(state["obs"]) == min(steps, 20)
        two, copy = Replay(40, 2, OBS, ACT, 99), Reference(40, 2)
        copy.steps = [list(steps) for steps in reference.steps]
        saved = {name: value.clone() for name, value in state.items() if torch.is_tensor(value)}
        fill(one, reference, ends[steps:])
        assert all(torch.equal(state[name], value) for name, value in saved.items())
        ahead = drawn(one, 64, 3)
        two.restore(state)
        fill(two, copy, ends[steps:])
        assert len(two) == len(one) and drawn(two, 64, 3) == ahead


def test_state_of_another_size_is_refused():
    state = Replay(40, 2, OBS, ACT, 0).state()
    for other in (Replay(42, 2, OBS, ACT, 0), Replay(40, 2, OBS + 1, ACT, 0), Replay(80, 4, OBS, ACT, 0)):
        with pytest.raises(ValueError, match="saved replay"):
            other.restore(state)


def test_wrong_shapes_are_refused_and_not_broadcast():
    replay = Replay(40, 2, OBS, ACT, 0)
    good = [
        np.zeros((2, OBS)),
        np.zeros((2, ACT)),
        np.zeros(2),
        np.zeros(2, bool),
        np.zeros(2, bool),
        np.ones((2, OBS)),
    ]
    for index, wrong in enumerate([np.zeros(OBS), np.zeros((1, ACT)), 0.0, False]):
        with pytest.raises(ValueError, match="expected"):
            replay.add(*good[:index], wrong, *good[index + 1 :])
    assert len(replay) == 0
    replay.add(*map(torch.as_tensor, good))
    assert len(replay) == 2 and replay.sample(1, 1).obs[:, 0].tolist() == [[0.0] * OBS, [1.0] * OBS]
    with pytest.raises(ValueError):
        Replay(1, 2, OBS, ACT, 0)
