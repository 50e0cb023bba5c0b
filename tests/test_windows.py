"""Every drawn window is checked against the episode and step written into its numbers."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm.data.episodes import Episodes, EpisodeWriter
from pwm.data.windows import Ahead, WindowSampler
from pwm.errors import UserError


def coded_set(folder, lengths, obs_dim=3, act_dim=2, episode_length=None, terminated=None):
    """Observations say `(episode, step, …)`, actions and rewards the same as one number; only `terminated` ends."""
    terminated = terminated or [False] * len(lengths)
    writer = EpisodeWriter(folder, "coded", obs_dim, act_dim, episode_length or max(lengths), len(lengths))
    for episode, (length, ends) in enumerate(zip(lengths, terminated, strict=True)):
        obs = np.full((length + 1, obs_dim), episode + 1.0)
        obs[:, 1] = np.arange(length + 1)
        code = (episode + 1) * 1000.0 + np.arange(length)
        writer.add(obs, np.repeat(code[:, None], act_dim, axis=1), -code, ends)
    writer.commit({"kind": "coded"}, seed=0)
    return Episodes.open(folder)


def chi_square_is_small(counts, expected):
    """Four standard deviations above the mean of the chi-square law; the draws are seeded."""
    degrees = counts.size - 1
    return np.sum((counts - expected) ** 2 / expected) < degrees + 4 * np.sqrt(2 * degrees)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    horizon=st.integers(1, 6),
    slack=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_windows_are_all_the_valid_ones_and_no_other(tmp_path_factory, lengths, horizon, slack, seed):
    folder = tmp_path_factory.mktemp("windows") / "set"
    ends = [index % 2 == 0 for index in range(len(lengths))]
    data = coded_set(folder, lengths, episode_length=max(lengths) + slack, terminated=ends)
    valid = {(e + 1, s) for e, length in enumerate(lengths) for s in range(length - horizon + 1)}
    if not valid:
        with pytest.raises(UserError, match=f"no episode has a window of {horizon} steps"):
            WindowSampler([data], 4, horizon, seed)
        return
    batch = WindowSampler([data], 2000, horizon, seed).sample()
    episode, start = batch.obs[0, :, 0], batch.obs[0, :, 1]
    steps = start + torch.arange(horizon + 1)[:, None]
    assert torch.equal(batch.obs[:, :, 0], episode.expand(horizon + 1, -1))
    assert torch.equal(batch.obs[:, :, 1], steps)
    code = episode * 1000 + steps[:-1]
    assert torch.equal(batch.action, code[..., None].expand(-1, -1, 2)) and torch.equal(batch.reward, -code)
    length = torch.tensor(lengths)[episode.long() - 1]
    assert torch.equal(batch.terminated, ((episode % 2 == 1) & (steps[1:] == length)).float())
    # 54 windows at most: 2000 draws miss one with probability below 1e-14.
    assert set(zip(episode.int().tolist(), start.int().tolist(), strict=True)) == valid


def cut(folder, data, piece):
    """The set with its episodes really cut; a piece's last observation is the next one's first."""
    parts = [
        (data.obs[e, at : end + 1], data.action[e, at:end], data.reward[e, at:end], bool(data.terminated[e, end - 1]))
        for e, length in enumerate(data.length)
        for at in range(0, length, piece)
        for end in [min(at + piece, length)]
    ]
    writer = EpisodeWriter(folder, "coded", data.meta.observation_dim, data.meta.action_dim, piece, len(parts))
    for part in parts:
        writer.add(*part)
    writer.commit({"kind": "cut"}, seed=0)
    return Episodes.open(folder)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    piece=st.integers(1, 8),
    horizon=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_pieces_are_as_if_the_episodes_were_cut(tmp_path_factory, lengths, piece, horizon, seed):
    """Batch by batch the same, number for number, as from episodes that are cut on the disk."""
    folder = tmp_path_factory.mktemp("pieces")
    ends = [index % 2 == 0 for index in range(len(lengths))]
    whole = [coded_set(folder / "whole", lengths, terminated=ends), coded_set(folder / "other", [20, 9])]
    really_cut = [cut(folder / f"cut{k}", data, piece) for k, data in enumerate(whole)]
    if min(piece, max(lengths)) < horizon:
        longest = min(piece, max(lengths))
        with pytest.raises(UserError, match=f"no episode has a window of {horizon} steps, the longest has {longest}"):
            WindowSampler(whole, 4, horizon, seed, piece=piece)
        return
    ours, theirs = WindowSampler(whole, 64, horizon, seed, piece=piece), WindowSampler(really_cut, 64, horizon, seed)
    for _ in range(5):
        for a, b in zip(ours.sample(), theirs.sample(), strict=True):
            assert torch.equal(a, b)


def test_windows_of_a_set_and_sets_are_uniform(tmp_path):
    small = coded_set(tmp_path / "small", [4, 7, 12, 3])  # 2 + 5 + 10 + 1 windows of 3 steps
    large = coded_set(tmp_path / "large", [30] * 9)
    sampler = WindowSampler([small, large], 256, 3, seed=5)
    tasks, windows = np.zeros(2), np.zeros((5, 12))
    for _ in range(200):
        batch = sampler.sample()
        tasks += np.bincount(batch.task.numpy(), minlength=2)
        mine = batch.obs[0][batch.task == 0].long().numpy()
        np.add.at(windows, (mine[:, 0], mine[:, 1]), 1)
    assert chi_square_is_small(tasks, tasks.sum() / 2)  # 18 windows weigh as much as 252
    counts = windows[windows > 0]
    assert counts.size == 18 and chi_square_is_small(counts, tasks[0] / 18)


def test_tasks_do_not_sit_in_fixed_columns(tmp_path):
    sets = [coded_set(tmp_path / str(index), [6]) for index in range(2)]
    task = torch.stack([batch.task for batch in (WindowSampler(sets, 16, 2, seed).sample() for seed in range(200))])
    assert (task.float().mean(0) - 0.5).abs().max() < 0.2


def test_narrow_tasks_are_padded_with_zeros(tmp_path):
    sets = [coded_set(tmp_path / "a", [5], obs_dim=3, act_dim=4), coded_set(tmp_path / "b", [5], obs_dim=6, act_dim=1)]
    for given_dims, obs_dim, act_dim in (((), 6, 4), ((9, 2), 9, 4)):
        sampler = WindowSampler(sets, 64, 2, 0, *given_dims)
        batch = sampler.sample()
        assert batch.obs.shape == (3, 64, obs_dim) and batch.action.shape == (2, 64, act_dim)
        assert (sampler.observation_dim, sampler.action_dim) == (obs_dim, act_dim)
        for index, own_obs, own_act in ((0, 3, 4), (1, 6, 1)):
            obs, action = batch.obs[:, batch.task == index], batch.action[:, batch.task == index]
            assert obs[..., own_obs:].eq(0).all() and action[..., own_act:].eq(0).all()
            assert obs[..., 2:own_obs].eq(1).all() and action[..., :own_act].ge(1000).all()
        starts, task = sampler.sample_starts(50)
        assert starts.shape == (50, obs_dim) and starts[task == 0][:, 3:].eq(0).all()


def test_starts_are_every_observation_but_those_after_termination(tmp_path):
    sets = [
        coded_set(tmp_path / "a", [1, 4], terminated=[True, False]),
        coded_set(tmp_path / "b", [2], terminated=[True]),
    ]
    obs, task = WindowSampler(sets, 1, 1, seed=2).sample_starts(40000)
    assert obs.dtype == torch.float32 and task.dtype == torch.int64
    seen, counts = np.unique(np.column_stack([task, obs[:, :2]]).astype(int), axis=0, return_counts=True)
    first = [[0, 1, 0], *([0, 2, step] for step in range(5))]
    assert seen.tolist() == [*first, [1, 1, 0], [1, 1, 1]]
    assert chi_square_is_small(counts, np.array([40000 / 12] * 6 + [40000 / 4] * 2))


def test_restored_sampler_goes_on_with_the_same_batches(tmp_path):
    sets = [coded_set(tmp_path / str(index), [8, 9]) for index in range(3)]
    one = WindowSampler(sets, 32, 3, seed=7)
    one.sample()
    state = one.state()
    json.loads(state)
    expected = [*one.sample(), *one.sample_starts(8), *one.sample()]
    two = WindowSampler(sets, 32, 3, seed=8)
    assert not torch.equal(two.sample().obs, expected[0])
    two.restore(state)
    got = [*two.sample(), *two.sample_starts(8), *two.sample()]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_set_of_short_episodes_is_named(tmp_path):
    sets = [coded_set(tmp_path / "long", [9]), coded_set(tmp_path / "short", [3, 4])]
    with pytest.raises(UserError, match=r"short: no episode has a window of 5 steps, the longest has 4"):
        WindowSampler(sets, 8, 5, 0)
    with pytest.raises(ValueError):
        WindowSampler([], 8, 5, 0)


def test_drawing_ahead_gives_the_same_batches_and_states(tmp_path):
    data = coded_set(tmp_path / "set", (9, 6, 12))
    plain, ahead = WindowSampler([data], 5, 3, seed=1), Ahead(WindowSampler([data], 5, 3, seed=1))
    assert ahead.state() == plain.state()
    for _ in range(4):
        expected = plain.sample()
        assert all(map(torch.equal, ahead.sample(), expected))
        assert ahead.state() == plain.state()
    resumed = WindowSampler([data], 5, 3, seed=2)
    resumed.restore(ahead.state())
    assert all(map(torch.equal, ahead.sample(), resumed.sample()))
