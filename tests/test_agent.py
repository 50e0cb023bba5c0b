"""The policy gradient: what it is the gradient of, where it stops, and what re-encoding the real states changes."""

import pytest
import torch
from eager_policy import Problem, Script, ScriptedEnvironment, unroll, unroll_all
from support import make_model

from pwm.agent import objective, rollout
from pwm.config import ExtractConfig, OnlineConfig
from pwm.nn.actor_critic import Actor, Critic

GAMMA = 0.9
OPEN_LOOP = ExtractConfig(gamma=GAMMA, online=OnlineConfig())
REENCODED = ExtractConfig(gamma=GAMMA, online=OnlineConfig(reencode=True))


def gradient(loss, model):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def make_problem(horizon, with_ends):
    """A float64 problem of 4 rollouts: one runs through, one is cut, one terminates, one does both."""
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    try:
        model, actor, critic = make_model(bins=11), Actor(16, 2, (6,)), Critic(16, (6,), 3)
        start, task = torch.rand(4, 16), torch.zeros(4, dtype=torch.long)
        noise, seen = torch.randn(horizon, 4, 2), torch.rand(horizon, 4, 16)
        ends, terminated = torch.zeros(horizon, 4), torch.zeros(horizon, 4)
    finally:
        torch.set_default_dtype(torch.float32)
    if with_ends:
        ends[1, 1] = ends[2, 2] = ends[0, 3] = ends[3, 3] = 1
        terminated[2, 2] = terminated[0, 3] = terminated[3, 3] = 1
    return Problem(model, actor, critic, start, task, noise, Script(ends, terminated, seen) if with_ends else None)


def compute(problem, config=OPEN_LOOP):
    model, actor, critic, start, task, noise, script = problem
    environment = ScriptedEnvironment(script) if script else None
    path = rollout(model, actor, start, task, noise, environment, config.online.reencode)
    return path, objective(model, critic, path, task, config, script is not None)


def mean_return(paths):
    return torch.stack([path.total for path in paths]).mean()


def along(module, direction, length):
    """Move all parameters of `module`."""
    parts = direction.split([parameter.numel() for parameter in module.parameters()])
    for parameter, part in zip(module.parameters(), parts, strict=True):
        parameter.data += length * part.view_as(parameter)


@pytest.mark.parametrize(
    ("horizon", "with_ends", "config"),
    [(1, False, OPEN_LOOP), (4, True, OPEN_LOOP), (4, True, REENCODED)],
    ids=["one step", "open loop", "re-encoded"],
)
def test_gradient_by_finite_differences(horizon, with_ends, config):
    """PWM's gradient is that of J with the policy's inputs, and the shifts of re-encoding, frozen where they were."""
    problem = make_problem(horizon, with_ends)
    actor, step = problem.actor, 1e-5
    ours = gradient(compute(problem, config)[1].returns.mean(), actor)
    with torch.no_grad():
        frozen = [path.frozen for path in unroll_all(problem, config)]

        def surrogate():
            return mean_return([unroll(problem, b, config, frozen[b]) for b in range(4)])

        for direction in torch.randn(15, len(ours), dtype=torch.float64):
            along(actor, direction, step)
            above = surrogate()
            along(actor, direction, -2 * step)
            below = surrogate()
            along(actor, direction, step)
            torch.testing.assert_close(ours @ direction, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)
    assert ours.abs().max() > 1e-3


def test_the_policys_input_is_detached():
    """Reading z with its gradient would be another gradient, of the same J."""
    problem = make_problem(5, with_ends=True)
    ours = compute(problem)[1].returns.mean()
    undetached = mean_return(unroll_all(problem, OPEN_LOOP, detach=False))
    torch.testing.assert_close(ours, undetached)
    ours, undetached = (gradient(value, problem.actor) for value in (ours, undetached))
    assert (ours - undetached).norm() > 0.01 * ours.norm()


def test_ends_and_terminations_are_the_environments():
    problem = make_problem(5, with_ends=True)
    path, worth = compute(problem)
    ends, terminated, _ = problem.script
    assert torch.equal(path.ends, ends) and torch.equal(path.terminated, terminated)
    assert (worth.next_value[terminated == 1] == 0).all() and (worth.next_value[terminated == 0] != 0).all()


@pytest.mark.parametrize("config", [OPEN_LOOP, REENCODED], ids=["open loop", "re-encoded"])
def test_no_gradient_crosses_a_reset(config):
    """Where an episode ends after the first step, the first action earns its own segment only."""
    model, actor, critic, z, task, noise, script = problem = make_problem(4, with_ends=True)
    script.ends[0] = 1
    noise.requires_grad_()
    path, worth = compute(problem, config)
    assert torch.equal(path.z[1], script.seen[0])
    action = actor(z, noise[0])
    value = critic.minimum(model.next(z, action, task)) * (1 - script.terminated[0])
    segment = (model.reward(z, action, task) + GAMMA * value).sum()
    ours, expected = (torch.autograd.grad(part, noise)[0][0] for part in (worth.returns.sum(), segment))
    torch.testing.assert_close(ours, expected)
    assert expected.abs().min() > 0


@pytest.mark.parametrize("config", [OPEN_LOOP, REENCODED], ids=["open loop", "re-encoded"])
def test_environment_sees_the_actions_of_the_rollout(config):
    model, actor, _, z, task, noise, script = make_problem(4, with_ends=True)
    environment = ScriptedEnvironment(script)
    path = rollout(model, actor, z, task, noise, environment, config.online.reencode)
    assert torch.equal(torch.stack(environment.actions), path.action.detach())
    kept = script.ends == 0
    assert torch.equal(path.z[1:][kept[:-1]], path.next_z[:-1][kept[:-1]])
    if config is REENCODED:  # the policy acts on what is seen; an episode's last latent is the model's own
        torch.testing.assert_close(path.next_z[kept], script.seen[kept])
        last = model.next(path.z.flatten(0, 1), path.action.flatten(0, 1), task.repeat(4)).view_as(path.z)
        torch.testing.assert_close(path.next_z[~kept], last[~kept])
        assert (path.next_z - last).abs().max() > 0.1
