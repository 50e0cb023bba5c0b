"""Settings: numbers as written, merging, round trips and the paper's defaults."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import model_config, run_config

from pwm.config import (
    CollectConfig,
    DataConfig,
    ExtractConfig,
    PretrainConfig,
    PWMLearner,
    WorldModelConfig,
    dump,
    load,
)
from pwm.envs.tasks import SUITES
from pwm.yaml_files import merge, read_yaml

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "+3e-4", "0.3e-3", "0.0003", "3.e-4"])
def test_numbers_are_read_as_yaml_1_2_does(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"x: {text}\ny: [{text}, -2e3, 1e, e5, 1-2e3]\n")
    data = read_yaml(tmp_path / "a.yaml")
    assert data == {"x": 3e-4, "y": [3e-4, -2000.0, "1e", "e5", "1-2e3"]}


def test_anchors_merge_and_may_be_overridden(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(tmp_path / "a.yaml")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    "config",
    [
        DataConfig(scale="test", task="hopper", seed=3, settings=CollectConfig(noise=(0.1, 1e-7))),
        DataConfig(scale="test", task="mw-reach", seed=3, settings=CollectConfig(tdmpc2=True)),
        DataConfig(scale="test", task="hopper", seed=3, settings=CollectConfig(learner=PWMLearner(algorithm="pwm"))),
        model_config("hopper", "walker-walk", bins=11, learning_rate=1.2345678912345e-17),
        run_config("hopper", gamma=1 / 3, online={"num_envs": 5}),
        run_config("hopper", world_model="ünïcode: # [x]"),
    ],
    ids=["data", "imported", "pwm", "model", "run", "text"],
)
def test_a_resolved_config_round_trips(tmp_path, config):
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    again = load(type(config), tmp_path / "config.yaml")
    assert again == config and dump(again) == dump(config)
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    assert load(type(config), tmp_path / "config.json") == config


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        ExtractConfig().updates = 3


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abcd"), trees, max_size=3)


def leaves(tree, path=()):
    """All paths to what is no mapping."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {at: leaf for key, value in tree.items() for at, leaf in leaves(value, (*path, key)).items()}


@settings(max_examples=50, deadline=None)
@given(mappings, mappings)
def test_merge(base, change):
    before = json.dumps([base, change])
    merged = merge(base, change)
    assert json.dumps([base, change]) == before  # neither is touched
    assert leaves(change).items() <= leaves(merged).items()
    assert merge(base, {}) == base and merge(base, change, {}) == merged and merge(merged, change) == merged
    untouched = {
        p: v for p, v in leaves(base).items() if not any(q[: len(p)] == p or p[: len(q)] == q for q in leaves(change))
    }
    assert untouched.items() <= leaves(merged).items()


def test_defaults_are_the_papers():
    """Read off the paper's section 2, not off the code."""
    extract, model = ExtractConfig(), PretrainConfig()
    assert (extract.updates, extract.batch_size, extract.horizon) == (10_000, 512, 16)
    assert (extract.gamma, extract.td_lambda, extract.betas) == (0.99, 0.95, (0.7, 0.95))
    assert (extract.actor_units, extract.critic_units, extract.critics) == ((400, 200, 100), (400, 200), 3)
    assert (extract.actor_lr, extract.critic_lr, extract.final_lr) == (5e-4, 5e-4, 1e-5)
    assert (extract.actor_grad_norm, extract.critic_grad_norm) == (1.0, 100.0)
    assert (extract.critic_passes, extract.critic_minibatches) == (8, 4)
    assert (model.horizon, model.rho, model.learning_rate, model.grad_norm) == (16, 0.99, 3e-4, 20.0)
    assert (model.world_model.simnorm_dim, model.world_model.task_dim) == (8, 96)
    assert (model.world_model.reward_low, model.world_model.reward_high) == (-10.0, 10.0)
    assert WorldModelConfig(size="48").reward_bins == 101 and set(SUITES) >= {"locomotion", "mt30"}
