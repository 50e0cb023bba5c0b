"""The losses are pure functions: torch.compile captures each as one graph, with the same values and gradients."""

import torch
from support import make_batch, make_model, model_settings

from pwm.agent import critic_loss, objective, rollout, world_model_loss
from pwm.nn.actor_critic import Actor, Critic


def captured(function):
    """`function` as one graph without breaks, run by the plain interpreter."""
    return torch.compile(function, backend="eager", fullgraph=True)


def same_value_and_gradient(function, module):
    results = []
    for version in (function, captured(function)):
        value = version()
        results.append((value, *torch.autograd.grad(value, list(module.parameters()))))
    torch.testing.assert_close(*results)
    assert any(gradient.abs().max() > 0 for gradient in results[0][1:])


def test_world_model_loss():
    torch.manual_seed(0)
    model, settings = make_model(bins=11), model_settings(bins=11)
    batch = make_batch(4, 6)
    same_value_and_gradient(lambda: world_model_loss(model, batch, settings)[0], model)


def test_policy_and_critic_losses():
    torch.manual_seed(0)
    model = make_model()
    latent, actions = model.config.latent_dim, model.action_dim
    actor, critic = Actor(latent, actions, (8,)), Critic(latent, (8,), 3)
    z, task, noise = torch.rand(5, latent), torch.zeros(5, dtype=torch.long), torch.randn(3, 5, actions)
    target = torch.rand(5)

    def policy_loss():
        path = rollout(model, actor, z, task, noise)
        return -objective(model, critic, path, task, 0.99, episodes_end=False).returns.mean()

    same_value_and_gradient(policy_loss, actor)
    same_value_and_gradient(lambda: critic_loss(critic, z, target), critic)
