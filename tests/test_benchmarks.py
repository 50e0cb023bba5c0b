"""What the benchmarks compare does the same work: the plain updates end with the weights that ours end with."""

import copy
import functools
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from project_copy import ROOT
from support import TINY_POLICY, make_batch, make_model, model_settings

from benchmarks import planning, together, updates
from benchmarks.plain import PlainModel, PlainPolicy, critics_of, q_functions_of
from pwm import model_learning
from pwm.agent import PolicyTrainer
from pwm.config import MODEL_SIZES, ExtractConfig, PretrainConfig, WorldModelConfig
from pwm.model_learning import ModelTrainer
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.fused import _library, available, fused, fused_layers

UPDATES = 3


def assert_same_weights(ours, plain, before):
    """Equal to 1e-5, and moved away from `before`."""
    for (name, a), b, old in zip(ours.named_parameters(), plain.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert (a - old).abs().max() > 1e-4, name


COMPILE = [False, pytest.param(True, marks=pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"))]


@pytest.mark.parametrize("compile", COMPILE)
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
@pytest.mark.parametrize("compile", COMPILE)
def test_model_update(compile, with_value, rows, monkeypatch):
    """Also where the time steps are taken two at a time."""
    monkeypatch.setattr(model_learning, "BLOCK_ROWS", rows)
    torch.manual_seed(0)
    tasks = {"action_dims": (1, 2), "num_q": 3, "dropout": 0.0} if with_value else {}
    model, settings = make_model(bins=11 if with_value else 0, **tasks), model_settings(compile=compile)
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


def test_without_a_compiler_layers_are_not_fused_and_a_line_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("pwm.nn.fused._library", _library.__wrapped__)
    monkeypatch.setattr("pwm.nn.fused.available", functools.cache(available.__wrapped__))
    for _ in range(2):
        with fused_layers(True):
            assert not fused(torch.ones(1))
    assert re.fullmatch(r"warning: layers are not fused.* install g\+\+\n", capsys.readouterr().err)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "rivals",
    [
        lambda: updates.policy_updates("single", "single", 4, CPU),
        lambda: updates.model_updates("single", "single", 4, CPU),
        lambda: updates.model_updates("5", "multi", 4, CPU),
        lambda: planning.plans(2, CPU, iterations=1, samples=20, elites=4, prior_samples=4),
    ],
)
def test_every_rival_runs_and_does_the_same_products(rivals):
    counts = {name: updates.flops(work) for name, work in rivals().items()}
    assert counts.keys() - {"plain"} == updates.versions(CPU).keys() >= {"float32", "bfloat16"}
    assert counts["bfloat16"] == counts["float32"] > 1e8
    # A fused layer also gives the gradient of an input that depends on weights that this loss does not train.
    assert all(1.0 <= counts[name] / counts["float32"] < 1.03 for name in updates.versions(CPU))
    assert counts["plain"] >= counts["float32"]
    times = updates.seconds({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.02)}, CPU, rounds=3)
    assert times["short"] < times["long"]


@pytest.mark.parametrize(
    "rivals",
    [
        lambda: together.decisions(3, CPU, iterations=1, samples=20, elites=4, prior_samples=4),
        lambda: together.updates(3, CPU, 4),
    ],
)
def test_runs_together_do_the_products_of_each(rivals):
    alone, at_once = map(updates.flops, rivals())
    assert at_once / alone == pytest.approx(3.0, rel=0.03)


def test_products_are_counted_forward_and_backward():
    x, w = torch.randn(7, 5), torch.randn(5, 3, requires_grad=True)
    assert updates.flops(lambda: (x @ w).sum().backward()) == 2 * (2 * 7 * 5 * 3)


def test_the_benchmark_of_updates_runs_where_only_torch_is_installed():
    """And takes the settings there that pydantic makes here."""
    code = """
import json, sys
sys.modules.update(dict.fromkeys(["numpy", "pydantic", "yaml", "safetensors", "gymnasium", "mujoco", "pandas", "tqdm"]))
import torch
from benchmarks import updates
trainings = [updates.ExtractConfig(), updates.PretrainConfig()]
networks = [updates.WorldModelConfig(size=size) for size in updates.MODEL_SIZES]
print(json.dumps([trainings, networks], default=vars))
updates.VERSIONS = {"float32": {}, "bfloat16": {"precision": "bfloat16"}}
for make in (updates.policy_updates, updates.model_updates):
    for work in make("single", "single", 4, torch.device("cpu")).values():
        work()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trainings, networks = json.loads(done.stdout)
    assert trainings == [cls().model_dump(mode="json") for cls in (ExtractConfig, PretrainConfig)]
    assert networks == [WorldModelConfig(size=size).model_dump(mode="json") for size in MODEL_SIZES]
