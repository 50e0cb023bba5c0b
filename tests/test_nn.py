"""The networks' parts against closed forms, loops written by hand and torch's own operations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.layers import SimNorm, mish, simnorm
from pwm.nn.two_hot import expectation, symexp, symlog, two_hot, two_hot_loss

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**16)


@few
@given(batch=st.lists(st.integers(1, 3), max_size=2), groups=st.integers(1, 4), group=st.integers(1, 9), seed=seeds)
def test_simnorm_is_a_softmax_per_group(batch, groups, group, seed):
    x = 5 * torch.randn(*batch, groups * group, generator=torch.Generator().manual_seed(seed))
    y = simnorm(x, group)
    assert y.shape == x.shape
    for i, row in enumerate(x.reshape(-1, groups * group)):
        for g in range(groups):
            part = row[g * group : (g + 1) * group].double().exp()
            got = y.reshape(-1, groups * group)[i, g * group : (g + 1) * group]
            torch.testing.assert_close(got.double(), part / part.sum(), rtol=1e-5, atol=1e-7)
            assert abs(got.sum().item() - 1) < 1e-5


def test_actor_and_critic_read_standardised_latents():
    """As the same networks do that are given the standardised numbers; before the moments are set, as they are."""
    torch.manual_seed(0)
    pairs = [(Actor(6, 2, (8,), standardised=True), Actor(6, 2, (8,)))]
    pairs.append((Critic(6, (8,), 3, standardised=True), Critic(6, (8,), 3)))
    z, mean, std = torch.rand(5, 6), torch.rand(6), 0.01 + torch.rand(6)
    for ours, plain in pairs:
        plain.load_state_dict({k: v for k, v in ours.state_dict().items() if not k.startswith("standardise.")})
        torch.testing.assert_close(ours(z), plain(z), rtol=0, atol=0)
        ours.standardise.fit(0, mean, std)
        by_hand = torch.tensor([[(x - m) / s for x, m, s in zip(row, mean, std, strict=True)] for row in z])
        torch.testing.assert_close(ours(z), plain(by_hand), rtol=1e-4, atol=1e-5)
        assert (ours(z) - plain(z)).abs().max() > 1e-3


def test_simnorm_gradient_and_layer():
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: simnorm(x, 4), x)
    assert torch.equal(SimNorm(4)(x), simnorm(x, 4))


def test_mish_is_torchs():
    x = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([0.0, 19.99, 20.0, 20.01, 1e4, -1e4])])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(len(x))
    (mish(ours) * weights).sum().backward()
    (F.mish(theirs) * weights).sum().backward()
    torch.testing.assert_close(mish(x), F.mish(x), rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_mish_gradient_by_finite_differences():
    x = torch.tensor([-30.0, -5, -1, 0, 0.3, 2, 15, 25], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mish, x)
    assert not mish(x.detach()).requires_grad


@few
@given(st.floats(-2e4, 2e4))
def test_symlog(x):
    value = torch.tensor(x, dtype=torch.float64)
    assert symlog(value).item() == pytest.approx(math.copysign(math.log(1 + abs(x)), x), rel=1e-12, abs=1e-12)
    assert symexp(symlog(value)).item() == pytest.approx(x, rel=1e-9, abs=1e-12)
    assert symlog(symexp(value / 1e4)).item() == pytest.approx(x / 1e4, rel=1e-9, abs=1e-12)


@few
@given(x=st.floats(-1e5, 1e5), bins=st.integers(2, 120))
def test_two_hot_weighs_the_two_nearest_bins(x, bins):
    low, high = -10.0, 10.0
    target = two_hot(torch.tensor([x], dtype=torch.float64), low, high, bins)[0].numpy()
    centres = np.linspace(low, high, bins)
    clamped = np.clip(np.sign(x) * np.log1p(abs(x)), low, high)
    assert target.min() >= 0 and target.sum() == pytest.approx(1)
    assert target @ centres == pytest.approx(clamped, abs=1e-9)
    used = np.flatnonzero(target > 1e-9)
    assert np.abs(centres[used] - clamped).max() <= centres[1] - centres[0] + 1e-9
    assert len(used) <= 2


def test_two_hot_by_hand():
    # Bins at -2, -1, 0, 1, 2 of symlog space; the ends are clamped, a bin exactly is one-hot.
    x = symexp(torch.tensor([0.25, -1.75, 1.0, -2.0, 2.0, 7.0, -7.0, 0.0], dtype=torch.float64))
    expected = [[0, 0, 0.75, 0.25, 0], [0.75, 0.25, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    expected += [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    want = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(two_hot(x, -2.0, 2.0, 5), want, rtol=0, atol=1e-12)
    assert two_hot(x.reshape(2, 4), -2.0, 2.0, 5).shape == (2, 4, 5)


def test_two_hot_round_trip():
    x = torch.tensor([-900.0, -3.2, 0.0, 0.01, 1.0, 77.0], dtype=torch.float64)
    logits = two_hot(x, -10.0, 10.0, 101).clamp(min=1e-30).log()
    torch.testing.assert_close(symexp(expectation(logits, -10.0, 10.0)), x, rtol=1e-9, atol=1e-9)
    uniform = expectation(torch.zeros(7, dtype=torch.float64), -1.0, 5.0)
    assert uniform.item() == pytest.approx(2.0)  # the middle of the bins


def test_two_hot_loss_is_least_at_the_target():
    x = torch.tensor([0.7, -12.0, 3.3], dtype=torch.float64)
    target = two_hot(x, -4.0, 4.0, 17)
    logits = torch.randn(3, 17, dtype=torch.float64)
    loss = two_hot_loss(logits, x, -4.0, 4.0)
    for i in range(3):
        p = logits[i].exp() / logits[i].exp().sum()
        assert loss[i].item() == pytest.approx(-sum((target[i] * p.log()).tolist()))
    entropy = -torch.special.xlogy(target, target).sum(-1)
    best = two_hot_loss(target.clamp(min=1e-300).log(), x, -4.0, 4.0)
    torch.testing.assert_close(best, entropy)
    assert (loss > best).all()
    logits.requires_grad_()
    gradient = torch.autograd.grad(two_hot_loss(logits, x, -4.0, 4.0).sum(), logits)[0]
    torch.testing.assert_close(gradient, logits.softmax(-1) - target)  # softmax cross-entropy's, zero at the target


def test_critic_is_an_ensemble_of_separate_mlps():
    torch.manual_seed(0)
    critic = Critic(6, (7, 5), 3)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    z = torch.randn(4, 6)
    outputs = []
    for k in range(3):
        layers = []
        for layer in critic.values:
            if not list(layer.parameters()):
                layers.append(nn.Mish())
                continue
            weight, bias = layer.weight[k].detach(), layer.bias[k, 0].detach()
            if weight.shape[0] == 1:
                layers.append(nn.LayerNorm(weight.shape[1]))
            else:
                layers.append(nn.Linear(*weight.shape))
            layers[-1].weight.data = (weight.flatten() if weight.shape[0] == 1 else weight.T).clone()
            layers[-1].bias.data = bias.clone()
        outputs.append(nn.Sequential(*layers)(z).squeeze(-1))
    kinds = [type(layer) for layer in layers]
    assert kinds == [nn.Linear, nn.Mish, nn.LayerNorm] * 2 + [nn.Linear]
    want = torch.stack(outputs)
    torch.testing.assert_close(critic(z), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(critic.minimum(z), torch.minimum(torch.minimum(want[0], want[1]), want[2]))
    assert want.std(0).min() > 1e-3  # the members differ


def test_critic_weights_start_orthogonal():
    torch.manual_seed(0)
    weight = Critic(8, (6,), 3).values[0].weight
    for k in range(3):  # scaled by √2
        torch.testing.assert_close(weight[k].T @ weight[k], 2 * torch.eye(6), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(weight[0], weight[1])


def test_actor_is_a_squashed_gaussian():
    torch.manual_seed(0)
    actor = Actor(6, 2, (5, 4))
    assert [type(layer).__name__ for layer in actor.mean] == ["Linear", "Mish", "LayerNorm"] * 2 + ["Linear"]
    assert [layer.out_features for layer in actor.mean if isinstance(layer, nn.Linear)] == [5, 4, 2]
    z, noise = torch.randn(3, 6), torch.randn(3, 2)
    x = z
    for layer in actor.mean:
        x = F.mish(x) if type(layer).__name__ == "Mish" else layer(x)
    torch.testing.assert_close(actor(z), torch.tanh(x))
    torch.testing.assert_close(actor(z, noise), torch.tanh(x + math.exp(-1) * noise))  # log-std starts at −1
    torch.testing.assert_close(actor(z, 0 * noise), actor(z))
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-5.0, 0.5]))
    torch.testing.assert_close(actor(z, noise), torch.tanh(x + torch.tensor([-5.0, 0.5]).exp() * noise))
    actor.clamp_log_std()
    torch.testing.assert_close(actor.log_std.detach(), torch.tensor([-1.427, 0.5]))
