"""The updates of world model, actor and critic against plain autograd, and against values known beforehand."""

import copy

import numpy as np
import pytest
import torch
from eager_policy import Problem, actor_loss, unroll_all
from hypothesis import given, settings
from hypothesis import strategies as st
from support import make_model
from torch.nn import functional as F

from pwm.agent import PolicyTrainer, RunningVariance
from pwm.config import ExtractConfig
from pwm.extract import latent_policy
from pwm.nn.actor_critic import Actor, Critic

GAMMA = 0.9
POLICY = {"updates": 10, "batch_size": 6, "horizon": 3, "actor_units": (8,), "critic_units": (8,), "gamma": GAMMA}


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_running_variance_is_that_of_all_values(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(3.0 * i, 1.0 + i, size) for i, size in enumerate(sizes)]
    exact, usual = RunningVariance(count=0.0), RunningVariance()
    for part in parts:
        exact.update(torch.from_numpy(part))
        usual.update(torch.from_numpy(part).reshape(1, -1))
    everything = np.concatenate(parts)
    assert exact.mean == pytest.approx(everything.mean())
    assert exact.variance == pytest.approx(everything.var(), abs=1e-9)
    assert exact.std == pytest.approx(np.sqrt(everything.var() + 1e-5))
    assert exact.count == len(everything)
    # The start counts as 1e-4 values of mean 0 and variance 1.
    weights = np.append(np.ones(len(everything)), 1e-4)
    mean = np.average(np.append(everything, 0), weights=weights)
    squares = np.append((everything - mean) ** 2, 1.0 + mean**2)
    assert usual.variance == pytest.approx(np.average(squares, weights=weights))
    assert RunningVariance(*usual.state()).state() == usual.state()


def clipped_step(optimiser, module, loss, limit):
    """One step of plain autograd, with the norm clipped by hand."""
    module.zero_grad()
    loss.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in module.parameters()))
    for p in module.parameters():
        p.grad *= min(1.0, limit / norm.item())
    optimiser.step()
    return norm.item()


def same_parameters(a, b, **tolerance):
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, **(tolerance or {"rtol": 0, "atol": 0}))


def make_trainer(**changes):
    torch.manual_seed(0)
    config = ExtractConfig(**POLICY | changes)
    model, actor = make_model(), Actor(16, 2, config.actor_units)
    return PolicyTrainer(model, actor, Critic(16, config.critic_units, config.critics), config)


def test_actor_update_ascends_the_normalised_objective():
    """Three updates: the loss −J / running std, clipping, Adam with betas, and both rates decaying linearly."""
    limit = 0.05
    trainer = make_trainer(actor_lr=1e-2, critic_lr=2e-2, final_lr=1e-3, actor_grad_norm=limit)
    trainer.model.double(), trainer.actor.double(), trainer.critic.double()
    actor = copy.deepcopy(trainer.actor)
    optimiser = torch.optim.Adam(actor.parameters(), 1e-2, (0.7, 0.95))
    history, task = [], torch.zeros(6, dtype=torch.long)
    for k in range(3):
        z, critic = torch.rand(6, 16, dtype=torch.float64), copy.deepcopy(trainer.critic)
        before = torch.get_rng_state()
        metrics = trainer.update(z, task)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        noise = torch.randn(3, 6, 2)  # the policy's noise is drawn first
        torch.set_rng_state(after)
        paths = unroll_all(Problem(trainer.model, actor, critic, z, task, noise, None), trainer.config)
        loss = actor_loss(paths, history)
        optimiser.param_groups[0]["lr"] = 1e-2 + (1e-3 - 1e-2) * k / 10
        norm = clipped_step(optimiser, actor, loss, limit)
        assert trainer.critic_optimiser.param_groups[0]["lr"] == pytest.approx(2e-2 + (1e-3 - 2e-2) * k / 10)
        assert metrics["value"].item() == pytest.approx(np.mean(history[-6:]), rel=1e-5)
        assert metrics["actor_grad_norm"].item() == pytest.approx(norm, rel=1e-2) and norm > limit
        same_parameters(trainer.actor, actor, rtol=1e-3, atol=1e-5)
    assert trainer.updates == 3


def test_log_std_stays_at_its_floor_and_can_leave_it():
    trainer = make_trainer(actor_lr=1e-2)
    with torch.no_grad():
        trainer.actor.log_std.fill_(-1.42)
    floor = torch.tensor([-1.427, -1.427])
    for wanted in (-1.0, 1.0):  # the sign of the noise's worth
        trainer.critic.minimum = lambda z: z.sum(-1)
        trainer.model.next = lambda z, action, task: z
        trainer.model.reward = lambda z, action, task, sign=wanted: sign * action.atanh().square().sum(-1)
        trainer.update(torch.rand(64, 16), torch.zeros(64, dtype=torch.long))
        if wanted < 0:
            torch.testing.assert_close(trainer.actor.log_std.data, floor)
    assert (trainer.actor.log_std > floor).all()


