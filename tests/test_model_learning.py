"""The world model's losses against their equations, written out in `eager_model`, and its updates against autograd."""

import copy

import eager_model
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import TINY, make_batch, make_model, model_config, model_settings, write_episodes
from torch.nn import functional as F

from pwm.config import WorldModelConfig
from pwm.data.batch import Batch
from pwm.data.episodes import Episodes, EpisodeWriter
from pwm.model_learning import ModelTrainer, discount_factor, policy_prior_loss, td_target, world_model_loss
from pwm.nn.optimisation import apply_gradients, linear_decay
from pwm.nn.world_model import WorldModel
from pwm.pretrain import load_model, observation_moments, pretrain
from pwm.runs import Run

# Two hidden layers; bins in a narrow range, since symexp amplifies rounding: values of 30 have slopes to 3e-5 only.
VALUES = {"units": (16, 12), "reward_low": -1.5, "reward_high": 2.0}
few = settings(max_examples=20, deadline=None)
sizes = st.integers(1, 3)
variants = st.sampled_from([{}, {"latent": "none", "activation": "relu"}, {"latent": "linear", "layer_norm": False}])


def gradient(loss, parameters):
    parts = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    zeros = (torch.zeros_like(parameter) for parameter in parameters)
    return torch.cat([(zero if part is None else part).flatten() for part, zero in zip(parts, zeros, strict=True)])


def same_gradient(loss, parameters, expected, precise):
    """To 1e-5 of the gradient's largest entry, between float32 and the equations in float64."""
    ours, theirs = gradient(loss, parameters), gradient(expected, precise).float()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, theirs.abs().max().item()))


def problem(seed, horizon, size, tasks, bins, terminations=False, **network) -> tuple[WorldModel, WorldModel, Batch]:
    """A model, the same in float64, and windows of as many tasks, the first of them narrower."""
    torch.manual_seed(seed)
    model = make_model(bins, action_dims=(1, 2, 2)[:tasks] if tasks > 1 else (2,), **network)
    batch = make_batch(horizon, size, tasks)
    batch = batch._replace(reward=4.0 * batch.reward)
    if terminations:
        batch.terminated[-1] = torch.rand(size).round()
    if not bins:
        model.reward_scale.copy_(1.7 + torch.arange(tasks))
    return model, copy.deepcopy(model).double(), batch


def double(batch):
    return Batch(*(part.double() for part in batch[:-1]), batch.task)


@few
@given(st.integers(0, 999), st.integers(1, 4), sizes, sizes, st.sampled_from([0, 7, 12]), variants)
@example(0, 32, 1, 2, 7, {})
def test_consistency_and_reward(seed, horizon, size, tasks, bins, variant):
    model, precise, batch = problem(seed, horizon, size, tasks, bins, **variant)
    config = model_settings(rho=0.7, consistency_coef=20.0, reward_coef=0.3)
    next_z = model.encode(batch.obs[1:], batch.task)
    loss, terms, z = world_model_loss(model, batch, next_z, config)
    consistency, reward, _, latents = eager_model.losses(eager_model.eager(precise), double(batch), 0.7)
    expected = 20.0 * consistency + 0.3 * reward
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms["consistency_loss"].double(), consistency.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms["reward_loss"].double(), reward.detach(), rtol=1e-5, atol=1e-5)
    latents = torch.stack([torch.stack(window) for window in latents], dim=1)
    torch.testing.assert_close(z.double(), latents, rtol=1e-5, atol=1e-5)
    same_gradient(loss, list(model.parameters()), expected, list(precise.parameters()))


@few
@given(seed=st.integers(0, 999), horizon=st.integers(1, 3), size=sizes, tasks=sizes, members=st.permutations([0, 1, 2]))
def test_value_targets(seed, horizon, size, tasks, members):
    model, precise, batch = problem(seed, horizon, size, tasks, bins=7, terminations=True, num_q=3, **VALUES)
    discount, noise = torch.tensor([0.95, 0.99, 0.9])[:tasks], torch.randn(horizon, size, 2)
    next_z, members = model.encode(batch.obs[1:], batch.task), torch.tensor(members[:2])
    target = td_target(model, batch, next_z, discount[batch.task], noise, members)
    expected = eager_model.td_targets(eager_model.eager(precise), double(batch), discount, noise, members.tolist())
    assert not target.requires_grad
    torch.testing.assert_close(target.double(), expected, rtol=1e-5, atol=1e-5)


