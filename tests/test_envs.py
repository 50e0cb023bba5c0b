"""The contract of `pwm.envs`, over every task of the table."""

import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from pwm import envs
from pwm.envs.tasks import SUITES
from pwm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
EPISODE = 5  # decisions of the shortened episodes

# Ordered by task, so that a model is compiled once for all of its tests.
all_tasks = pytest.mark.parametrize("name", list(envs.TASKS), scope="session")


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the task's episodes end after `EPISODE` decisions."""
    monkeypatch.setitem(envs.TASKS, name, replace(envs.TASKS[name], episode_length=EPISODE))


def draw_actions(name: str, steps: int, num_envs: int) -> np.ndarray:
    """Uniform actions `[steps, N, A]`."""
    shape = (steps, num_envs, envs.TASKS[name].action_dim)
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def outcome(step: tuple) -> list[np.ndarray]:
    """All arrays that a step of a vector environment returns."""
    *arrays, info = step
    return [*arrays, info["final_obs"], info["success"]]


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


@all_tasks
def test_shapes_and_types_are_the_tables(name: str) -> None:
    task = envs.get_task(name)
    env = envs.make(name, num_envs=3, seed=1)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.single_observation_space.shape == (task.observation_dim,)
    assert env.single_action_space == gymnasium.spaces.Box(-1.0, 1.0, (task.action_dim,), np.float32)
    observation, _ = env.reset()
    assert observation in env.observation_space
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert observation in env.observation_space
    assert (reward.shape, reward.dtype) == ((3,), np.float32)
    for flag in (terminated, truncated, info["success"]):
        assert (flag.shape, flag.dtype) == ((3,), np.bool_)
    assert (info["final_obs"].shape, info["final_obs"].dtype) == (observation.shape, np.float32)
    env.close()


@all_tasks
def test_seed_decides_everything(name: str) -> None:
    actions = draw_actions(name, 4, 2)

    def run(env: gymnasium.vector.VectorEnv, seed: int | None) -> list[np.ndarray]:
        first = env.reset(seed=seed)[0]
        steps = [array for action in actions for array in outcome(env.step(action))]
        return [first, *steps, env.reset()[0]]

    at_once = run(envs.make(name, num_envs=2, seed=5), None)
    env = envs.make(name, num_envs=2, seed=8)
    other = run(env, None)
    assert_same(at_once, run(env, 5))
    assert not np.array_equal(at_once[0], other[0])  # another seed
    assert not np.array_equal(at_once[0], at_once[-1])  # the next episode
    assert not np.array_equal(at_once[0][0], at_once[0][1])  # the next environment


@all_tasks
def test_each_environment_repeats_a_single_one(name: str, short_episodes: None) -> None:
    steps = 2 * EPISODE + 2
    actions = draw_actions(name, steps, 3)
    vector = envs.make(name, num_envs=3, seed=11)
    starts = [vector.reset()[0]]
    outcomes = []
    for action in actions:
        step = vector.step(action)
        starts.append(step[0])
        outcomes.append(step)
    for i in range(3):
        single = gymnasium.make(f"pwm/{name}-v0")
        observation, _ = single.reset(seed=11 + i)
        np.testing.assert_array_equal(observation, starts[0][i])
        for t in range(steps):
            observation, reward, terminated, truncated, info = single.step(actions[t, i])
            _, rewards, terminations, truncations, infos = outcomes[t]
            np.testing.assert_array_equal(observation, infos["final_obs"][i])
            assert (reward, terminated, truncated) == (rewards[i], terminations[i], truncations[i])
            assert info["success"] == infos["success"][i]
            if terminated or truncated:
                observation, _ = single.reset()
                np.testing.assert_array_equal(observation, starts[t + 1][i])


