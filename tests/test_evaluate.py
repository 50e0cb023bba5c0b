"""Scoring against a made-up environment whose returns are added up by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support import model_config, refusal, run_config, write_episodes

from pwm import algorithms
from pwm import evaluate as evaluation
from pwm.config import EvaluationConfig, dump
from pwm.data.episodes import Episodes
from pwm.evaluate import Evaluation, curve_point, curve_updates, evaluate, evaluate_run
from pwm.extract import extract, load_policy
from pwm.nn.actor_critic import Actor
from pwm.pretrain import build_model
from pwm.runs import Run, load_checkpoint, save_checkpoint

LENGTHS = (3, 5, 1)  # of every environment's episodes; the second one's are cut by time, the others end


class MadeUpEnv:
    """Environment i pays 10^i a step; after an end it goes on with a new episode, whose rewards must not count."""

    def __init__(self, log, seed):
        self.log, self.seed, self.time = log, seed, np.zeros(3, int)

    def reset(self, seed):
        self.log.append(("reset", seed))
        return self.observe(), {}

    def observe(self):
        return np.stack([self.time, np.arange(3)], axis=1).astype(np.float32)

    def step(self, action):
        self.log.append(("step", action.copy()))
        assert len(self.log) < 20, "the evaluation does not end"
        self.time += 1
        ended = self.time >= np.array(LENGTHS)
        # Successes: in passing only; at the end only; at the end of the one-step episode.
        success = np.stack([self.time[0] == 2, self.time[1] == 5, self.time[2] == 1])
        speed = np.array([self.time[0], 7.0, np.nan])  # the first one's goes on with its next episode
        info = {"success": success, "final_obs": self.observe(), "speed": speed}
        self.time[ended] = 0
        cut = np.array([False, True, False])
        return self.observe(), 10.0 ** np.arange(3), ended & ~cut, ended & cut, info

    def close(self):
        self.log.append(("close",))


@pytest.fixture
def log(monkeypatch):
    events = []

    def make(task, num_envs, seed):
        assert num_envs == 3
        events.append(("make", task, seed))
        return MadeUpEnv(events, seed)

    monkeypatch.setattr(evaluation.envs, "make", make)
    return events


def test_each_environment_counts_for_one_episode(log):
    seen = []

    def policy(obs, first):
        seen.append((obs.copy(), first.copy()))
        return obs

    result = evaluate(policy, "hopper", episodes=3, seed=77)
    assert result.returns.tolist() == [3.0, 50.0, 100.0]
    assert result.lengths.tolist() == [3, 5, 1]
    assert result.first_obs.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert result.rewards.T.tolist() == [[1, 1, 1, 0, 0], [10] * 5, [100, 0, 0, 0, 0]]
    assert result.success_last.tolist() == [False, True, True]
    assert result.success_any.tolist() == [True, True, True]
    assert result.terminated.tolist() == [True, False, True]
    np.testing.assert_array_equal(result.speeds, [2.0, 7.0, np.nan])  # (1 + 2 + 3) / 3
    assert result.speed() is None
    assert replace(result, speeds=np.array([2.0, 7.0, 5.0])).speed() == pytest.approx(46 / 9)
    assert log[:2] == [("make", "hopper", 77), ("reset", 77)] and log[-1] == ("close",)
    assert len(seen) == 5  # as long as the longest episode
    assert [first.tolist() for _, first in seen][:3] == [[True] * 3, [False, False, True], [False, False, True]]
    assert all(np.array_equal(action[1], obs) for (obs, _), action in zip(seen, log[2:-1], strict=True))


def test_scores_follow_the_tasks_rule():
    yes, no = np.array([True, True, False, False]), np.array([True, False, False, False])
    returns, rest = np.array([100.0, 300, 0, 600]), (no, no, np.zeros((4, 2)), np.zeros((1, 4)))
    result = Evaluation(returns, np.ones(4, int), no, yes, *rest)
    assert [result.score(rule) for rule in ("return", "return / 1000")] == [250.0, 0.25]


@pytest.fixture
def seeds(monkeypatch):
    """The seeds of every episode that is played: evaluations do nothing else here."""
    played = []

    def record(policy, task, episodes, seed):
        played.append(set(range(seed, seed + episodes)))
        zeros = np.zeros(episodes)
        return Evaluation(zeros, *[zeros + 1] * 7)

    monkeypatch.setattr(evaluation, "evaluate", record)
    monkeypatch.setattr(evaluation.algorithms, "load_policy", lambda name, folder: None)
    return played


def test_episode_seeds_are_never_shared(seeds, tmp_path):
    """Training takes small seeds; those of curves and of final evaluations are apart from them and of each other."""
    small = EvaluationConfig(curve_episodes=500)
    for seed in range(20):
        config = run_config("hopper", seed=seed).model_copy(update={"evaluation": small})
        run = SimpleNamespace(config=config, pause=Run.pause.__get__(SimpleNamespace(_paused=0.0)))
        run.log, run.check, run.wall_time = lambda row: None, lambda: None, 0.0
        curve_point(run, None, 0, 0)
        (tmp_path / "config.yaml").write_text(dump(config))
        save_checkpoint(tmp_path / "policy", {}, {"config": config.model_dump(mode="json")})
        evaluate_run(tmp_path, episodes=500)
    training = set(range(200_000))
    assert len(seeds) == 40 and sum(map(len, seeds)) + len(training) == len(set.union(training, *seeds))


def test_curve_updates():
    assert curve_updates(100, 4) == {25, 50, 75, 100}
    assert curve_updates(10, 4) == {2, 5, 8, 10}
    assert curve_updates(3, 10) == {0, 1, 2, 3}
    assert curve_updates(7, 1) == {7}


def test_curve_points_are_logged_and_take_no_training_time(log, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = run_config("hopper", seed=3).model_copy(update={"evaluation": EvaluationConfig(curve_episodes=3)})
    run = Run(tmp_path / "a", config)
    clock = [run._started + 2.0]
    monkeypatch.setattr("pwm.runs.time.time", lambda: clock[0])

    def slow(obs, first):
        clock[0] += 100.0
        return obs

    measure = lambda result: {"longest": float(result.lengths.max())}  # noqa: E731
    curve_point(run, slow, env_steps=40, updates=4, measure=measure, loss=torch.tensor(0.5))
    row = pd.read_csv(run.state_folder / "metrics.csv").iloc[0].to_dict()
    expected = {"env_steps": 40, "updates": 4, "wall_time_s": 2, "return": 51, "success": 2 / 3}
    assert row == expected | {"longest": 5, "loss": 0.5}
    assert "update 4, 40 env steps, 2 s, return 51.0" in capsys.readouterr().err
    assert log[0] == ("make", "hopper", 2_003_000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished extraction on hopper, the second of a model's two tasks; with its model and trained actor."""
    folder = tmp_path_factory.mktemp("finished")
    model_settings, config = model_config("walker-walk", "hopper", bins=11), run_config("hopper", updates=3)
    torch.manual_seed(4)
    model = build_model(model_settings.settings, model_settings.tasks)
    with torch.no_grad():  # embeddings large enough to be told apart
        model.task_embedding.weight.copy_(torch.eye(4)[:2])
    run = Run(folder / "results" / "run", config)
    extract(run, model, model_settings, Episodes.open(write_episodes(folder / "data", "hopper")))
    (run.out / "config.yaml").write_text(dump(config))
    return run.out, model, config


