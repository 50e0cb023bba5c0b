"""Official checkpoints, made here with the documented keys: what is loaded computes what their formulae say."""

import sys
import types

import eager_model
import pytest
import torch
from support import refusal

from pwm import config, official
from pwm.config import ModelConfig, PretrainConfig, WorldModelConfig
from pwm.nn.world_model import WorldModel
from pwm.official import load_official, to_official
from pwm.pretrain import build_model, load_model

ACTIONS = (2, 3)  # of two tasks
NETWORK = {"encoder": (6, 7), "units": (9, 10), "latent_dim": 16, "reward_bins": 5, "num_q": 3, "task_dim": 4}


def our_model(tasks=ACTIONS, observation_dim=5, **changes):
    torch.manual_seed(1)
    return WorldModel(WorldModelConfig(**NETWORK | changes), observation_dim, tasks).eval()


def layer(state, name, inputs, outputs, norm=True, members=()):
    shapes = {"weight": (outputs, inputs), "bias": (outputs,)}
    shapes |= {"ln.weight": (outputs,), "ln.bias": (outputs,)} if norm else {}
    state |= {f"{name}.{part}": 0.6 * torch.randn(*members, *shape) for part, shape in shapes.items()}


def mlp(state, name, widths, normed_end=False, members=()):
    for i in range(len(widths) - 1):
        layer(state, f"{name}.{i}", widths[i], widths[i + 1], normed_end or i < len(widths) - 2, members)


def tdmpc2(tasks=ACTIONS):
    """A checkpoint in TD-MPC2's current keys, of random weights; task embeddings within the unit ball."""
    torch.manual_seed(0)
    state, e, actions = {}, 4 if len(tasks) > 1 else 0, max(tasks)
    if e:
        state["_task_emb.weight"] = torch.nn.functional.normalize(torch.randn(len(tasks), e), dim=-1) * 0.9
        state["_action_masks"] = torch.tensor([[float(i < own) for i in range(actions)] for own in tasks])
    mlp(state, "_encoder.state", [5 + e, 6, 7, 16], normed_end=True)
    mlp(state, "_dynamics", [16 + e + actions, 9, 10, 16], normed_end=True)
    mlp(state, "_reward", [16 + e + actions, 9, 10, 5])
    mlp(state, "_pi", [16 + e, 9, 10, 2 * actions])
    mlp(state, "_Qs.params", [16 + e + actions, 9, 10, 5], members=(3,))
    mlp(state, "_target_Qs_params", [16 + e + actions, 9, 10, 5], members=(3,))
    return state


def current(state):
    """As the code saves it now: with buffers, copies of the Q-functions, placeholders and tensordict's entries."""
    extra = {"log_std_min": torch.tensor(-10.0), "log_std_dif": torch.tensor(12.0)}
    for key, value in state.items():
        if key.startswith("_Qs.params."):
            extra[key.replace("_Qs.params.", "_detach_Qs_params.")] = torch.zeros_like(value)
            extra[key.replace("_Qs.params.", "_Qs.module.")] = torch.zeros(value.shape[1:])
            extra[key.replace("_Qs.params.", "_target_Qs.module.")] = torch.zeros_like(value)
    extra |= {"_Qs.params.__batch_size": torch.Size([3]), "_target_Qs_params.__device": None}
    extra["_termination.0.weight"] = torch.zeros(2, 2)
    return state | extra


def transitional(state):
    """Of the months in which the targets had two names."""
    return state | {key.replace("_params.", ".params."): value for key, value in state.items() if "_target" in key}


def released(state):
    """As in the released files: no masks, and the Q-functions' parameters counted through."""
    old = {key: value for key, value in state.items() if "Qs" not in key and key != "_action_masks"}
    for network, name in (("_Qs", "_Qs.params"), ("_target_Qs", "_target_Qs_params")):
        parts = [f"{i}.{part}" for i in range(3) for part in ("weight", "bias", "ln.weight", "ln.bias")][:10]
        old |= {f"{network}.params.{n}": state[f"{name}.{part}"] for n, part in enumerate(parts)}
    return old


def saved(folder, state, wrap="model", **beside):
    torch.save({wrap: state, **beside}, folder / "official.pt")
    return folder / "official.pt"