@all_tasks
def test_episode_is_cut_at_its_length_and_final_obs_is_what_came_of_the_action(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = draw_actions(name, 2 * EPISODE, 2)
    uncut = envs.make(name, num_envs=2, seed=3)
    monkeypatch.setitem(envs.TASKS, name, replace(envs.TASKS[name], episode_length=EPISODE))
    cut = envs.make(name, num_envs=2, seed=3)
    uncut.reset()
    cut.reset()
    for t, action in enumerate(actions, start=1):
        observation, _, terminated, truncated, info = cut.step(action)
        expected = uncut.step(action)[0] if t <= EPISODE else info["final_obs"]
        np.testing.assert_array_equal(info["final_obs"], expected)
        np.testing.assert_array_equal(truncated, t % EPISODE == 0)
        assert not terminated.any()
        for row in range(2):
            assert np.array_equal(info["final_obs"][row], observation[row]) != truncated[row]


@all_tasks
def test_restored_snapshot_continues_bit_for_bit(name: str, short_episodes: None, tmp_path) -> None:
    actions = draw_actions(name, 4 * EPISODE, 2)

    def run(env: gymnasium.vector.VectorEnv, part: np.ndarray) -> list[np.ndarray]:
        arrays = [array for action in part for array in outcome(env.step(action))]
        return [*arrays, env.reset()[0]]

    env, resumed = envs.make(name, num_envs=2), envs.make(name, num_envs=2, seed=99)
    for taken in (3, EPISODE, EPISODE + 2):  # within an episode, at its end, within the next
        env.reset(seed=2)
        for action in actions[:taken]:
            observation = env.step(action)[0]
        np.savez(tmp_path / "state.npz", **env.state())
        expected = run(env, actions[taken:])
        with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
            np.testing.assert_array_equal(resumed.restore(dict(state)), observation)
        assert_same(run(resumed, actions[taken:]), expected)


@all_tasks
def test_snapshot_does_not_change_with_the_environment(name: str) -> None:
    env = envs.make(name, num_envs=1)
    env.reset()
    state = env.state()
    kept = {key: value.copy() for key, value in state.items()}
    actions = draw_actions(name, 3, 1)
    first = [outcome(env.step(action)) for action in actions]
    for key, value in kept.items():
        np.testing.assert_array_equal(state[key], value)
    env.restore(state)
    for action, expected in zip(actions, first, strict=True):
        assert_same(outcome(env.step(action)), expected)


@all_tasks
def test_extreme_actions_are_clipped_and_keep_numbers_finite(name: str) -> None:
    env, clipped = envs.make(name, num_envs=2), envs.make(name, num_envs=2)
    env.reset()
    clipped.reset()
    signs = np.sign(draw_actions(name, 40, 2))
    for t, sign in enumerate(signs):
        step = env.step(sign * (np.inf if t % 2 else 1e30))
        assert np.isfinite(step[0]).all() and np.isfinite(step[1]).all()
        assert_same(outcome(step), outcome(clipped.step(sign)))


@all_tasks
def test_wrong_actions_are_refused(name: str) -> None:
    env = envs.make(name, num_envs=2)
    good = env.action_space.sample()
    with pytest.raises(ResetNeeded):
        env.step(good)
    env.reset()
    with pytest.raises(FloatingPointError, match="NaN"):
        env.step(np.full_like(good, np.nan))
    with pytest.raises(UserError, match="shape"):
        env.step(good[:1])


@all_tasks
def test_gymnasium_finds_no_fault(name: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(f"pwm/{name}-v0").unwrapped)
    serious = [str(w.message) for w in caught if "infinity" not in str(w.message)]  # observations are unbounded
    assert serious == []


def test_single_environment_must_be_reset_after_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(envs.TASKS, "hopper", replace(envs.TASKS["hopper"], episode_length=1))
    env = envs.make_single("hopper")
    env.reset(seed=4)
    assert env.step(np.zeros(3))[3]
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(3))
    first = env.reset(seed=4)[0]  # a seed begins anew, whatever episode was waiting
    np.testing.assert_array_equal(first, envs.make("hopper", seed=4).reset()[0][0])


