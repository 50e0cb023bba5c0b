"""PWM's losses and updates against equations written out step by step, finite differences and known solutions."""

import pytest
import torch
from support import make_batch, make_model, model_settings, reference_returns

from pwm.agent import objective, rollout, world_model_loss
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.two_hot import two_hot

GAMMA = 0.9


def reference_loss(model, batch, settings, detach=True):
    """The world-model loss by its equation: one step and one window at a time."""
    horizon, size = batch.action.shape[:2]
    total = 0.0
    for b in range(size):
        task = batch.task[b : b + 1]
        z = model.encode(batch.obs[0, b : b + 1], task)
        for t in range(horizon):
            action, reward = batch.action[t, b : b + 1], batch.reward[t, b]
            output = model.reward_output(z, action, task)[0]
            z = model.next(z, action, task)
            target = model.encode(batch.obs[t + 1, b : b + 1], task)
            consistency = ((z - (target.detach() if detach else target)) ** 2).mean()
            if settings.world_model.reward_bins:
                label = two_hot(reward, -10.0, 10.0, settings.world_model.reward_bins)
                error = -(label * output.log_softmax(-1)).sum()
            else:
                error = (output[0] - reward / model.reward_scale) ** 2
            both = settings.consistency_coef * consistency + settings.reward_coef * error
            total = total + settings.rho**t * both / horizon / size
    return total


def gradient(loss, model):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("bins", [0, 11])
def test_world_model_loss_is_the_papers(bins):
    torch.manual_seed(bins)
    own = {"rho": 0.7, "consistency_coef": 20.0, "reward_coef": 0.3}
    settings = model_settings(bins, **own)
    model = make_model(bins, action_dims=(2, 1))
    model.reward_scale.fill_(1.0 if bins else 1.7)
    batch = make_batch(horizon=4, size=3, tasks=2)
    loss, terms = world_model_loss(model, batch, settings)
    expected = reference_loss(model, batch, settings)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, model), rtol=1e-4, atol=1e-5)
    total = 20.0 * terms["consistency_loss"] + 0.3 * terms["reward_loss"]
    torch.testing.assert_close(total, loss.detach())
    only = reference_loss(model, batch, settings.model_copy(update={"consistency_coef": 0.0, "reward_coef": 1.0}))
    torch.testing.assert_close(terms["reward_loss"], only.detach(), rtol=1e-5, atol=1e-6)


def test_no_gradient_goes_through_the_target_encoder():
    torch.manual_seed(0)
    settings, model = model_settings(consistency_coef=20.0), make_model()
    batch = make_batch(horizon=3, size=4)
    ours = gradient(world_model_loss(model, batch, settings)[0], model)
    without = gradient(reference_loss(model, batch, settings, detach=False), model)
    assert (ours - without).norm() > 0.05 * ours.norm()  # the comparison above can tell the two apart
    later = batch.obs[1:].clone().requires_grad_()
    obs = torch.cat([batch.obs[:1], later])
    loss, _ = world_model_loss(model, batch._replace(obs=obs), settings)
    assert (torch.autograd.grad(loss, later)[0] == 0).all()


class FixedEnvironment:
    """An environment whose ends, terminations and fresh latents are known beforehand; it keeps the actions."""

    def __init__(self, ends, terminated, fresh):
        self.script, self.actions = list(zip(ends, terminated, fresh, strict=True)), []

    def __call__(self, action):
        assert not action.requires_grad
        self.actions.append(action)
        return self.script[len(self.actions) - 1]