def same_outputs(model, state, tasks):
    """Encoder, dynamics, reward, prior, Q-functions and their targets, one input at a time."""
    formulae = eager_model.official({k: v.double() for k, v in state.items()}, tasks, bins=5)
    torch.manual_seed(2)
    obs, action, noise = torch.randn(6, 5), torch.rand(6, max(tasks)), torch.randn(6, max(tasks))
    task = torch.arange(6) % len(tasks)
    z = model.encode(obs, task)
    following, reward, q = (
        model.next(z, action, task),
        model.reward_output(z, action, task),
        model.q_output(z, action, task),
    )
    target, (prior, entropy) = model.q_value(z, action, task, target=True), model.prior(z, task, noise)
    close = {"rtol": 1e-4, "atol": 1e-5}
    for b in range(6):
        k, a = int(task[b]), action[b].double()
        expected_z = formulae.encode(obs[b].double(), k)
        torch.testing.assert_close(z[b].double(), expected_z, **close)
        torch.testing.assert_close(following[b].double(), formulae.next(expected_z, a, k), **close)
        torch.testing.assert_close(reward[b].double(), formulae.reward_output(expected_z, a, k), **close)
        expected, expected_entropy = formulae.act(expected_z, k, noise[b].double())
        torch.testing.assert_close(prior[b].double(), expected, **close)
        assert entropy[b].item() == pytest.approx(expected_entropy.item(), rel=1e-4)
        for i in range(3):
            logits = formulae.q_output(formulae.q[i], expected_z, a, k)
            torch.testing.assert_close(q[i, b].double(), logits, **close)
            value = formulae.value(formulae.target_q[i], expected_z, a, k)
            torch.testing.assert_close(target[i, b].double(), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", [dict, current, transitional, released])
@pytest.mark.parametrize("tasks", [ACTIONS, (3,)])
def test_tdmpc2_checkpoint(tmp_path, layout, tasks):
    state = tdmpc2(tasks)
    model = our_model(tasks)
    model.load_state_dict(load_official(saved(tmp_path, layout(state)), model))
    with torch.no_grad():
        same_outputs(model, state, tasks)


def test_tdmpc2_checkpoint_in_a_model_without_values(tmp_path):
    """As PWM takes it: no Q-functions, no prior."""
    model, full, path = our_model(num_q=0), our_model(), saved(tmp_path, released(tdmpc2()))
    model.load_state_dict(load_official(path, model))
    full.load_state_dict(load_official(path, full))
    z, action, task = torch.rand(4, 16), torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    assert torch.equal(model.next(z, action, task), full.next(z, action, task))
    assert torch.equal(model.reward(z, action, task), full.reward(z, action, task))


@pytest.fixture
def pwm_statistics():
    """PWM's class of running statistics, under the name by which its files refer to it."""
    names = ("pwm.utils", "pwm.utils.running_mean_std")
    sys.modules |= {name: types.ModuleType(name) for name in names}

    class RunningMeanStd:
        def __setstate__(self, state):
            raise AssertionError("code of a checkpoint was run")

    RunningMeanStd.__module__, RunningMeanStd.__qualname__ = names[1], "RunningMeanStd"
    sys.modules[names[1]].RunningMeanStd = RunningMeanStd
    yield RunningMeanStd
    for name in names:
        del sys.modules[name]


def test_pwm_checkpoint(tmp_path, pwm_statistics):
    """One task and a scalar reward, which PWM's head predicts normalised by mean and variance."""
    torch.manual_seed(0)
    state = {}
    mlp(state, "_encoder", [5, 6, 7, 16], normed_end=True)
    mlp(state, "_dynamics", [16 + 3, 9, 10, 16], normed_end=True)
    mlp(state, "_reward", [16 + 3, 9, 10, 1])
    statistics = pwm_statistics()
    statistics.mean, statistics.var, statistics.count = torch.tensor([0.7]), torch.tensor([6.5]), 12.0001
    path = saved(tmp_path, state, "world_model", actor={}, rew_rms=statistics, ret_rms=statistics, obs_rms=None)
    model = our_model((3,), reward_bins=0, num_q=0)
    model.load_state_dict(load_official(path, model))
    formulae = eager_model.official(state, (3,), bins=0)
    obs, action, task = torch.randn(4, 5), torch.rand(4, 3), torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        z = model.encode(obs, task)
        reward = model.decode_reward(model.reward(z, action, task), task)
        for b in range(4):
            expected_z = formulae.encode(obs[b], 0)
            torch.testing.assert_close(z[b], expected_z)
            torch.testing.assert_close(model.next(z, action, task)[b], formulae.next(expected_z, action[b], 0))
            normalised = formulae.reward_output(expected_z, action[b], 0)[0]
            torch.testing.assert_close(reward[b], 0.7 + normalised * (6.5 + 1e-5) ** 0.5, rtol=1e-5, atol=1e-5)


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


def with_entry(key, value):
    return lambda state: state | {key: value}


def before_release(state):
    return {key.replace("state.0.", "state.1."): value for key, value in state.items() if "state.1." not in key}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (without("_dynamics.1.ln.bias"), "_dynamics.1.ln.bias"),
        (without("_target_Qs_params.2.weight"), "_target_Qs_params.2.weight"),
        (with_entry("_dynamics.3.weight", torch.ones(2, 2)), "_dynamics.3.weight"),
        (with_entry("_reward.2.weight", torch.ones(7, 10)), "_reward.2.weight' is [7, 10] where the model has [5, 10]"),
        (with_entry("_Qs.params.0.bias", torch.ones(5, 9)), "_Qs.params.0.bias"),
        (with_entry("_pi.0.bias", "text"), "_pi.0.bias"),
        (with_entry("_task_emb.weight", torch.ones(30, 4)), "_task_emb.weight' is [30, 4]"),
        (with_entry("_action_masks", torch.ones(2, 3)), "_action_masks"),
        (with_entry("log_std_min", torch.tensor(-5.0)), "log_std_min"),
        (before_release, "_encoder.state.0.weight"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(tmp_path, change, key):
    path = saved(tmp_path, change(tdmpc2()))
    refusal(lambda: load_official(path, our_model()), str(path), key)


def test_other_sizes_variants_and_task_sets_are_refused(tmp_path):
    path = saved(tmp_path, released(tdmpc2()))
    for key, changes in {
        "_encoder.state.0.weight": {"encoder": (8, 7)},
        "_dynamics.1.weight": {"units": (9, 11)},
        "_dynamics.2.ln.bias": {"latent": "linear"},
        "_Qs.params.0.weight": {"num_q": 4},
        "_reward.2.weight": {"reward_bins": 0, "num_q": 0},
    }.items():
        refusal(lambda changes=changes: load_official(path, our_model(**changes)), str(path), key)
    refusal(lambda: load_official(path, our_model((3,))), "_encoder.state.0.weight")
    refusal(lambda: load_official(path, our_model((2, 3, 3))), "_task_emb.weight")
    refusal(lambda: load_official(path, our_model(observation_dim=6)), "_encoder.state.0.weight")


class Evil:
    def __reduce__(self):
        return (exec, ("raise AssertionError('code of a checkpoint was run')",))


def test_other_files_are_refused(tmp_path):
    path = saved(tmp_path, tdmpc2())
    path.write_bytes(path.read_bytes()[:200])
    refusal(lambda: load_official(path, our_model()), str(path), "cannot be read")
    refusal(lambda: load_official(tmp_path / "none.pt", our_model()), "none.pt", "check the path")
    refusal(lambda: load_official(saved(tmp_path, {"a": torch.ones(1)}), our_model()), "_encoder")
    torch.save([1, 2], path)
    refusal(lambda: load_official(path, our_model()), "_encoder")
    refusal(lambda: load_official(saved(tmp_path, tdmpc2(), evil=Evil()), our_model()), "cannot be read")


@pytest.mark.parametrize("tasks", [ACTIONS, (3,)])
def test_export_is_the_released_layout(tmp_path, tasks):
    state, model = released(tdmpc2(tasks)), our_model(tasks)
    model.load_state_dict(load_official(saved(tmp_path, state), model))
    exported = to_official(model)["model"]
    assert exported.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(exported[key], value) and exported[key].is_contiguous(), key


def test_only_models_tdmpc2_knows_are_exported():
    variants = ({"latent": "none"}, {"layer_norm": False}, {"activation": "relu"}, {"standardise_obs": True})
    for changes in ({"num_q": 0}, *variants):
        refusal(lambda changes=changes: to_official(our_model(**changes)), "TD-MPC2 has no model")


def test_commands(tmp_path, monkeypatch):
    """An official file becomes a world model like a pre-trained one, which becomes an official file."""
    monkeypatch.chdir(tmp_path)
    tasks = ("hopper", "cartpole-swingup")
    network = WorldModelConfig(**NETWORK)
    settings = PretrainConfig(world_model=network, tasks="all")
    model_config = ModelConfig(scale="test", suite="mt30", variant="default", tasks=tasks, seed=0, settings=settings)
    torch.manual_seed(3)
    original = build_model(settings, tasks).eval()
    torch.save(to_official(original), tmp_path / "official.pt")
    (tmp_path / "config.yaml").write_text(config.dump(model_config))
    words = ["import", "--config", "config.yaml", "--checkpoint", "official.pt", "--out", "results/model"]
    monkeypatch.setattr(sys, "argv", ["pwm.official", *words])
    official.main()
    model, saved_config = load_model(tmp_path / "results" / "model")
    assert saved_config == model_config and not model.training
    for (name, ours), theirs in zip(model.state_dict().items(), original.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    monkeypatch.setattr(sys, "argv", ["pwm.official", "export", "--model", "results/model", "--out", "back.pt"])
    official.main()
    back, first = (torch.load(tmp_path / f"{name}.pt", weights_only=True)["model"] for name in ("back", "official"))
    assert back.keys() == first.keys() and all(torch.equal(back[key], first[key]) for key in back)
