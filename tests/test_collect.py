"""How data is made: the perturbations' statistics, episodes cut right, roll-outs as a step-by-step loop has them."""

import itertools

import numpy as np
import pytest
import torch
from support import TINY, TINY_POLICY, refusal

from pwm import behaviours, envs
from pwm.behaviours import Perturbed, Recorder, roll_out
from pwm.collect import NUM_ENVS, collect
from pwm.config import CollectConfig, DataConfig, validate
from pwm.data.episodes import Episodes
from pwm.envs.metaworld import scripted_expert
from pwm.evaluate import episode_seed
from pwm.learners import train_learner
from pwm.model_learning import ModelTrainer
from pwm.runs import Run

NEVER = {"burst_probability": 0.0}


class MadeUpWriter:
    """Keeps the episodes it is given."""

    def __init__(self):
        self.episodes = []

    def add(self, obs, action, reward, terminated, success):
        self.episodes.append((np.array(obs), np.array(action), np.array(reward), terminated, success))


def act(steps, noise, episode=None, policy=None, action_dim=2, seed=0, **settings):
    """Actions [steps, N, A] of a perturbed policy (zero, unless given); episodes last `episode` steps."""
    levels = np.array(noise)
    standing = policy or (lambda obs: np.zeros((len(levels), action_dim)))
    behaviour = Perturbed(standing, levels, CollectConfig(**settings), action_dim, np.random.default_rng(seed))
    actions, correlated = [], []
    for t in range(steps):
        first = np.full(len(levels), t % (episode or steps) == 0)
        actions.append(behaviour(np.zeros((len(levels), 3)), first))
        correlated.append(behaviour.correlated.copy())
    return np.array(actions), np.array(correlated)


def autocorrelation(x, lag):
    """Of sequences along axis 0 of mean zero."""
    return (x[lag:] * x[:-lag]).mean() / (x**2).mean()


def test_noise_has_the_level_asked_for():
    """Both kinds are stationary with the level's standard deviation; the slow one is an AR(1) process of 0.9."""
    noise = np.repeat([0.05, 0.2], 100)
    actions, correlated = act(400, noise, **NEVER)
    kinds = correlated[0]
    assert (correlated == kinds).all() and 60 < kinds.sum() < 140  # one kind an episode, half of them each
    for level in (0.05, 0.2):
        for slow in (False, True):
            chosen = actions[:, (noise == level) & (kinds == slow)] / level
            tolerance = 0.05 if slow else 0.02
            assert chosen.std() == pytest.approx(1.0, rel=tolerance)
            assert chosen[:5].std() == pytest.approx(1.0, rel=0.15)  # from the first step on
            assert autocorrelation(chosen, 1) == pytest.approx(0.9 if slow else 0.0, abs=0.03)
            assert autocorrelation(chosen, 5) == pytest.approx(0.9**5 if slow else 0.0, abs=0.06)
            assert abs(chosen.mean()) < 0.1


def test_noise_begins_anew_with_an_episode():
    actions, correlated = act(400, np.full(100, 0.2), episode=2, **NEVER)
    assert 0.45 < correlated.mean() < 0.55 and 0.4 < (correlated[2:] != correlated[:-2]).mean() < 0.6
    slow = correlated[1::2] & correlated[0::2]
    first, second = actions[0::2][slow].ravel(), actions[1::2][slow].ravel()
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0.9, abs=0.02)
    across = (slow[1:] & slow[:-1])[..., None]
    earlier, later = (part[np.broadcast_to(across, part.shape)] for part in (actions[1::2][:-1], actions[2::2]))
    assert abs(np.corrcoef(earlier, later)[0, 1]) < 0.05


def test_without_noise_the_policy_acts_clipped():
    actions, _ = act(50, [0.0, 0.0], policy=lambda obs: np.array([[0.3, -7.0], [2.0, -0.1]]), **NEVER)
    assert (actions == np.array([[0.3, -1.0], [1.0, -0.1]])).all()


def runs_of(mask):
    """Lengths of the runs of True, those that touch an end of the sequence left out."""
    edges = np.flatnonzero(np.diff(mask.astype(int)))
    return [b - a for a, b in itertools.pairwise(edges) if mask[a + 1]]


