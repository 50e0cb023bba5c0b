"""DMControl tasks against dm_control stepped by hand."""

import numpy as np
import pytest

from pwm import envs
from pwm.envs.dmcontrol import DMControlVectorEnv, suite  # sets MUJOCO_GL before dm_control is imported

SUITE_NAMES = {
    "cartpole-swingup": ("cartpole", "swingup"),
    "walker-walk": ("walker", "walk"),
    "reacher-easy": ("reacher", "easy"),
    "cheetah-run": ("cheetah", "run"),
}


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_a_whole_episode_equals_hand_stepping(name: str) -> None:
    seed = 6
    env = envs.make(name, num_envs=2, seed=seed)
    by_hand = [suite.load(*SUITE_NAMES[name], task_kwargs={"random": seed + i}) for i in range(2)]
    observation, _ = env.reset()
    for i in range(2):
        np.testing.assert_array_equal(observation[i], flat(by_hand[i].reset().observation))
    actions = np.random.default_rng(0).uniform(-1, 1, (500, *env.action_space.shape)).astype(np.float32)
    for t, action in enumerate(actions, start=1):
        _, reward, terminated, truncated, info = env.step(action)
        for i in range(2):
            first, second = by_hand[i].step(action[i]), by_hand[i].step(action[i])
            assert reward[i] == np.float32(first.reward + second.reward)
            np.testing.assert_array_equal(info["final_obs"][i], flat(second.observation))
            assert truncated[i] == second.last() == (t == 500)
        assert not terminated.any()


def flat(observation: dict[str, np.ndarray]) -> np.ndarray:
    """The values one after the other, as float32."""
    return np.array([x for value in observation.values() for x in np.atleast_1d(value)], np.float32)


def test_actions_are_scaled_to_the_tasks_own_range(monkeypatch: pytest.MonkeyPatch) -> None:
    load = suite.load

    def load_with_odd_range(domain: str, task: str) -> object:
        env = load(domain, task)
        env.physics.model.actuator_ctrlrange[:] = [-1.0, 3.0]
        return env

    monkeypatch.setattr(suite, "load", load_with_odd_range)
    env = DMControlVectorEnv(envs.get_task("reacher-easy"), num_envs=1, seed=0)
    env.reset()
    env.step(np.array([[-1.0, 0.25]]))
    np.testing.assert_array_equal(env._envs[0].physics.data.ctrl, [-1.0, 1.5])


def test_reachers_target_survives_a_restore() -> None:
    env, other = envs.make("reacher-easy", seed=1), envs.make("reacher-easy", seed=2)
    env.reset()
    other.reset()
    targets = [e._envs[0].physics.named.model.geom_pos["target"].copy() for e in (env, other)]
    assert not np.array_equal(*targets)
    other.restore(env.state())
    np.testing.assert_array_equal(other._envs[0].physics.named.model.geom_pos["target"], targets[0])