def test_suites_hold_the_tables_tasks() -> None:
    sizes = {suite: len(set(tasks)) for suite, tasks in envs.SUITES.items()}
    assert sizes.items() >= {"locomotion": 5, "stiffness": 3, "mt30": 30, "mt80": 80}.items()
    assert envs.SUITES["mt80"][:30] == envs.SUITES["mt30"]
    assert {name for suite in envs.SUITES.values() for name in suite} == set(envs.TASKS)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: envs.get_task("walker-wlak"), "walker-walk"),
        (lambda: envs.make("Hopper"), "hopper"),
        (lambda: envs.make("hopper", num_envs=0), "num_envs"),
        (lambda: envs.make("hopper", seed=-1), "seed"),
        (lambda: envs.make("hopper", num_envs=2).reset(seed=2**32 - 1), "seed"),
    ],
)
def test_mistakes_are_told_in_one_line(build: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_another_version_of_a_simulator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {f"{name}=={version}" for named in envs.SIMULATORS.values() for name, version in named.items()} <= set(pins)
    assert envs.simulator("mw-reach") == "mujoco 3.3.0, metaworld 3.1.1"
    monkeypatch.setitem(envs.SIMULATORS, "locomotion", {"mujoco": "2.3.7"})
    envs.check_simulator.cache_clear()
    with pytest.raises(UserError, match=r"mujoco is 3\.3\.0, .* by 2\.3\.7; install that one"):
        envs.make("hopper")


def test_snapshot_of_another_size_is_refused() -> None:
    env = envs.make("hopper", num_envs=2)
    env.reset()
    with pytest.raises(UserError, match="snapshot"):
        envs.make("hopper", num_envs=3).restore(env.state())


def test_import_starts_no_simulator() -> None:
    code = "import sys, pwm.envs; print({'mujoco', 'dm_control', 'torch'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "set()"


def test_stable_baselines_sees_the_same_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from pwm.envs.sb3 import SB3VecEnv

    monkeypatch.setitem(envs.TASKS, "hopper", replace(envs.TASKS["hopper"], episode_length=EPISODE))
    ours = envs.make("hopper", num_envs=2)
    theirs = SB3VecEnv(envs.make("hopper", num_envs=2))
    theirs.seed(21)
    np.testing.assert_array_equal(theirs.reset(), ours.reset(seed=21)[0])
    for t, action in enumerate(draw_actions("hopper", EPISODE + 1, 2), start=1):
        observation, reward, _, truncated, info = ours.step(action)
        seen, rewards, dones, infos = theirs.step(action)
        np.testing.assert_array_equal(seen, observation)
        np.testing.assert_array_equal(rewards, reward)
        np.testing.assert_array_equal(dones, t == EPISODE)
        for i in range(2):
            assert infos[i].get("TimeLimit.truncated", False) == truncated[i]
            if dones[i]:
                np.testing.assert_array_equal(infos[i]["terminal_observation"], info["final_obs"][i])
    np.testing.assert_array_equal(theirs.reset(), ours.reset()[0])  # the seed was used once


def test_stable_baselines_learns_on_it() -> None:
    from stable_baselines3 import PPO

    from pwm.envs.sb3 import SB3VecEnv

    model = PPO("MlpPolicy", SB3VecEnv(envs.make("hopper", num_envs=2)), n_steps=8, batch_size=8, n_epochs=1, seed=0)
    model.learn(32)
    assert model.num_timesteps == 32


@pytest.mark.parametrize("body", SUITES["locomotion"])
def test_speed_is_the_way_along_x_that_it_makes(body: str) -> None:
    env = envs.make(body, num_envs=8, seed=3)
    env.reset()
    rng, way, ended = np.random.default_rng(4), np.zeros(8), np.zeros(8, bool)
    before = env.state()["physics"][:, 1]
    for _ in range(30):
        *_, terminated, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
        ended |= terminated
        way += info["speed"] / 60.0
    made = env.state()["physics"][:, 1] - before
    assert (~ended).sum() >= 3 and np.abs(made[~ended]).max() > 0.05
    np.testing.assert_allclose(way[~ended], made[~ended], atol=0.1 * np.abs(made[~ended]).max())