def test_the_exported_policy_is_the_trained_one(finished):
    out, model, config = finished
    actor = Actor(16, 6, config.settings["actor_units"])
    weights = load_file(out / "policy" / "model.safetensors")
    actor.load_state_dict({k.removeprefix("actor."): v for k, v in weights.items() if k.startswith("actor.")})
    obs = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    padded = torch.zeros(5, 24)
    padded[:, :11] = torch.from_numpy(obs)
    with torch.no_grad():
        z = model.encode(padded, torch.ones(5, dtype=torch.long))
        expected = torch.tanh(actor.mean(z))[:, :3].numpy()
        other = torch.tanh(actor.mean(model.encode(padded, torch.zeros(5, dtype=torch.long))))[:, :3].numpy()
    action = load_policy(out / "policy")(obs, np.zeros(5, bool))
    np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected - other).max() > 1e-4  # another task's embedding would show


def test_the_exported_policy_standardises(tmp_path):
    """Observations and latents; the latter by the moments of the data's latents."""
    settings, config = model_config("hopper"), run_config("hopper", updates=1, standardise_latents=True)
    network = settings.settings.world_model.model_copy(update={"standardise_obs": True})
    settings = settings.model_copy(update={"settings": settings.settings.model_copy(update={"world_model": network})})
    torch.manual_seed(4)
    model = build_model(settings.settings, settings.tasks)
    model.standardise.fit(0, torch.full((11,), 5.0), torch.full((11,), 3.0))
    run, data = Run(tmp_path / "results" / "run", config), Episodes.open(write_episodes(tmp_path / "data", "hopper"))
    extract(run, model, settings, data)
    weights = load_file(run.out / "policy" / "model.safetensors")
    actor = Actor(16, 3, config.settings["actor_units"], standardised=True)
    actor.load_state_dict({k.removeprefix("actor."): v for k, v in weights.items() if k.startswith("actor.")})
    obs = np.random.default_rng(0).normal(5.0, 3.0, size=(6, 11)).astype(np.float32)
    seen = np.concatenate([rows[: n + 1] for rows, n in zip(data.obs, data.length, strict=True)])
    with torch.no_grad():
        latents, z = (model.encoder(torch.from_numpy((x - 5.0) / 3.0)) for x in (seen, obs))
        mean, std = actor.standardise.mean[0], actor.standardise.std[0]
        expected = torch.tanh(actor.mean((z - mean) / std)).numpy()
    torch.testing.assert_close(mean, latents.mean(0), rtol=0, atol=0.05 * latents.std(0).max().item())
    torch.testing.assert_close(std, latents.std(0), rtol=0.1, atol=1e-3)
    action = load_policy(run.out / "policy")(obs, np.zeros(6, bool))
    np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)