def every_step(terminates):
    """An environment where an episode ends at every step."""

    def environment(action):
        ones = torch.ones(len(action))
        return ones, ones * terminates, torch.rand(len(action), 16)

    return environment


@pytest.mark.parametrize(
    ("environment", "value"),
    [(None, 2.0), (every_step(terminates=0.0), 2.0), (every_step(terminates=1.0), 1.0)],
    ids=["no end", "truncated", "terminated"],
)
def test_critic_learns_the_value(environment, value):
    """Reward 1 at every step and γ = 1/2: V = 1 / (1 − γ) = 2, and V = 1 where every step is the last."""
    trainer = make_trainer(gamma=0.5, critic_lr=2e-2, final_lr=1e-3, updates=40)
    with torch.no_grad():
        trainer.model.reward_head[-1].weight.zero_()
        trainer.model.reward_head[-1].bias.fill_(1.0)
    for _ in range(40):
        metrics = trainer.update(torch.rand(16, 16), torch.zeros(16, dtype=torch.long), environment)
    z = torch.rand(50, 16).softmax(-1) if environment is None else torch.rand(50, 16)
    z = z if environment else trainer.model.next(z, torch.rand(50, 2), torch.zeros(50, dtype=torch.long))
    torch.testing.assert_close(trainer.critic(z), torch.full((3, 50), value), rtol=0.1, atol=0)
    assert metrics["critic_loss"] < 0.02


def test_critic_passes_are_minibatch_steps_to_fixed_targets(monkeypatch):
    """Every pass is a permutation of the rollout's H · B states, each with the target it had before the passes."""
    seen = []

    def record(critic, z, target):
        seen.append((z.clone(), target.clone()))
        return (critic(z) - target).square().mean()

    monkeypatch.setattr("pwm.agent.critic_loss", record)
    trainer = make_trainer(critic_passes=3, critic_minibatches=4)
    trainer.update(torch.rand(6, 16), torch.zeros(6, dtype=torch.long))
    assert [len(z) for z, _ in seen] == [5, 5, 5, 3] * 3

    def rows(part):
        joined = torch.cat([torch.cat([z, target[:, None]], 1) for z, target in part])
        return sorted(map(tuple, joined.tolist()))

    assert rows(seen[:4]) == rows(seen[4:8]) == rows(seen[8:]) and len(set(rows(seen[:4]))) == 18
    assert not torch.equal(seen[0][0], seen[4][0])


def test_policy_update_leaves_the_world_model_alone():
    trainer = make_trainer()
    before = copy.deepcopy(trainer.model.state_dict())
    actor, critic = copy.deepcopy(trainer.actor), copy.deepcopy(trainer.critic)
    for _ in range(3):
        trainer.update(torch.rand(6, 16), torch.zeros(6, dtype=torch.long))
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in trainer.model.parameters())
    for old, new in ((actor, trainer.actor), (critic, trainer.critic)):
        assert all(not torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


def test_the_same_seed_gives_the_same_policy():
    def trained(seed):
        trainer = make_trainer()
        torch.manual_seed(seed)
        for _ in range(4):
            trainer.update(torch.rand(6, 16), torch.zeros(6, dtype=torch.long))
        return trainer

    a, b, other = trained(1), trained(1), trained(2)
    same_parameters(a.actor, b.actor)
    same_parameters(a.critic, b.critic)
    assert a.return_scale.state() == b.return_scale.state()
    assert not torch.equal(a.actor.log_std, other.actor.log_std)


def test_saturation_counts_actions_near_the_bounds():
    trainer = make_trainer(horizon=1)
    with torch.no_grad():
        trainer.actor.mean[-1].weight.zero_()
        trainer.actor.mean[-1].bias.copy_(torch.tensor([50.0, 0.0]))
        trainer.actor.log_std.fill_(-1.427)  # the second action stays within tanh(0.24 ε)
    metrics = trainer.update(torch.rand(6, 16), torch.zeros(6, dtype=torch.long))
    assert metrics["saturation"].item() == 0.5


def test_latent_policy_pads_encodes_and_cuts():
    """A narrow task of a wide model: zeros fill its observations, only its own actions come out."""
    torch.manual_seed(0)
    model, actor = make_model(bins=11, action_dims=(3, 2)), Actor(16, 3, (8,))
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    action = latent_policy(model, actor, 1, 2)(obs, np.zeros(4, bool))
    padded = F.pad(torch.from_numpy(obs), (0, 2))
    z = model.encode(padded, torch.ones(4, dtype=torch.long))
    np.testing.assert_allclose(action, torch.tanh(actor.mean(z))[:, :2].detach().numpy(), rtol=1e-6)
    assert action.shape == (4, 2)
    assert not np.allclose(action, latent_policy(model, actor, 0, 2)(obs, np.zeros(4, bool)))
