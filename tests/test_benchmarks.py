"""What the benchmarks compare does the same work: the plain updates end with the weights that ours end with."""

import copy
import shutil

import pytest
import torch
from support import TINY_POLICY, make_batch, make_model, model_settings, refusal

from benchmarks.plain import PlainModel, PlainPolicy, critics_of, q_functions_of
from pwm import model_learning
from pwm.agent import PolicyTrainer
from pwm.config import ExtractConfig
from pwm.model_learning import ModelTrainer
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.optimisation import compiled

UPDATES = 3


def assert_same_weights(ours, plain, before):
    """Equal to 1e-5, and moved away from `before`."""
    for (name, a), b, old in zip(ours.named_parameters(), plain.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert (a - old).abs().max() > 1e-4, name


@pytest.mark.parametrize(
    "compile",
    [False, pytest.param(True, marks=pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"))],
)
def test_policy_update(compile):
    torch.manual_seed(0)
    model = make_model(bins=11)
    config = ExtractConfig(horizon=4, updates=1000, critic_passes=2, compile=compile, **TINY_POLICY)
    actor = Actor(model.config.latent_dim, model.action_dim, config.actor_units)
    critic = Critic(model.config.latent_dim, config.critic_units, config.critics)
    before = copy.deepcopy(actor), critics_of(critic)
    # Constant learning rates, as the plain version has them.
    config = config.model_copy(update={"final_lr": config.actor_lr})
    trainer = PolicyTrainer(model, actor, critic, config)
    plain = PlainPolicy(trainer)
    z, task = torch.rand(12, model.config.latent_dim), torch.zeros(12, dtype=torch.long)
    for update in (lambda: trainer.update(z, task), lambda: plain.update(z, task)):
        torch.manual_seed(1)
        for _ in range(UPDATES):
            update()
    assert_same_weights(actor, plain.actor, before[0])
    assert_same_weights(critics_of(critic), plain.critics, before[1])


@pytest.mark.parametrize("rows", [1024, 12])
@pytest.mark.parametrize("with_value", [False, True])
def test_model_update(with_value, rows, monkeypatch):
    """Also where the time steps are taken two at a time."""
    monkeypatch.setattr(model_learning, "BLOCK_ROWS", rows)
    torch.manual_seed(0)
    tasks = {"action_dims": (1, 2), "num_q": 3, "dropout": 0.0} if with_value else {}
    model, settings = make_model(bins=11 if with_value else 0, **tasks), model_settings()
    discount = torch.tensor([0.9, 0.95])[: len(model.action_mask)]
    before = copy.deepcopy(model)
    trainer, plain = ModelTrainer(model, settings, discount), PlainModel(model, settings, discount)
    batch = make_batch(4, 6, tasks=len(discount))
    for update in (lambda: trainer.update(batch, 0.0), lambda: plain.update(batch)):
        torch.manual_seed(1)
        for _ in range(UPDATES):
            update()
    parts = ["encoder", "dynamics", "reward_head"] + ["policy_prior"] * with_value
    for part in parts:
        assert_same_weights(*(getattr(owner, part) for owner in (model, plain.model, before)))
    if with_value:
        for ours, theirs, old in (
            (model.q_heads, plain.q_functions, before.q_heads),
            (model.target_q_heads, plain.targets, before.target_q_heads),
        ):
            assert_same_weights(q_functions_of(ours), theirs, q_functions_of(old))


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    loss = lambda: 0.0  # noqa: E731
    assert compiled(loss, False, torch.device("cpu")) is loss
    refusal(lambda: compiled(loss, True, torch.device("cpu")), "C++ compiler", "set compile: false")