def test_bursts():
    """Lengths in range, uniform actions or one constant uniform action, as often as the probability says."""
    probability, shortest, longest = 0.05, 3, 6
    policy = lambda obs: np.full((40, 1), 0.5)  # noqa: E731
    burst = {"burst_probability": probability, "burst_length": (shortest, longest)}
    actions, _ = act(2000, np.zeros(40), policy=policy, action_dim=1, **burst)
    tracks = actions[..., 0].T
    lengths, constant, values = [], [], []
    for track in tracks:
        inside = track != 0.5
        lengths += runs_of(inside)
        edges = np.flatnonzero(np.diff(inside.astype(int))) + 1
        for part in np.split(track, edges)[1:-1]:
            if part[0] != 0.5:
                constant.append(len(set(part)) == 1)
                values += list(part[:1] if constant[-1] else part)
                assert constant[-1] or len(set(part)) == len(part)
    counts = np.bincount(lengths, minlength=longest + 1)
    assert set(lengths) == {3, 4, 5, 6} and counts[3:].min() > 0.8 * counts[3:].max()
    assert np.mean(constant) == pytest.approx(0.5, abs=0.05)
    # A cycle is a burst of 4.5 steps on average, then 1 / p steps until the next begins.
    assert (tracks != 0.5).mean() == pytest.approx(4.5 / (4.5 + 1 / probability), rel=0.05)
    assert np.abs(np.histogram(values, 4, (-1, 1))[0] / len(values) - 0.25).max() < 0.03


def test_a_burst_ends_with_its_episode():
    """Bursts of 8 steps in episodes of 5: whatever began in one is over at the start of the next."""
    policy = lambda obs: np.full((30, 1), 0.5)  # noqa: E731
    settings = {"burst_probability": 0.5, "burst_length": (8, 8)}
    actions, _ = act(1000, np.zeros(30), episode=5, policy=policy, action_dim=1, **settings)
    starts = (actions[5::5, :, 0] != 0.5).mean()
    running = (actions[4:-1:5, :, 0] != 0.5).mean()
    assert running > 0.9 and starts < 0.5


def test_random_behaviour_is_uniform():
    behaviour = Perturbed(None, np.zeros(50), CollectConfig(), 3, np.random.default_rng(1))
    actions = np.array([behaviour(np.zeros((50, 4)), np.zeros(50, bool)) for _ in range(200)])
    assert actions.min() < -0.99 and actions.max() > 0.99
    assert np.abs(np.histogram(actions, 10, (-1, 1))[0] / actions.size - 0.1).max() < 0.01
    assert abs(autocorrelation(actions, 1)) < 0.02


