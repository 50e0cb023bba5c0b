"""Fused layers against the same equations in float64, and whole losses with them against those without."""

import platform
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import make_batch, make_model, model_settings
from torch.nn import functional as F

from pwm import agent
from pwm.config import ExtractConfig
from pwm.model_learning import td_target, world_model_loss
from pwm.nn import fused
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.fused import MISH_OF_NORM, NORM_OF_MISH, ORDERS, SIMNORM_OF_NORM, fused_layer, fused_layers, kept
from pwm.nn.layers import computed, products_in

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")

CPU = torch.device("cpu")


GROUP = 4  # of SimNorm, unless said


def exact(product, bias, weight, shift, mask, scale, order, group=GROUP):
    """The equations, one operation after the other."""
    x = (product + bias) * mask * scale
    x = F.mish(x) if order == NORM_OF_MISH else x
    x = F.layer_norm(x, x.shape[-1:], weight, shift)
    if order == SIMNORM_OF_NORM:
        return x.unflatten(-1, (-1, group)).softmax(-1).flatten(-2)
    return F.mish(x) if order == MISH_OF_NORM else x


def rest_of_layer(product, bias, weight, shift, order, dropout=0.0, group=GROUP):
    """A fused layer whose product is given."""
    same, *parts = (part.unsqueeze(0) for part in (torch.eye(product.shape[1]), bias, weight, shift))
    return fused_layer([product], same, *parts, order, dropout=dropout, group=group)[0]


def value_and_gradients(function, parts, above):
    parts = [part.detach().requires_grad_() for part in parts]
    value = function(*parts)
    return value, *torch.autograd.grad(value, parts, above.to(value.dtype))


def random_layer(rows, features, size=2.0):
    product = size * torch.randn(rows, features)
    return product, torch.randn(features), 0.5 + torch.rand(features), torch.randn(features)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 70),
    groups=st.integers(2, 18),
    group=st.sampled_from([GROUP, 8]),
    dropout=st.sampled_from([0.0, 0.01, 0.5]),
    order=st.sampled_from(ORDERS),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**31),
)
def test_value_and_gradients(rows, groups, group, dropout, order, threads, seed):
    torch.manual_seed(seed)
    features = group * groups
    parts, above = random_layer(rows, features), torch.randn(rows, features)
    state = torch.get_rng_state()
    mask = kept((rows, features), dropout).double() if dropout else torch.ones(rows, features).double()
    torch.set_rng_state(state)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = value_and_gradients(lambda *parts: rest_of_layer(*parts, order, dropout, group), parts, above)
    finally:
        torch.set_num_threads(before)
    options = mask, 1.0 / (1.0 - dropout), order, group
    doubles = [part.double() for part in parts]
    expected = value_and_gradients(lambda *parts: exact(*parts, *options), doubles, above)
    scale = expected[1].abs().max().item()
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * max(1.0, scale) * max(1.0, rows**0.5))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("members", [(0, 1, 2), (2, 0)])
def test_ensembles(members, shared, dropout):
    """Products, with inputs of their own or one for all members, of all of them or of some."""
    torch.manual_seed(0)
    rows, inputs, features = 50, 20, 30
    xs = [torch.randn(rows, inputs) for _ in range(1 if shared else len(members))]
    parts = [torch.randn(3, inputs, features), *(torch.randn(3, 1, features) for _ in range(3))]
    above = torch.randn(len(members), rows, features)
    state = torch.get_rng_state()
    masks = torch.ones(len(members), rows, features).double()
    if dropout:
        masks = kept((len(members) * rows, features), dropout).double().view_as(masks)
    torch.set_rng_state(state)

    def plainly(weight, bias, scale, shift, *xs):
        options = 1.0 / (1.0 - dropout), NORM_OF_MISH
        layers = zip(members, xs * len(members) if shared else xs, masks, strict=True)
        return torch.stack(
            [exact(x @ weight[k], bias[k, 0], scale[k, 0], shift[k, 0], mask, *options) for k, x, mask in layers]
        )

    def ours(weight, bias, scale, shift, *xs):
        return torch.stack(fused_layer(xs, weight, bias, scale, shift, NORM_OF_MISH, members, dropout))

    found = value_and_gradients(ours, (*parts, *xs), above)
    for a, b in zip(found, value_and_gradients(plainly, [part.double() for part in (*parts, *xs)], above), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-5 * b.abs().max().item())


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_through_frozen_layers(order):
    torch.manual_seed(0)
    linear, parts = torch.nn.Linear(12, 32), random_layer(20, 32)[1:]
    x, above = torch.randn(20, 12), torch.randn(20, 32)

    def gradient(frozen):
        linear.requires_grad_(not frozen)
        leaf = x.clone().requires_grad_()
        (y,) = fused_layer([leaf], linear.weight, *parts, order, group=GROUP)
        return torch.autograd.grad(y, leaf, above.to(y.dtype))[0]

    assert torch.equal(gradient(True), gradient(False))


