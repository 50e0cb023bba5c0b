"""Environments with gradients: what they give, where gradients end, and what they refuse."""

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from support import refusal
from test_differentiable import all_bodies, samples_of

from pwm import envs
from pwm.envs.differentiable import DifferentiableVectorEnv, make_differentiable
from pwm.envs.locomotion import BODIES


@all_bodies
def test_observations_and_rewards_of_tensors(body: str) -> None:
    """Those of arrays, with exact gradients."""
    samples = [x[::4] for x in samples_of(body, 14)]
    tensors = [torch.from_numpy(x.copy()).requires_grad_() for x in samples]
    for function in (BODIES[body].observe, BODIES[body].reward):
        np.testing.assert_array_equal(function(*tensors).detach().numpy(), function(*samples))
        torch.autograd.gradcheck(function, tensors, eps=1e-7, atol=1e-5)


def shot(env: DifferentiableVectorEnv, actions: torch.Tensor) -> list:
    """A window of steps."""
    env.begin_window()
    return [env.advance(action) for action in actions]


@all_bodies
def test_environment_gives_what_the_plain_one_gives(body: str) -> None:
    """Through resets, too, and from a snapshot anew."""
    plain, env = envs.make(body, 6, seed=5), make_differentiable(body, 6, seed=5)
    np.testing.assert_array_equal(env.reset(seed=5)[0], plain.reset(seed=5)[0])
    late = {"elapsed": np.array([980] * 3 + [0] * 3)}
    for one in (env, plain):
        one.restore(one.state() | late)
    actions = torch.from_numpy(np.random.default_rng(0).uniform(-1.2, 1.2, (60, 6, env.task.action_dim))).float()
    snapshot, ends = env.state(), 0
    first = shot(env, actions[:40]) + shot(env, actions[40:])
    for action, ours in zip(actions, first, strict=True):
        observation, reward, terminated, truncated, info = plain.step(action.numpy())
        for seen, expected in zip(ours, (observation, reward, terminated, truncated, info["final_obs"]), strict=True):
            np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-6)
        ends += (terminated | truncated).sum()
    assert ends >= 3
    for ours, theirs in zip(env.state().values(), plain.state().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    env.restore(snapshot)
    for again, before in zip(shot(env, actions), first, strict=True):
        for x, y in zip(again, before, strict=True):
            assert torch.equal(x, y)
    env.close()


def test_gradients_end_where_episodes_end() -> None:
    env = make_differentiable("hopper", 3)
    env.reset()
    state = env.state() | {"elapsed": np.array([998, 0, 0])}
    state["physics"][1, 2:6] = -0.5, 0.0, -1.0, -2.0  # its leg drawn up, below the floor
    env.restore(state)
    actions = torch.zeros(4, 3, 3, requires_grad=True)
    seen = shot(env, actions)
    assert [x.truncated.tolist() for x in seen[:2]] == [[0, 0, 0], [1, 0, 0]] and seen[0].terminated[1] == 1

    def reaches(what: torch.Tensor) -> list[list[bool]]:
        """Whether a gradient reaches each step's action, by environment."""
        found = torch.autograd.grad(what.sum(), actions, retain_graph=True)[0]
        return (found.abs().sum(2) > 0).T.tolist()

    assert reaches(seen[3].reward) == [[False, False, True, True], [False, True, True, True], [True] * 4]
    assert reaches(seen[1].final_observation)[0] == [True, True, False, False]
    assert reaches(seen[1].observation)[0] == [False] * 4
    env.begin_window()
    later = env.advance(actions[3].detach())
    assert not later.reward.requires_grad


def test_clipped_actions_have_no_gradient() -> None:
    env = make_differentiable("hopper", 1)
    env.reset()
    env.begin_window()
    action = torch.tensor([[1.5, 0.5, -2.0]], requires_grad=True)
    gradient = torch.autograd.grad(env.advance(action).reward.sum(), action)[0]
    assert (gradient != 0).tolist() == [[False, True, False]]


def test_softened_contacts_are_those_of_the_soft_hopper() -> None:
    """Steps and gradients alike, and the body's own again afterwards; of the same actions, with landings."""
    actions = (0.5 * torch.arange(40 * 4 * 3).sin()).view(40, 4, 3).requires_grad_()

    def gradient(env: DifferentiableVectorEnv) -> torch.Tensor:
        env.reset(seed=1)
        return torch.autograd.grad(sum(x.reward.sum() for x in shot(env, actions)), actions)[0]

    env, soft = make_differentiable("hopper", 4), make_differentiable("hopper-soft", 4)
    before = gradient(env)
    env.soften(3.0)
    torch.testing.assert_close(gradient(env), gradient(soft), rtol=1e-2, atol=1e-2)  # finite differences of 3e-8
    assert (gradient(env) - before).abs().max() > 0.1
    env.soften(1.0)
    assert torch.equal(gradient(env), before)


def test_result_does_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(threads: str) -> torch.Tensor:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        env = make_differentiable("ant", 5)
        env.reset()
        actions = (0.3 * torch.arange(8 * 5 * 8).sin()).view(8, 5, 8).requires_grad_()
        found = torch.autograd.grad(sum(x.reward.sum() for x in shot(env, actions)), actions)[0]
        env.close()
        return found

    assert torch.equal(gradient("1"), gradient("3"))


def test_other_tasks_are_refused() -> None:
    refusal(lambda: make_differentiable("walker-run", 1), "walker-run", "locomotion")


def test_windows_begin_before_steps() -> None:
    env = make_differentiable("hopper", 1)
    with pytest.raises(ResetNeeded):
        env.begin_window()
    env.reset()
    env.begin_window()
    env.reset()
    with pytest.raises(ResetNeeded):
        env.advance(torch.zeros(1, 3))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    env = make_differentiable("hopper", 3)
    env.reset()
    actions = torch.zeros(4, 3, 3, requires_grad=True)
    reward = shot(env, actions)[2].reward * torch.tensor([1.0, float("nan"), 1.0])
    with pytest.raises(FloatingPointError, match=r"hopper: control step 2: the gradient .* in environments \[1\]"):
        reward.sum().backward()