def policy_problem(horizon, with_ends):
    """A float64 problem of 4 rollouts: one runs through, one is cut, one terminates, one does both."""
    torch.manual_seed(3)
    model, actor, critic = make_model(bins=11).double(), Actor(16, 2, (6,)).double(), Critic(16, (6,), 3).double()
    z, task = torch.rand(4, 16, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    noise, fresh = torch.randn(horizon, 4, 2, dtype=torch.float64), torch.rand(horizon, 4, 16, dtype=torch.float64)
    ends, terminated = torch.zeros(horizon, 4).double(), torch.zeros(horizon, 4).double()
    if with_ends:
        ends[1, 1] = ends[2, 2] = ends[0, 3] = ends[3, 3] = 1
        terminated[2, 2] = terminated[0, 3] = terminated[3, 3] = 1
    return model, actor, critic, z, task, noise, (ends, terminated, fresh) if with_ends else None


def computed_returns(problem):
    model, actor, critic, z, task, noise, script = problem
    environment = FixedEnvironment(*script) if script else None
    path = rollout(model, actor, z, task, noise, environment)
    return path, objective(model, critic, path, task, GAMMA, script is not None)


def finite_differences(function, module, step=1e-6):
    """Central differences of a scalar function with respect to every parameter of `module`."""
    slopes = []
    for parameter in module.parameters():
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            old = flat[i].item()
            flat[i] = old + step
            above = function()
            flat[i] = old - step
            below = function()
            flat[i] = old
            slopes.append((above - below) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


@pytest.mark.parametrize(("horizon", "with_ends"), [(1, False), (5, False), (5, True)])
def test_objective_and_its_gradient(horizon, with_ends):
    problem = policy_problem(horizon, with_ends)
    actor = problem[1]
    path, worth = computed_returns(problem)
    expected, _ = reference_returns(problem, GAMMA)
    torch.testing.assert_close(worth.returns, expected)
    ours = gradient(worth.returns.mean(), actor)
    torch.testing.assert_close(ours, gradient(expected.mean(), actor))
    if with_ends:
        assert torch.equal(path.ends, problem[6][0]) and torch.equal(path.terminated, problem[6][1])
        assert (worth.next_value[problem[6][1] == 1] == 0).all() and (worth.next_value[problem[6][1] == 0] != 0).all()
    if horizon > 1:  # reading z with its gradient is another gradient, of the same J
        undetached, _ = reference_returns(problem, GAMMA, detach=False)
        torch.testing.assert_close(undetached, expected)
        assert (gradient(undetached.mean(), actor) - ours).norm() > 0.01 * ours.norm()


@pytest.mark.parametrize(("horizon", "with_ends"), [(1, False), (4, True)])
def test_gradient_by_finite_differences(horizon, with_ends):
    """The gradient of J with the policy's inputs frozen where they were: what detaching them means."""
    problem = policy_problem(horizon, with_ends)
    actor = problem[1]
    ours = gradient(computed_returns(problem)[1].returns.mean(), actor)
    with torch.no_grad():
        _, seen = reference_returns(problem, GAMMA)
        slopes = finite_differences(lambda: reference_returns(problem, GAMMA, seen)[0].mean().item(), actor)
    torch.testing.assert_close(ours, slopes, rtol=1e-5, atol=1e-8)
    assert ours.abs().max() > 1e-3


def test_no_gradient_crosses_a_reset():
    """Where an episode ends after the first step, the first action earns its own segment only."""
    model, actor, critic, z, task, noise, (ends, terminated, fresh) = policy_problem(4, True)
    ends[0] = 1
    noise.requires_grad_()
    path = rollout(model, actor, z, task, noise, FixedEnvironment(ends, terminated, fresh))
    assert torch.equal(path.z[1], fresh[0])
    total = objective(model, critic, path, task, GAMMA, True).returns.sum()
    action = actor(z, noise[0])
    value = critic.minimum(model.next(z, action, task)) * (1 - terminated[0])
    segment = (model.reward(z, action, task) + GAMMA * value).sum()
    ours, expected = (torch.autograd.grad(part, noise)[0][0] for part in (total, segment))
    torch.testing.assert_close(ours, expected)
    assert expected.abs().min() > 0


def test_environment_sees_the_actions_of_the_rollout():
    model, actor, _, z, task, noise, script = policy_problem(4, True)
    environment = FixedEnvironment(*script)
    path = rollout(model, actor, z, task, noise, environment)
    assert torch.equal(torch.stack(environment.actions), path.action.detach())
    kept = script[0] == 0
    assert torch.equal(path.z[1:][kept[:-1]], path.next_z[:-1][kept[:-1]])