def test_a_second_backward_is_refused():
    """The gradient of the product is written over the product."""
    torch.manual_seed(0)
    x, weight = torch.randn(20, 12, requires_grad=True), torch.randn(32, 12)
    (y,) = fused_layer([x], weight, *random_layer(20, 32)[1:], MISH_OF_NORM)
    y.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_freed_memory_is_kept():
    """Once the kernels are loaded: what an update has freed a later one takes without page faults."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("of glibc")
    script = """
import resource, torch
from pwm.nn.fused import fused_layers
def update():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.ones(2**24) for _ in range(3)]  # of 16,384 pages each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for wanted in (False, True):
    with fused_layers(wanted):
        print(min(update() for _ in range(12)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    without, with_it = map(int, done.stdout.split())
    assert with_it < 0.01 * without


def test_weights_that_changed_are_cast_again():
    torch.manual_seed(0)
    product, *parts = random_layer(6, 10)
    weight = torch.eye(10).unsqueeze(0)
    parts = [part.unsqueeze(0) for part in parts]
    with computed("bfloat16", True, CPU):
        before = fused_layer([product], weight, *parts, MISH_OF_NORM)[0]
        weight.mul_(2.0)
        after = fused_layer([product], weight, *parts, MISH_OF_NORM)[0]
    with computed("bfloat16", True, CPU):
        assert torch.equal(after, fused_layer([product], weight, *parts, MISH_OF_NORM)[0])
    assert not torch.equal(before, after)
    assert not fused._cast


@pytest.mark.parametrize("order", ORDERS)
def test_low_precision_rounds_what_goes_in_and_what_products_take(order):
    torch.manual_seed(0)
    product, *parts = random_layer(300, 40)
    product, above = product.bfloat16(), torch.randn(300, 40).bfloat16().float()
    with products_in("bfloat16", CPU):
        low = value_and_gradients(lambda *parts: rest_of_layer(*parts, order), (product, *parts), above)
    full = value_and_gradients(lambda *parts: rest_of_layer(*parts, order), (product.float(), *parts), above.float())
    assert low[0].dtype == (torch.float32 if order == SIMNORM_OF_NORM else torch.bfloat16)
    for a, b in zip(low[:2], full[:2], strict=True):
        assert (a.bfloat16() == b.bfloat16()).float().mean() > 0.99
        torch.testing.assert_close(a.float(), b, rtol=2**-8, atol=1e-5)
    for a, b in zip(low[2:], full[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [200.0, 1e-6, 1e15])
def test_extremes(order, size):
    """Very large and very small numbers are right, and what is no number stays none, in its own row."""
    torch.manual_seed(0)
    product, *parts = random_layer(6, 32, size=size)
    product[3, 5], product[4, 0], product[1] = torch.nan, torch.inf, product[1].abs()
    ours = rest_of_layer(product, *parts, order)
    expected = exact(*(part.double() for part in (product, *parts)), 1.0, 1.0, order)
    assert ours[3].isnan().any() and ours[4].isnan().any()
    rest = [0, 1, 2, 5]
    torch.testing.assert_close(ours[rest].double(), expected[rest], rtol=1e-5, atol=1e-5)


def test_what_is_no_number_stays_none_in_the_gradients():
    torch.manual_seed(0)
    for order in ORDERS:
        parts, above = random_layer(6, 32), torch.randn(6, 32)
        above[2, 3] = torch.nan
        gradients = value_and_gradients(lambda *parts, order=order: rest_of_layer(*parts, order), parts, above)[1:]
        assert all(gradient.isnan().any() for gradient in gradients)


@pytest.mark.parametrize("dropout", [0.01, 0.3])
def test_numbers_are_dropped_independently(dropout):
    torch.manual_seed(0)
    dropped = 1.0 - kept((4000, 500), dropout).double()
    deviation = (dropout * (1 - dropout)) ** 0.5
    for share, count, spread in (
        (dropped.mean() - dropout, dropped.numel(), deviation),
        (dropped[:, 0].mean() - dropout, 4000, deviation),
        (dropped[-1].mean() - dropout, 500, deviation),
        ((dropped[:, 1:] * dropped[:, :-1]).mean() - dropout**2, 4000 * 499, 2 * dropout),
    ):
        assert abs(share.item()) < 5 * spread / count**0.5
    assert not torch.equal(kept((40, 50), dropout), kept((40, 50), dropout))


def assert_equal_losses(loss, module, precision="float32", tolerance=1e-5):
    results, parameters = [], [parameter for parameter in module.parameters() if parameter.requires_grad]
    for compile in (False, True):
        torch.manual_seed(1)
        with computed(precision, compile, CPU):
            value = loss()
        results.append((value, *torch.autograd.grad(value, parameters, allow_unused=True)))
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance * a.abs().max().clamp(min=1.0).item())
    return results


@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-5), ("bfloat16", 0.03)])
def test_losses(precision, tolerance, monkeypatch):
    """The world model's full loss and the policy's are those of layers that are not fused."""
    calls = []
    monkeypatch.setattr(
        fused._FusedLayer, "apply", lambda *parts, of=fused._FusedLayer.apply: calls.append(1) or of(*parts)
    )
    torch.manual_seed(0)
    model, batch = make_model(11, (1, 2), num_q=3, dropout=0.0), make_batch(4, 32, tasks=2)
    with products_in("float32", CPU):
        next_z = model.encode(batch.obs[1:], batch.task).detach()
    noise, members, discount = torch.randn(4, 32, 2), torch.tensor([2, 0]), torch.full((32,), 0.9)
    target = td_target(model, batch, next_z, discount, noise, members)
    config = model_settings(11)
    assert_equal_losses(lambda: world_model_loss(model, batch, next_z, config, target)[0], model, precision, tolerance)
    assert calls
    count = len(calls)
    actor, critic = Actor(16, 2, (16, 8)), Critic(16, (16, 8), 3)
    z = torch.rand(32, 16)

    def policy_loss():
        path = agent.rollout(model, actor, z, batch.task, noise)
        return -agent.objective(model, critic, path, batch.task, ExtractConfig(), False).returns.mean()

    assert_equal_losses(policy_loss, actor, precision, tolerance)
    values = torch.randn(32)
    assert_equal_losses(lambda: agent.critic_loss(critic, z, values), critic, precision, tolerance)
    assert len(calls) > count


def test_dropout_is_drawn_in_training_alone():
    torch.manual_seed(0)
    model, batch = make_model(11, (1, 2), num_q=3, dropout=0.5), make_batch(1, 6, tasks=2)
    z, action = torch.rand(6, 16), batch.action[0]
    with fused_layers(True), torch.no_grad():
        one, other = (model.train().q_output(z, action, batch.task) for _ in range(2))
        assert not torch.equal(one, other)
        still = model.eval().q_output(z, action, batch.task)
    torch.testing.assert_close(still, model.q_output(z, action, batch.task), rtol=1e-5, atol=1e-5)


def test_double_precision_and_other_activations_are_not_fused(monkeypatch):
    monkeypatch.setattr(fused, "_library", lambda: None)
    torch.manual_seed(0)
    batch = make_batch(1, 6)
    for model in (make_model().double(), make_model(activation="relu", latent="none"), make_model(layer_norm=False)):
        kind = next(model.parameters()).dtype
        with fused_layers(True):
            a = model.encode(batch.obs[0].to(kind), batch.task)
        assert torch.equal(a, model.encode(batch.obs[0].to(kind), batch.task))
