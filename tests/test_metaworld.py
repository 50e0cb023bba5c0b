"""Meta-World tasks against Meta-World stepped by hand, and the scripted experts."""

from dataclasses import replace

import numpy as np
import pytest

from pwm import envs
from pwm.envs.metaworld import MetaWorldVectorEnv, scripted_expert  # before metaworld: it sets MUJOCO_GL
from pwm.envs.parallel import ParallelVectorEnv
from pwm.envs.tasks import METAWORLD

from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE  # isort: skip
from metaworld.sawyer_xyz_env import SawyerXYZEnv  # isort: skip

EPISODE = 30  # decisions


def by_hand(name: str, seed: int) -> SawyerXYZEnv:
    """Meta-World's own goal-observable environment, with new positions at every reset."""
    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name.removeprefix('mw-')}-v3-goal-observable"](seed)
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    return env


def touching(env: SawyerXYZEnv) -> set[int]:
    """The shapes that Meta-World takes the gripper to hold."""
    return {geom for geom in range(env.model.ngeom) if env.touching_object(geom)}


# A grasp; a push by contact; a body that a reset moves after observing it; rejected draws and a lid with its own steps.
@pytest.mark.parametrize("name", ["mw-push", "mw-plate-slide", "mw-drawer-open", "mw-box-close"])
def test_two_episodes_equal_hand_stepping(name: str) -> None:
    seed, act, rng = 6, scripted_expert(name), np.random.default_rng(0)
    env = MetaWorldVectorEnv(replace(envs.get_task(name), episode_length=EPISODE), num_envs=2, seed=seed)
    plain = [by_hand(name, seed + i) for i in range(2)]
    observation, _ = env.reset()
    touched: set[int] = set()
    for _ in range(2):
        for i in range(2):
            plain[i].reset()
            first = plain[i].step(np.zeros(4, np.float32))[0].astype(np.float32)
            np.testing.assert_array_equal(observation[i], np.concatenate([first[:18], first[:18], first[36:]]))
        for t in range(1, EPISODE + 1):
            action = act(observation) + rng.normal(0, 0.1, (2, 4)).astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(action)
            for i in range(2):
                clipped = action[i].clip(-1, 1)
                (_, r1, _, _, _), (last, r2, _, _, facts) = plain[i].step(clipped), plain[i].step(clipped)
                np.testing.assert_array_equal(info["final_obs"][i], last.astype(np.float32))
                assert reward[i] == np.float32(r1 + r2)
                assert info["success"][i] == bool(facts["success"])
                if name == "mw-push" and t < EPISODE:  # after which ours is in its next episode
                    touched |= touching(plain[i])
                    assert touching(env._envs[i]) == touching(plain[i])
            np.testing.assert_array_equal(truncated, t == EPISODE)
            assert not terminated.any()
    assert bool(touched) == (name == "mw-push")


@pytest.mark.parametrize("name", ["mw-dial-turn", "mw-faucet-open", "mw-lever-pull", "mw-window-close"])
def test_first_observation_shows_where_the_object_is(name: str) -> None:
    env = envs.make(name, seed=3)
    observation, _ = env.reset()
    for _ in range(2):  # the environment's first episode and its next
        after = env.step(np.zeros((1, 4)))[0]
        np.testing.assert_allclose(observation[:, 4:7], after[:, 4:7], atol=0.005)
        observation, _ = env.reset()


def test_episodes_differ_in_object_and_goal_and_leave_numpys_generator_alone() -> None:
    np.random.seed(1)  # noqa: NPY002 the one that Meta-World would draw from
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    env = envs.make("mw-push", num_envs=2, seed=4)
    starts = np.concatenate([env.reset()[0] for _ in range(3)])
    assert len(np.unique(starts[:, 4:6], axis=0)) == len(np.unique(starts[:, 36:38], axis=0)) == 6
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    again = envs.make("mw-push", num_envs=2, seed=4)
    np.testing.assert_array_equal(np.concatenate([again.reset()[0] for _ in range(3)]), starts)


def test_worker_processes_give_the_same_episodes() -> None:
    task = replace(envs.get_task("mw-hammer"), episode_length=4)
    alone = MetaWorldVectorEnv(task, num_envs=3, seed=8)
    shared = ParallelVectorEnv("pwm.envs.metaworld", "MetaWorldVectorEnv", task, 3, 8, workers=2)
    np.testing.assert_array_equal(shared.reset()[0], alone.reset()[0])
    for t, action in enumerate(np.random.default_rng(0).uniform(-1, 1, (7, 3, 4)), start=1):
        for ours, theirs in zip(alone.step(action)[:4], shared.step(action)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        if t == 3:  # the snapshot of either serves both
            ours, theirs = alone.state(), shared.state()
            shared.step(action)
            alone.restore(theirs)
            shared.restore(ours)
    shared.close()


def test_scripted_experts_succeed_and_rewards_keep_their_range() -> None:
    succeeded = []
    for task in METAWORLD:
        env, act = envs.make(task.name, num_envs=2, seed=0), scripted_expert(task.name)
        observation, _ = env.reset()
        for _ in range(task.episode_length):
            given = observation.copy()
            action = act(observation)
            np.testing.assert_array_equal(observation, given)
            assert action.dtype == np.float32 and (abs(action) <= 1).all()
            observation, reward, _, truncated, info = env.step(action)
            assert ((reward >= 0) & (reward <= 20)).all(), task.name
        assert truncated.all()
        if info["success"].any():  # at the end of one of the two episodes
            succeeded.append(task.name)
    assert len(succeeded) >= 45
