"""DMControl tasks against dm_control stepped by hand, and what is made fast against dm_control's own."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm import envs
from pwm.envs.dmcontrol import (  # it sets MUJOCO_GL before dm_control is imported
    CHANGE_THEIR_MODEL,
    DMControlVectorEnv,
    PhysicsError,
    _rng_words,
    _set_rng,
    dmcontrol_fast,
    load,
    suite,
)
from pwm.envs.dmcontrol_fast import rewards

SUITE_NAMES = {
    "walker-stand": ("walker", "stand"),
    "walker-walk": ("walker", "walk"),
    "walker-run": ("walker", "run"),
    "cheetah-run": ("cheetah", "run"),
    "reacher-easy": ("reacher", "easy"),
    "reacher-hard": ("reacher", "hard"),
    "acrobot-swingup": ("acrobot", "swingup"),
    "pendulum-swingup": ("pendulum", "swingup"),
    "cartpole-balance": ("cartpole", "balance"),
    "cartpole-balance-sparse": ("cartpole", "balance_sparse"),
    "cartpole-swingup": ("cartpole", "swingup"),
    "cartpole-swingup-sparse": ("cartpole", "swingup_sparse"),
    "cup-catch": ("ball_in_cup", "catch"),
    "finger-spin": ("finger", "spin"),
    "finger-turn-easy": ("finger", "turn_easy"),
    "finger-turn-hard": ("finger", "turn_hard"),
    "fish-swim": ("fish", "swim"),
    "hopper-stand": ("hopper", "stand"),
    "hopper-hop": ("hopper", "hop"),
}
WHOLE_EPISODES = ("cheetah-run", "cartpole-balance", "reacher-hard", "finger-turn-easy")


def flat(observation: dict[str, np.ndarray]) -> np.ndarray:
    """The values one after the other."""
    return np.array([x for value in observation.values() for x in np.ravel(value)])


def by_hand(name: str, seed: int, actions: np.ndarray) -> tuple[list[np.ndarray], list[float], list[bool]]:
    """Observations (the first included), rewards and whether it was the last decision, from dm_control alone."""
    env = suite.load(*SUITE_NAMES[name], task_kwargs={"random": seed})
    observations, sums, ends = [flat(env.reset().observation)], [], []
    for action in actions:
        first, second = env.step(action), env.step(action)
        observations.append(flat(second.observation))
        sums.append(first.reward + second.reward)
        ends.append(second.last())
    return observations, sums, ends


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_standard_task_equals_hand_stepping(name: str) -> None:
    seed, steps = 6, 500 if name in WHOLE_EPISODES else 60
    env = envs.make(name, num_envs=2, seed=seed)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    expected = [by_hand(name, seed + i, actions[:, i]) for i in range(2)]
    observation, _ = env.reset()
    for i in range(2):
        np.testing.assert_array_equal(observation[i], expected[i][0][0].astype(np.float32))
    for t, action in enumerate(actions):
        _, reward, terminated, truncated, info = env.step(action)
        assert not terminated.any()
        for i, (observations, sums, ends) in enumerate(expected):
            assert reward[i] == np.float32(sums[t])
            np.testing.assert_array_equal(info["final_obs"][i], observations[t + 1].astype(np.float32))
            assert truncated[i] == ends[t] == (t == 499)


def test_the_standard_tasks_are_the_first_nineteen() -> None:
    assert envs.SUITES["mt30"][:19] == tuple(SUITE_NAMES)


@pytest.mark.parametrize("name", envs.SUITES["mt30"])
def test_rewards_lie_between_0_and_the_number_of_control_steps(name: str) -> None:
    env = envs.make(name, num_envs=2, seed=4)
    env.reset()
    rng = np.random.default_rng(1)
    for t in range(40):
        actions = rng.uniform(-1, 1, env.action_space.shape)
        reward = env.step(actions if t < 20 else np.sign(actions))[1]
        assert (reward >= 0).all() and (reward <= 2).all()


def test_actions_are_scaled_to_the_tasks_own_range(monkeypatch: pytest.MonkeyPatch) -> None:
    load_suite = suite.load

    def load_with_odd_range(domain: str, task: str) -> object:
        env = load_suite(domain, task)
        env.physics.model.actuator_ctrlrange[:] = [-1.0, 3.0]
        return env

    monkeypatch.setattr(suite, "load", load_with_odd_range)
    env = DMControlVectorEnv(envs.get_task("reacher-easy"), num_envs=2, seed=0)
    env.reset()
    env.step(np.array([[-1.0, 0.25], [1.0, 0.0]]))
    np.testing.assert_array_equal(env._envs[0].physics.data.ctrl, [-1.0, 1.5])
    np.testing.assert_array_equal(env._envs[1].physics.data.ctrl, [3.0, 1.0])


def test_reachers_target_survives_a_restore() -> None:
    env, other = envs.make("reacher-easy", seed=1), envs.make("reacher-easy", seed=2)
    env.reset()
    other.reset()
    targets = [e._envs[0].physics.named.model.geom_pos["target"].copy() for e in (env, other)]
    assert not np.array_equal(*targets)
    other.restore(env.state())
    np.testing.assert_array_equal(other._envs[0].physics.named.model.geom_pos["target"], targets[0])


@pytest.mark.parametrize("name", [name for name in envs.SUITES["mt30"] if not name.startswith(CHANGE_THEIR_MODEL)])
def test_tasks_that_share_a_model_leave_it_alone(name: str) -> None:
    first, second = (env.physics.model for env in DMControlVectorEnv(envs.get_task(name), 2, 0)._envs)
    assert first.ptr is second.ptr
    env = load(name)
    before = env.physics.model.to_bytes()
    for _ in range(2):
        env.reset()
        env.step(np.ones(env.action_spec().shape))
    assert env.physics.model.to_bytes() == before


def test_generator_goes_on_within_a_pair_of_normal_draws() -> None:
    random, other = np.random.RandomState(5), np.random.RandomState(6)
    random.randn(3)  # draws come in pairs: the fourth is waiting
    words = _rng_words(random)
    assert (words.shape, words.dtype) == ((628,), np.uint32)
    _set_rng(other, words)
    np.testing.assert_array_equal(other.randn(1500), random.randn(1500))


def test_divergence_is_noticed() -> None:
    env, plain = envs.make("walker-walk", num_envs=2), suite.load("walker", "walk")
    env.reset()
    plain.reset()
    env._envs[1].physics.data.qpos[0] = plain.physics.data.qpos[0] = np.inf
    with pytest.raises(PhysicsError):
        plain.step(np.zeros(6))
    with pytest.raises(PhysicsError, match=r"walker-walk.*BADQPOS"):
        env.step(np.zeros((2, 6)))
    env.reset()  # starts afresh
    assert np.isfinite(env.step(np.zeros((2, 6)))[0]).all()


def same(left: object, right: object) -> bool:
    """The same kind of object with the same bits."""
    return type(left) is type(right) and np.asarray(left).tobytes() == np.asarray(right).tobytes()


values = st.floats(-20, 20) | st.sampled_from([0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e200])
bounds = st.tuples(st.floats(-5, 5) | st.just(-math.inf), st.floats(-5, 5) | st.just(math.inf))


@settings(max_examples=400, deadline=None)
@given(
    values | values.map(np.float64) | st.lists(values, min_size=1, max_size=6).map(np.array) | st.integers(-3, 3),
    bounds,
    st.sampled_from([0.0, 0.3, 1.0, 2.5, -1.0]),
    st.sampled_from(["gaussian", "linear", "quadratic", "cosine", "unheard of"]),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 0]),
)
def test_tolerance_is_dm_controls_bit_for_bit(x, bounds, margin, sigmoid, value_at_margin) -> None:
    outcomes = []
    for function in (rewards.tolerance, dmcontrol_fast.tolerance):
        try:
            with np.errstate(all="ignore"):
                outcomes.append(function(x, bounds, margin, sigmoid, value_at_margin))
        except ValueError as error:
            outcomes.append(str(error))
    assert same(*outcomes), outcomes


def test_tolerance_squares_as_numpy_does() -> None:
    numbers = np.random.default_rng(3).uniform(0, 2, 20_000)
    for sigmoid in ("gaussian", "quadratic"):
        for x in numbers:
            ours, theirs = (f(x, margin=1.7, sigmoid=sigmoid) for f in (dmcontrol_fast.tolerance, rewards.tolerance))
            assert ours == theirs
        for four in numbers.reshape(-1, 4)[:1000]:
            ours, theirs = (f(four, margin=1.7, sigmoid=sigmoid) for f in (dmcontrol_fast.tolerance, rewards.tolerance))
            assert same(ours, theirs)


def test_fast_rewards_are_for_our_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own, used = rewards.tolerance, []
    env = envs.make("cheetah-run")
    monkeypatch.setattr(env._envs[0].task, "get_reward", lambda physics: used.append(rewards.tolerance) or 0.5)
    env.reset()
    assert env.step(np.zeros((1, 6)))[1] == 1.0
    assert used == [dmcontrol_fast.tolerance] * 2
    assert rewards.tolerance is own is not dmcontrol_fast.tolerance


def test_cached_names_read_and_write_the_same_numbers() -> None:
    cached, plain = load("walker-walk"), load("walker-walk")
    dmcontrol_fast.cache_names(cached.physics)
    keys = {
        "xpos": ["torso", ("torso", "z"), (["torso", "left_foot"], "x"), ("torso", ["x", "z"]), 2, (slice(1, None), 0)],
        "xmat": [(slice(1, None), ["xx", "xz"]), (slice(2, None), "zz"), slice(0, 2), np.array([1, 3])],
        "qpos": ["rootz", ["rootz", "rooty"], [1, 2], slice(None, None, 2)],
        "sensordata": ["torso_subtreelinvel"],
    }
    for seed in range(2):
        for env in (cached, plain):
            env.task.random.seed(seed)
            env.reset()
        for field, field_keys in keys.items():
            for key in field_keys:
                ours, theirs = (getattr(env.physics.named.data, field)[key] for env in (cached, plain))
                assert same(ours, theirs), (field, key)
    cached.physics.named.data.qpos[["rootz", "rooty"]] = [7.0, 8.0]
    np.testing.assert_array_equal(cached.physics.data.qpos[[0, 2]], [7.0, 8.0])
    with pytest.raises(KeyError):
        cached.physics.named.data.xpos["tail"]