def test_a_finished_run_is_scored(finished):
    out, _, _ = finished
    scores = evaluate_run(out, 2)
    again = evaluate_run(out, 2)
    assert {**scores, "eval_wall_s": 0} == {**again, "eval_wall_s": 0}
    expected = evaluate(load_policy(out / "policy"), "hopper", 2, 1_000_000)
    assert scores["returns"] == expected.returns.tolist() and scores["lengths"] == expected.lengths.tolist()
    assert scores["return_mean"] == scores["score"] == pytest.approx(np.mean(scores["returns"]))
    assert scores["return_std"] == pytest.approx(np.std(scores["returns"]))
    assert json.loads(json.dumps(scores)) == scores and scores["episodes"] == 2


def test_a_spoilt_policy_is_refused(finished, tmp_path):
    folder = tmp_path / "policy"
    weights, saved = load_checkpoint(finished[0] / "policy")
    for spoilt in ("actor.mean.0.weight", "model.encoder.0.linear.weight", "model.task_embedding.weight"):
        for broken in ({}, {spoilt: torch.zeros(3, 2)}):  # lost, or of another shape
            save_checkpoint(folder, {k: v for k, v in weights.items() if k != spoilt} | broken, saved)
            refusal(lambda: algorithms.load_policy("pwm", folder), str(folder), "do not fit", "train the run again")
    (folder / "config.json").write_text('{"format": 1}')
    refusal(lambda: algorithms.load_policy("pwm", folder), str(folder), "'config'", "train the run again")


def test_a_policy_of_another_config_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(dump(run_config("hopper", seed=1)))
    trained_by = run_config("hopper", seed=2).model_dump(mode="json")
    save_checkpoint(tmp_path / "policy", {}, {"config": trained_by})
    refusal(lambda: evaluate_run(tmp_path, 2), "policy/config.json", "'seed' differs", "another")


def test_a_run_folder_of_another_config_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(run_config("hopper", gamma=0.5)))
    refusal(lambda: Run(folder, run_config("hopper", gamma=0.6)), "run/config.yaml", "'settings' differs", "another")
    assert not (tmp_path / "state").exists()
    Run(folder, run_config("hopper", gamma=0.5))


def test_an_unknown_algorithm_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(dump(run_config("hopper", algorithm="pmw")))
    refusal(lambda: evaluate_run(tmp_path, 2), "'pmw'", "'pwm'")