def dropout_factors(model, seed, members, *shape):
    """What the model drops after `torch.manual_seed(seed)`, by [k, t, b], and scales up."""
    torch.manual_seed(seed)
    ones = torch.ones(members, shape[0] * shape[1], model.config.units[0])
    return F.dropout(ones, model.config.dropout).unflatten(1, shape).double()


@few
@given(
    seed=st.integers(0, 999), horizon=st.integers(1, 3), size=sizes, tasks=sizes, dropout=st.sampled_from([0.0, 0.3])
)
def test_value_loss(seed, horizon, size, tasks, dropout):
    model, precise, batch = problem(seed, horizon, size, tasks, bins=7, num_q=3, dropout=dropout, **VALUES)
    config = model_settings(rho=0.7, consistency_coef=20.0, reward_coef=0.3, value_coef=0.2)
    next_z, target = model.encode(batch.obs[1:], batch.task), 9.0 * torch.randn(horizon, size)
    factors = dropout_factors(model, seed, 3, horizon, size)
    torch.manual_seed(seed)
    loss, terms, _ = world_model_loss(model, batch, next_z, config, target)
    eager = eager_model.eager(precise)
    consistency, reward, value, _ = eager_model.losses(eager, double(batch), 0.7, target, factors)
    expected = 20.0 * consistency + 0.3 * reward + 0.2 * value
    torch.testing.assert_close(terms["value_loss"].double(), value.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    learned, precisely = ([p for p in m.parameters() if p.requires_grad] for m in (model, precise))
    assert torch.autograd.grad(loss, model.q_heads.layers[0].linear.weight, retain_graph=True)[0].abs().max() > 0
    same_gradient(loss, learned, expected, precisely)


@few
@given(seed=st.integers(0, 999), steps=sizes, size=st.integers(1, 4), tasks=sizes, members=st.permutations([0, 1, 2]))
def test_policy_prior_loss(seed, steps, size, tasks, members):
    model, precise, batch = problem(seed, steps, size, tasks, bins=7, num_q=3, dropout=0.3, **VALUES)
    config = model_settings(rho=0.7, entropy_coef=0.05, target_rate=0.2)
    z, noise = torch.rand(steps, size, 16, requires_grad=True), torch.randn(steps, size, 2)
    members = torch.tensor(members[:2])
    factors = dropout_factors(model, seed, 2, steps, size)
    torch.manual_seed(seed)
    loss, scale = policy_prior_loss(model, z, batch.task, noise, members, torch.tensor(1.5), config)
    inputs = z.double(), batch.task, noise.double(), members.tolist(), 1.5, config, factors
    expected, expected_scale = eager_model.prior_loss(eager_model.eager(precise), *inputs)
    assert scale.item() == pytest.approx(expected_scale, rel=1e-5)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    same_gradient(loss, list(model.policy_prior.parameters()), expected, list(precise.policy_prior.parameters()))
    assert torch.autograd.grad(loss, z, allow_unused=True) == (None,)


def test_targets_get_no_gradient():
    torch.manual_seed(0)
    model, config, batch = make_model(), model_settings(consistency_coef=20.0), make_batch(horizon=3, size=4)
    later = batch.obs[1:].clone().requires_grad_()
    next_z = model.encode(later, batch.task)
    batch = batch._replace(obs=torch.cat([batch.obs[:1], later]))
    loss, _, _ = world_model_loss(model, batch, next_z, config)
    assert torch.autograd.grad(loss, later, retain_graph=True)[0].abs().max() == 0
    # and the comparison with the equations can tell: with that gradient, another one comes out
    ours = gradient(loss, list(model.encoder.parameters()))
    with_it = loss + 20.0 * F.mse_loss(model.unroll(model.encode(batch.obs[0], batch.task), *batch[1::3])[1:], next_z)
    assert (gradient(with_it, list(model.encoder.parameters())) - ours).norm() > 0.05 * ours.norm()


@pytest.mark.parametrize(("length", "discount"), [(3, 0.95), (100, 0.95), (250, 0.98), (500, 0.99), (9999, 0.995)])
def test_discount_follows_the_episode_length(length, discount):
    assert discount_factor(length) == pytest.approx(discount)


def test_gradients_are_clipped_by_their_global_norm():
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    optimiser = torch.optim.SGD(parameters, lr=1.0)
    norm = apply_gradients(optimiser, parameters, [torch.tensor([3.0, 0.0]), torch.tensor([4.0])], limit=1.0)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(parameters[0].data, torch.tensor([-0.6, 0.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(parameters[1].data, torch.tensor([-0.8]), rtol=1e-5, atol=0)
    apply_gradients(optimiser, parameters, [torch.tensor([0.1, 0.0]), torch.tensor([0.0])], limit=1.0)
    torch.testing.assert_close(parameters[0].data, torch.tensor([-0.7, 0.0]), rtol=1e-5, atol=0)  # below the limit


def test_linear_decay():
    assert [linear_decay(5.0, 1.0, share) for share in (0.0, 0.25, 1.0)] == [5.0, 4.0, 1.0]


def clipped_step(optimiser, parameters, loss, limit):
    """One step of plain autograd, with the norm clipped by hand."""
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.sqrt(sum((part**2).sum() for part in gradients))
    for parameter, part in zip(parameters, gradients, strict=True):
        parameter.grad = part * min(1.0, limit / norm.item())
    optimiser.step()
    return norm.item()


@pytest.mark.parametrize("num_q", [0, 3])
def test_update_is_clipped_adam_steps(num_q):
    """Of encoder and the rest at their rates, then of the prior, then the targets follow."""
    torch.manual_seed(0)
    changes = {"learning_rate": 1e-2, "final_lr": 2e-3, "encoder_lr_scale": 0.3, "grad_norm": 0.3, "target_rate": 0.2}
    config = model_settings(7, **changes, value_coef=2.0)
    model = make_model(7, action_dims=(1, 2), num_q=num_q, dropout=0.0)
    plain, discount = copy.deepcopy(model), torch.tensor([0.9, 0.99])
    trainer = ModelTrainer(model, config, discount)
    learned = {key: p for key, p in plain.named_parameters() if not key.startswith(("target", "policy", "encoder"))}
    groups = [{"params": plain.encoder.parameters()}, {"params": learned.values()}]
    optimiser = torch.optim.Adam(groups)
    prior = list(plain.policy_prior.parameters()) if num_q else []
    prior_optimiser = torch.optim.Adam(prior, eps=1e-5) if num_q else None
    scale, norms = torch.ones(()), []
    for i, rate in enumerate((1e-2, 6e-3, 2e-3)):
        batch = make_batch(horizon=3, size=4, tasks=2)
        torch.manual_seed(i)
        metrics = trainer.update(batch, progress=i / 2)
        torch.manual_seed(i)
        next_z, target = plain.encode(batch.obs[1:], batch.task), None
        if num_q:
            noise, members = torch.randn(3, 4, 2), torch.randperm(3)[:2]
            target = td_target(plain, batch, next_z, discount[batch.task], noise, members)
        loss, terms, z = world_model_loss(plain, batch, next_z, config, target)
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = 0.3 * rate, rate
        norms.append(clipped_step(optimiser, [*plain.encoder.parameters(), *learned.values()], loss, 0.3))
        assert metrics["model_grad_norm"].item() == pytest.approx(norms[-1], rel=1e-4)
        assert metrics["model_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        assert all(metrics[name].item() == pytest.approx(value.item(), rel=1e-4) for name, value in terms.items())
        if num_q:
            noise, members = torch.randn(4, 4, 2), torch.randperm(3)[:2]
            loss, scale = policy_prior_loss(plain, z, batch.task, noise, members, scale, config)
            prior_optimiser.param_groups[0]["lr"] = rate
            norm = clipped_step(prior_optimiser, prior, loss, 0.3)
            assert metrics["prior_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
            assert metrics["prior_grad_norm"].item() == pytest.approx(norm, rel=1e-4)
            assert metrics["value_scale"].item() == pytest.approx(scale.item(), rel=1e-4)
            for slow, fast in zip(plain.target_q_heads.parameters(), plain.q_heads.parameters(), strict=True):
                slow.data = 0.8 * slow.data + 0.2 * fast.data
    assert max(norms) > 0.3 and (num_q == 0 or scale != 1)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, msg=name)


def test_state_is_whole():
    """A trainer restored from another's state goes on as that one does, to the bit."""
    torch.manual_seed(0)
    config, discount = model_settings(7, num_q=3), torch.tensor([0.9])
    first = ModelTrainer(make_model(7, num_q=3), config, discount)
    for _ in range(2):
        first.update(make_batch(3, 6), 0.0)
    second = ModelTrainer(make_model(7, num_q=3), config, discount)
    second.restore(copy.deepcopy(first.state()))
    assert first.value_scale != 1
    batch, metrics = make_batch(3, 6), []
    for trainer in (first, second):
        torch.manual_seed(1)
        metrics.append(trainer.update(batch, 0.0))
    assert all(torch.equal(value, metrics[1][name]) for name, value in metrics[0].items())
    for (name, ours), theirs in zip(first.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_pwms_objective_leaves_the_values_alone():
    """Fine-tuning a multi-task model by consistency and reward, as extraction may."""
    torch.manual_seed(0)
    model = make_model(7, num_q=3)
    before = copy.deepcopy(model.state_dict())
    config = model_settings(7, num_q=3).model_copy(update={"value_coef": 0.0})
    metrics = ModelTrainer(model, config, torch.tensor([0.99])).update(make_batch(3, 4), 0.0)
    moved = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"encoder", "dynamics", "reward_head"}
    assert metrics.keys() == {"model_loss", "consistency_loss", "reward_loss", "model_grad_norm"}


def test_dropout_is_on_in_updates_only():
    torch.manual_seed(0)
    model, batch = make_model(7, num_q=3, dropout=0.5), make_batch(3, 4)
    trainer = ModelTrainer(model, model_settings(7, num_q=3), torch.tensor([0.99]))
    flags, forward = [], model.q_output
    model.q_output = lambda *given: flags.append(model.training) or forward(*given)
    trainer.update(batch, 0.0)
    assert flags == [True]
    assert not model.training
    z = torch.rand(3, 4, 16)
    with torch.no_grad():
        same = [model.q_output(z, batch.action, batch.task) for _ in range(2)]
        model.train()
        dropped = [model.q_output(z, batch.action, batch.task) for _ in range(2)]
        target = [model.q_value(z, batch.action, batch.task, target=True) for _ in range(2)]
    assert torch.equal(*same) and torch.equal(*target) and not torch.allclose(*dropped)
    assert not torch.allclose(dropped[0], same[0])
    pairs = {tuple(sorted(trainer._draw_members().tolist())) for _ in range(60)}
    assert pairs == {(0, 1), (0, 2), (1, 2)}


def test_training_that_explodes_is_stopped(tmp_path, monkeypatch):
    """A learning rate far too high, with nothing that bounds the latent: the step and the term are named."""
    monkeypatch.chdir(tmp_path)
    network = WorldModelConfig(**TINY, reward_bins=0, latent="linear", layer_norm=False)
    config = model_config("hopper", updates=200, learning_rate=1e3, final_lr=1e3)
    config = config.model_copy(update={"settings": config.settings.model_copy(update={"world_model": network})})
    run = Run(tmp_path / "model", config, save_every=0.0)
    with pytest.raises(
        FloatingPointError, match=r"update \d+: (model|consistency|reward)_\w+ is \S+: training diverged"
    ):
        pretrain(run, [Episodes.open(write_episodes(tmp_path / "data", "hopper"))])
    kept = torch.load(run.state_folder / "state.pt", weights_only=True)["state"]["trainer"]["model"]
    assert all(value.isfinite().all() for value in kept.values())


def test_moments_are_those_of_all_observations(tmp_path):
    """Episodes of several lengths: the rows behind an episode's end do not count; a constant is divided by 1."""
    writer = EpisodeWriter(tmp_path / "data", "hopper", 3, 1, episode_length=9, episodes=3)
    rng, seen = np.random.default_rng(0), []
    for n in (9, 2, 5):
        seen.append(np.float32(rng.normal([100.0, -2.0, 0.0], [0.5, 30.0, 0.0], (n + 1, 3))))
        writer.add(seen[-1], rng.uniform(-1, 1, (n, 1)), rng.normal(size=n), terminated=n < 9)
    writer.commit({"behaviour": "made up"}, 0)
    mean, std = observation_moments(Episodes.open(tmp_path / "data"))
    rows = np.concatenate(seen).astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(std, [rows[:, 0].std(), rows[:, 1].std(), 1.0], rtol=1e-6)


def test_pretraining_standardises_every_tasks_observations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = ("walker-walk", "hopper")
    config = model_config(*tasks, updates=1)
    network = config.settings.world_model.model_copy(update={"standardise_obs": True})
    config = config.model_copy(update={"settings": config.settings.model_copy(update={"world_model": network})})
    data = [Episodes.open(write_episodes(tmp_path / name, name, seed=i)) for i, name in enumerate(tasks)]
    pretrain(Run(tmp_path / "model", config), data)
    model, _ = load_model(tmp_path / "model")
    for index, episodes in enumerate(data):
        rows = np.concatenate([obs[: n + 1] for obs, n in zip(episodes.obs, episodes.length, strict=True)])
        own = rows.shape[1]
        np.testing.assert_allclose(model.standardise.mean[index, :own], rows.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.standardise.std[index, :own], rows.std(0), rtol=1e-5)
    assert (model.standardise.mean[1, 11:] == 0).all() and (model.standardise.std[1, 11:] == 1).all()  # padding
