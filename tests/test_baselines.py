"""The contract every baseline keeps, and PPO's exported policy against the library's own predictions."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from stable_baselines3 import PPO, SAC
from support import refusal, run_config

from baselines import ppo, random, sac
from pwm import algorithms
from pwm.config import Config, dump
from pwm.envs.tasks import SUITES, get_task
from pwm.evaluate import evaluate_run
from pwm.runs import Run, load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(file.stem for file in (ROOT / "baselines").glob("[!_]*.py"))
PPO_SETTINGS = {"env_steps": 400, "num_envs": 4, "n_steps": 50, "batch_size": 50, "n_epochs": 2, "units": [12, 8]}


SAC_SETTINGS = {"env_steps": 400, "num_envs": 4, "random_steps": 200, "units": [12, 8], "batch_size": 16}


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_file_is_an_algorithm():
    assert algorithms.names() == ["pwm", *NAMES] and {"ppo", "random"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    module = algorithms.baseline(name)
    assert module.__doc__ and module.Settings.__doc__ and module.train.__doc__ and module.load_policy.__doc__
    assert issubclass(module.Settings, Config) and module.Settings() is not None  # complete without a setting
    assert module.SUITES and set(module.SUITES) <= set(SUITES)
    assert list(inspect.signature(module.train).parameters) == ["run"]
    assert list(inspect.signature(module.load_policy).parameters) == ["folder"]
    for suite in SUITES:
        if suite in module.SUITES:
            algorithms.check(name, suite)
        else:
            refusal(lambda suite=suite: algorithms.check(name, suite), name, suite)
    assert (ROOT / "workflows" / "rules" / "baselines" / f"{name}.smk").exists()


def test_reading_all_settings_is_light():
    program = "import sys, baselines\n" + "\n".join(f"import baselines.{name}" for name in NAMES)
    program += "\nprint(*sorted({'torch', 'mujoco', 'stable_baselines3', 'dm_control', 'pandas'} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("task", ["hopper", "cartpole-swingup"])
def test_ppos_policy_is_the_librarys_own(tmp_path, task, monkeypatch):
    """A short training; then the exported network, clipping and normalisation against `PPO.predict`."""
    learners = []

    class Recorded(PPO):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            learners.append(self)

    monkeypatch.setattr("stable_baselines3.PPO", Recorded)
    config = run_config(task, "ppo", **PPO_SETTINGS)
    run = Run(tmp_path / "run", config)
    ppo.train(run)
    learner = learners[0]
    normaliser, size = learner.get_vec_normalize_env(), get_task(task)
    assert learner.num_timesteps == 400 and normaliser.obs_rms.count > 400
    mean, std = normaliser.obs_rms.mean, np.sqrt(normaliser.obs_rms.var)
    obs = (mean + 3 * std * np.random.default_rng(0).normal(size=(200, size.observation_dim))).astype(np.float32)
    obs[0] += 1e4  # beyond the clipping of observations
    expected, _ = learner.predict(normaliser.normalize_obs(obs), deterministic=True)
    exported = algorithms.load_policy("ppo", run.out / "policy")
    np.testing.assert_allclose(exported(obs, np.zeros(200, bool)), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() <= 1 and expected.std() > 1e-3
    raw, _ = learner.predict(obs, deterministic=True)
    assert np.abs(raw - expected).max() > 1e-3  # without normalisation it would be another policy


@pytest.mark.parametrize("task", ["hopper", "cartpole-swingup"])
def test_sacs_policy_is_the_librarys_own(tmp_path, task, monkeypatch):
    """A short training; then the exported network against `SAC.predict`, also far off the data."""
    learners = []

    class Recorded(SAC):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            learners.append(self)

    monkeypatch.setattr("pwm.sb3.SAC", Recorded)
    run = Run(tmp_path / "run", run_config(task, "sac", **SAC_SETTINGS))
    sac.train(run)
    rows = pd.read_csv(run.out / "metrics.csv")
    assert rows["env_steps"].tolist() == [0, 200, 400] and rows["updates"].tolist() == [0, 0, 200]
    size = get_task(task).observation_dim
    obs = (3 * np.random.default_rng(0).normal(size=(200, size))).astype(np.float32)
    expected, _ = learners[0].predict(obs, deterministic=True)
    exported = algorithms.load_policy("sac", run.out / "policy")
    np.testing.assert_allclose(exported(obs, np.zeros(200, bool)), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() <= 1 and expected.std() > 1e-3


def test_ppos_actions_are_clipped():
    """Means far outside the bounds come out as the bounds, as the library clips them."""
    settings = ppo.Settings(units=(3,))
    network = ppo._network(settings, "hopper")
    tensors = {f"mean.{name}": torch.zeros_like(value) for name, value in network.state_dict().items()}
    tensors["mean.2.bias"] = torch.tensor([-4.0, 0.25, 7.0])
    tensors |= {"obs_mean": torch.zeros(11), "obs_var": torch.ones(11)}
    action = ppo._policy(tensors, settings, "hopper")(np.zeros((2, 11), np.float32), np.zeros(2, bool))
    assert action.tolist() == [[-1.0, 0.25, 1.0]] * 2


def test_ppo_logs_a_learning_curve(tmp_path):
    run = Run(tmp_path / "run", run_config("hopper", "ppo", **PPO_SETTINGS))
    ppo.train(run)
    rows = pd.read_csv(run.out / "metrics.csv")
    assert rows["env_steps"].tolist() == [0, 200, 400] and rows["updates"].tolist() == [0, 2, 4]
    assert rows["wall_time_s"].is_monotonic_increasing and np.isfinite(rows["return"]).all()


def test_random_is_uniform_and_scored(tmp_path):
    config = run_config("hopper", "random", seed=3)
    run = Run(tmp_path / "run", config)
    random.train(run)
    policy = algorithms.load_policy("random", run.out / "policy")
    action = policy(np.zeros((3000, 11), np.float32), np.zeros(3000, bool))
    assert action.dtype == np.float32 and action.shape == (3000, 3)
    for column in action.T:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(action.T) - np.eye(3)).max() < 0.07
    (run.out / "config.yaml").write_text(dump(config))
    assert evaluate_run(run.out, 2)["returns"] == evaluate_run(run.out, 2)["returns"]


def test_spoilt_checkpoints_are_refused(tmp_path):
    run = Run(tmp_path / "run", run_config("hopper", "random"))
    random.train(run)
    refusal(lambda: algorithms.load_policy("ppo", run.out / "policy"), "do not fit")  # another algorithm's
    trained = Run(tmp_path / "ppo", run_config("hopper", "ppo", **PPO_SETTINGS))
    ppo.train(trained)
    weights, saved = load_checkpoint(trained.out / "policy")
    for lost in ("mean.0.weight", "obs_var"):
        save_checkpoint(trained.out / "policy", {name: value for name, value in weights.items() if name != lost}, saved)
        refusal(lambda: algorithms.load_policy("ppo", trained.out / "policy"), lost.removeprefix("mean."), "do not fit")
