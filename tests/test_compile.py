"""The losses are pure functions: torch.compile captures each as one graph, with the same values and gradients."""

import pytest
import torch
from support import make_batch, make_model, model_settings

from pwm.agent import critic_loss, objective, rollout
from pwm.config import ExtractConfig
from pwm.model_learning import policy_prior_loss, td_target, world_model_loss
from pwm.nn.actor_critic import Actor, Critic


def captured(function):
    """`function` as one graph without breaks, run by the plain interpreter."""
    return torch.compile(function, backend="eager", fullgraph=True)


def same_value_and_gradient(function, module):
    results = []
    for version in (function, captured(function)):
        torch.manual_seed(0)
        value = version()
        results.append((value, *torch.autograd.grad(value, list(module.parameters()))))
    torch.testing.assert_close(*results)
    assert any(gradient.abs().max() > 0 for gradient in results[0][1:])


@pytest.mark.parametrize("latent", ["simnorm", "spectral"])
def test_world_model_loss(latent):
    torch.manual_seed(0)
    model, settings = make_model(bins=11, latent=latent), model_settings(bins=11)
    batch = make_batch(4, 6)
    next_z = model.eval().encode(batch.obs[1:], batch.task)
    same_value_and_gradient(lambda: world_model_loss(model, batch, next_z, settings)[0], model)


def test_value_and_prior_losses():
    torch.manual_seed(0)
    model, settings, batch = make_model(11, (1, 2), num_q=3, dropout=0.3), model_settings(11), make_batch(4, 6, tasks=2)
    discount, members = torch.full((6,), 0.9), torch.tensor([2, 0])
    noise = torch.randn(5, 6, 2)
    next_z = model.encode(batch.obs[1:], batch.task).detach()

    def value_loss():
        target = td_target(model, batch, next_z, discount, noise[1:], members)
        return world_model_loss(model, batch, next_z, settings, target)[0]

    z = torch.rand(5, 6, 16)
    scale = torch.ones(())
    same_value_and_gradient(value_loss, torch.nn.ModuleList([model.encoder, model.dynamics, model.q_heads]))
    same_value_and_gradient(
        lambda: policy_prior_loss(model, z, batch.task, noise, members, scale, settings)[0], model.policy_prior
    )


def test_policy_and_critic_losses():
    torch.manual_seed(0)
    model = make_model()
    latent, actions = model.config.latent_dim, model.action_dim
    actor, critic = Actor(latent, actions, (8,)), Critic(latent, (8,), 3)
    z, task, noise = torch.rand(5, latent), torch.zeros(5, dtype=torch.long), torch.randn(3, 5, actions)
    target, config = torch.rand(5), ExtractConfig()

    def policy_loss():
        path = rollout(model, actor, z, task, noise)
        return -objective(model, critic, path, task, config, episodes_end=False).returns.mean()

    same_value_and_gradient(policy_loss, actor)
    same_value_and_gradient(lambda: critic_loss(critic, z, target), critic)
