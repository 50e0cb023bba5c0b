"""Products in bfloat16: what stays in full precision does, gradients point the same way, and learning is not hurt."""

import pytest
import torch
from support import make_batch, make_model, model_settings

from pwm.agent import objective, rollout
from pwm.config import ExtractConfig
from pwm.data.batch import Batch
from pwm.model_learning import ModelTrainer, world_model_loss
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.layers import products_in

CPU = torch.device("cpu")


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


def same_direction(loss, module):
    """Values within 2%, gradients within 8 degrees; and not equal, so that low precision was at work."""
    results = []
    for precision in ("float32", "bfloat16"):
        with products_in(precision, CPU):
            value = loss()
        results.append((value, flat(torch.autograd.grad(value, list(module.parameters())))))
    (value, gradient), (low_value, low_gradient) = results
    assert low_value.dtype == low_gradient.dtype == torch.float32
    assert low_value.item() == pytest.approx(value.item(), rel=0.02)
    assert torch.cosine_similarity(gradient, low_gradient, dim=0) > 0.99
    assert not torch.equal(gradient, low_gradient)


@pytest.mark.parametrize("bins", [0, 11])
def test_world_model_loss(bins):
    torch.manual_seed(0)
    model, batch = make_model(bins), make_batch(4, 32)
    next_z = model.encode(batch.obs[1:], batch.task).detach()
    same_direction(lambda: world_model_loss(model, batch, next_z, model_settings(bins))[0], model)


def test_policy_loss():
    torch.manual_seed(0)
    model, config = make_model(11), ExtractConfig()
    actor, critic = Actor(16, 2, (16,)), Critic(16, (16,), 3)
    z, task, noise = torch.rand(64, 16), torch.zeros(64, dtype=torch.long), torch.randn(4, 64, 2)

    def loss():
        return -objective(model, critic, rollout(model, actor, z, task, noise), task, config, False).returns.mean()

    same_direction(loss, actor)


def test_observations_are_encoded_in_full_precision():
    torch.manual_seed(0)
    model, obs, task = make_model(), torch.randn(9, 5), torch.zeros(9, dtype=torch.long)
    exact = model.encode(obs, task)
    with products_in("bfloat16", CPU):
        assert torch.equal(model.encode(obs, task), exact)


def system(size, horizon, generator):
    """Windows of a fixed nonlinear system."""
    weights = torch.Generator().manual_seed(7)
    a, b = torch.randn(5, 5, generator=weights) / 2, torch.randn(2, 5, generator=weights)
    obs, action = [torch.randn(size, 5, generator=generator)], torch.rand(horizon, size, 2, generator=generator) * 2 - 1
    for u in action:
        obs.append(torch.tanh(obs[-1] @ a + u @ b))
    reward = torch.stack(obs[1:])[..., 0] - 0.1 * action.square().sum(-1)
    return Batch(torch.stack(obs), action, reward, torch.zeros_like(reward), torch.zeros(size, dtype=torch.long))


def test_a_world_model_learns_as_well():
    """Loss on fresh windows, which both bring down tenfold."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        settings = model_settings(precision=precision, learning_rate=3e-3, final_lr=1e-4)
        model, generator = make_model(), torch.Generator().manual_seed(0)
        trainer, fresh = ModelTrainer(model, settings, torch.ones(1)), system(256, 4, torch.Generator().manual_seed(1))

        def held_out(model=model, fresh=fresh, settings=settings):
            with torch.no_grad():
                return world_model_loss(model, fresh, model.encode(fresh.obs[1:], fresh.task), settings)[0].item()

        before = held_out()
        for update in range(400):
            trainer.update(system(64, 4, generator), update / 400)
        losses[precision] = held_out()
        assert losses[precision] < 0.1 * before
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses["bfloat16"] < 1.1 * losses["float32"]