def test_roll_out_is_what_stepping_by_hand_gives():
    """Hopper falls at different times in each environment; a policy that reads the observation and the start flag."""
    count = 9

    def behaviour(obs, first):
        return np.where(first[:, None], -1.0, np.sin(37 * obs[:, :3]))

    writer = MadeUpWriter()
    roll_out(envs.make("hopper", 3, 77), behaviour, count, 5, writer)
    expected = []
    singles = [envs.make("hopper", 1, 5 + i) for i in range(3)]
    for i, env in enumerate(singles):
        obs, _ = env.reset(seed=5 + i)
        first, track = np.ones(1, bool), ([obs[0]], [], [])
        for t in range(500):
            action = behaviour(obs, first).astype(np.float32)
            obs, reward, terminated, truncated, info = env.step(action)
            track[0].append(info["final_obs"][0]), track[1].append(action[0]), track[2].append(reward[0])
            first = terminated | truncated
            if first[0]:
                expected.append((t, i, *map(np.array, track), bool(terminated[0])))
                track = ([obs[0]], [], [])
    # The first episodes of each environment in equal numbers, whichever environment's end first.
    firsts = [[episode for episode in expected if episode[1] == i][: count // 3] for i in range(3)]
    expected = [episode[2:] for episode in sorted(itertools.chain(*firsts), key=lambda episode: episode[:2])]
    assert len(writer.episodes) == count
    for ours, theirs in zip(writer.episodes, expected, strict=True):
        for a, b in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        assert ours[3] is theirs[3] is True
        np.testing.assert_array_equal(ours[1][0], [-1.0, -1.0, -1.0])  # the episode's start was flagged
    assert len({len(episode[2]) for episode in expected}) > 2


def test_recorder_keeps_the_last_episodes_over_a_snapshot():
    """A recorder that was taken down in the middle has the episodes, or the last five, of one that was not."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.5, 1.5, (300, 3, 3))

    def record(stops, keep):
        recorder = Recorder(envs.make("hopper", 3, 4), keep)
        recorder.reset(seed=4)
        for t, action in enumerate(actions):
            if t in stops:
                state = recorder.state()
                assert all(isinstance(value, np.ndarray) for value in state.values())
                recorder = Recorder(envs.make("hopper", 3, 9), keep)
                recorder.restore(state)
            recorder.step(action)
        return list(recorder.finished)

    everything = record((), None)
    assert len(everything) > 10 and sorted({i for i, _ in everything}) == [0, 1, 2]
    for found, expected in ((record((0, 17, 150), None), everything), (record((40, 299), 5), everything[-5:])):
        assert len(found) == len(expected)
        for (i, ours), (j, theirs) in zip(found, expected, strict=True):
            assert i == j and ours[3:] == theirs[3:] == (True, None)
            for a, b in zip(ours[:3], theirs[:3], strict=True):
                assert a.dtype == np.float32
                np.testing.assert_array_equal(a, b)
    first = next(episode for i, episode in everything if i == 1)
    np.testing.assert_array_equal(first.action, actions[: len(first.action), 1].clip(-1, 1).astype(np.float32))


def run_collect(folder, task="hopper", **settings):
    config = DataConfig(scale="test", task=task, seed=2, settings=CollectConfig(**settings))
    collect(Run(folder / "run", config), folder / "set")
    return Episodes.open(folder / "set", expected_task=task)


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_random_collection(tmp_path):
    data = run_collect(tmp_path, mixture={"random": NUM_ENVS + 3})
    assert len(data.length) == NUM_ENVS + 3 and data.meta.seed == 2
    assert data.meta.collector["mixture"] == {"random": NUM_ENVS + 3, "expert": 0, "replay": 0, "checkpoints": 0}
    assert data.meta.statistics.success_mean is None and data.meta.policy_returns == []
    steps = np.concatenate([row[:n] for row, n in zip(data.action, data.length, strict=True)])
    assert abs(steps.mean()) < 0.05 and steps.std() == pytest.approx(3**-0.5, rel=0.05)  # uniform on [−1, 1]
    again = run_collect(tmp_path / "again", mixture={"random": NUM_ENVS + 3})
    assert again.meta.sha256 == data.meta.sha256


SAC = {"algorithm": "sac", "env_steps": 240, "units": (4,), "batch_size": 4, "random_steps": 20, "checkpoints": 3}
ONLINE = {"num_envs": 3, "replay_capacity": 600, "model_updates": 1, "model_batch_size": 4}
PWM = {
    "algorithm": "pwm",
    "model": {"world_model": TINY, "updates": 5, "batch_size": 4, "horizon": 3},
    "policy": {"updates": 30, "horizon": 3, "online": ONLINE, **TINY_POLICY},
    "random_steps": 60,
    "checkpoints": 3,
}


@pytest.mark.parametrize("learner", [SAC, SAC | {"num_envs": 3, "updates_per_step": 0.5}, PWM], ids=["1", "3", "pwm"])
def test_a_mixture_has_every_behaviours_share(tmp_path, monkeypatch, learner):
    """The replay, four random episodes, then seven of three checkpoints that differ, from seeds that differ."""
    calls = []

    def record(env, behaviour, episodes, seed, writer):
        act = behaviour.policy or (lambda obs: np.zeros(3))
        calls.append((episodes, seed, behaviour.noise.tolist(), act(np.full((1, 11), 0.3, np.float32)).tolist()))
        roll_out(env, behaviour, episodes, seed, writer)

    monkeypatch.setattr("pwm.collect.roll_out", record)
    mixture = {"random": 4, "replay": 2, "checkpoints": 7}
    data = run_collect(tmp_path, mixture=mixture, learner=learner, noise=(0.0, 0.5))
    assert len(data.length) == 13 and [call[0] for call in calls] == [4, 2, 3, 2]
    assert len({call[1] for call in calls}) == 4 and calls[1][2] == ([0.0, 0.5] * 6)[:11]
    assert len({str(call[3]) for call in calls}) == 4
    config = DataConfig(scale="test", task="hopper", seed=2, settings=validate(CollectConfig, data.meta.collector, ""))
    # The same learner once more, all its episodes.
    policies, replay = train_learner(Run(tmp_path / "alone", config), keep=1000)
    env, returns = envs.make("hopper", NUM_ENVS), np.zeros((3, NUM_ENVS))
    for k, policy in enumerate(policies):  # each by itself, without noise, until it falls
        obs, _ = env.reset(seed=episode_seed("final", 2))
        alive = np.ones(NUM_ENVS, bool)
        while alive.any():
            obs, reward, terminated, truncated, _ = env.step(policy(obs))
            returns[k] += alive * reward
            alive &= ~(terminated | truncated)
    assert data.meta.policy_returns == pytest.approx(returns.mean(axis=1), rel=1e-5)
    assert len(replay) > 2
    for row, episode in enumerate(replay[-2:]):
        steps = len(episode.reward)
        assert data.length[row] == steps and np.array_equal(data.obs[row, : steps + 1], episode.obs)
        assert np.array_equal(data.action[row, :steps], episode.action)
        assert np.array_equal(data.reward[row, :steps], episode.reward)


def test_what_pwm_acts_in_is_recorded(tmp_path):
    """From its replay ring, an independent record of the same steps, the episodes of one environment can be told."""
    seen = []
    step = behaviours.Recorder.step

    class Spy(behaviours.Recorder):
        def step(self, actions):
            seen.append((actions.copy(), *(result := step(self, actions))))
            return result

    settings = CollectConfig(mixture={"random": 1}, learner=PWM)
    run = Run(tmp_path / "run", DataConfig(scale="test", task="hopper", seed=2, settings=settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pwm.learners.Recorder", Spy)
        replay = train_learner(run, keep=1000).replay
    assert len(seen) == 60 // 3 + 30 * 3  # at random, then 30 windows of 3
    ends = np.array([terminated | truncated for _, _, _, terminated, truncated, _ in seen])
    assert len(replay) == ends.sum()
    last = np.flatnonzero(ends[:, 0])[0]
    mine = next(episode for episode in replay if np.array_equal(episode.action[0], seen[0][0][0]))
    np.testing.assert_array_equal(mine.action, [row[0][0] for row in seen[: last + 1]])
    np.testing.assert_array_equal(mine.reward, [row[2][0] for row in seen[: last + 1]])
    np.testing.assert_array_equal(mine.obs[1:-1], [row[1][0] for row in seen[:last]])
    np.testing.assert_array_equal(mine.obs[-1], seen[last][5]["final_obs"][0])


@pytest.mark.parametrize(("calls", "where"), [(4, "update 4"), (5 + 7, "update 7")], ids=["alone", "online"])
def test_a_world_model_that_diverges_stops_the_collection(tmp_path, monkeypatch, calls, where):
    """In its last updates before the policy's, and beside them."""
    update, losses = ModelTrainer.update, itertools.chain([0.1] * (calls - 1), itertools.repeat(float("nan")))
    broken = lambda *given: update(*given) | {"reward_loss": torch.tensor(next(losses))}  # noqa: E731
    monkeypatch.setattr(ModelTrainer, "update", broken)
    with pytest.raises(FloatingPointError, match=f"{where}: reward_loss is nan"):
        run_collect(tmp_path, mixture={"checkpoints": 3}, learner=PWM)
    assert not (tmp_path / "set").exists()


def test_scripted_experts_act_with_noise(tmp_path):
    """Without noise its actions are the expert's own at every state; success is counted as the environment tells it."""
    task, quiet = "mw-door-close", {"noise": (0.0,), **NEVER}
    data = run_collect(tmp_path, task, mixture={"expert": 2}, **quiet)
    expert = scripted_expert(task)
    for obs, action in zip(data.obs, data.action, strict=True):
        np.testing.assert_array_equal(expert(obs[:-1]), action)
    assert data.meta.statistics.success_mean == 1.0 and data.length.tolist() == [100, 100]
    noisy = run_collect(tmp_path / "noisy", task, mixture={"expert": 1, "random": 1}, noise=(0.5,), **NEVER)
    difference = (noisy.action[1] - expert(noisy.obs[1, :-1]))[np.abs(noisy.action[1]) < 1]
    assert difference.std() == pytest.approx(0.5, rel=0.3)
    refusal(lambda: run_collect(tmp_path, "hopper", mixture={"expert": 1}), "hopper has no scripted expert")


def test_a_replay_without_a_whole_episode_is_refused(tmp_path):
    learner = {"algorithm": "sac", "env_steps": 9, "units": (4,), "batch_size": 4}
    mixture = {"replay": 3}
    refusal(lambda: run_collect(tmp_path, mixture=mixture, learner=learner), "hopper", "raise learner.env_steps")
    refusal(lambda: run_collect(tmp_path, tdmpc2=True), "hopper", "tdmpc2_format import")
    assert not (tmp_path / "set").exists()
