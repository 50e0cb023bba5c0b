"""Stacked world models against each one trained, and planned in, alone; runs together, killed and resumed."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from interrupted import Killed, MortalRun, same_files, same_weights
from support import make_batch, make_model, model_settings, refusal, run_config
from test_tdmpc2 import ONLINE

from baselines import tdmpc2
from baselines.__main__ import main
from pwm import model_learning
from pwm.config import EvaluationConfig, dump
from pwm.data.batch import Batch
from pwm.evaluate import evaluate_run
from pwm.model_learning import ModelTrainer
from pwm.nn import processes
from pwm.planning import Planner
from pwm.runs import Run
from pwm.stacked import Stack, StackPlanner, StackTrainer, padded, unpadded

SIZES = ((5, 2), (3, 1), (5, 2))  # observations and actions of three runs
WIDE = 8, 4
BINS = {"bins": 11, "reward_low": -2.0, "reward_high": 2.0}


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pattern(*shape, device=None):
    """Numbers in the place of normal ones that do not depend on how wide the last axis is."""
    places = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in shape), indexing="ij")
    return 1.5 * torch.sin(1.0 + sum((1.7 + 0.6 * k) * place for k, place in enumerate(places)))


@pytest.fixture
def same_numbers(monkeypatch):
    """What is drawn is the same for all, alone or stacked."""
    monkeypatch.setattr(processes, "randn", pattern)
    monkeypatch.setattr(model_learning, "permutation", lambda n, device: torch.arange(n))
    for kind in (Planner, StackPlanner):
        monkeypatch.setattr(kind, "normal", lambda self, *shape: pattern(*shape))
        monkeypatch.setattr(kind, "exponential", lambda self, *shape: 2.0 + pattern(*shape))
        monkeypatch.setattr(kind, "pair", lambda self: torch.arange(2))


def models():
    """Three different ones, in double precision and without dropout."""
    torch.manual_seed(0)
    return [make_model(action_dims=(a,), observation_dim=o, num_q=3, dropout=0.0, **BINS).double() for o, a in SIZES]


def stacked(alone):
    return Stack([padded(model, *WIDE).double() for model in alone])


def widened(parts, width):
    return torch.stack([torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts])


def test_a_padded_model_is_the_same_model():
    for (o, a), model in zip(SIZES, models(), strict=True):
        wide, batch = padded(model, *WIDE).double(), make_batch(3, 4, observation_dim=o, action_dim=a)
        obs, action = batch.obs.double(), batch.action.double()
        z = model.encode(obs, batch.task)
        torch.testing.assert_close(wide.encode(widened([obs], 8)[0], batch.task), z)
        noise = torch.randn(3, 4, 4, dtype=torch.float64)
        own, _ = model.prior(z[1:], batch.task, noise[..., :a])
        theirs, _ = wide.prior(z[1:], batch.task, noise)
        torch.testing.assert_close(theirs[..., :a], own)
        assert (theirs[..., a:] == 0).all()
        q = wide.q_value(z[1:], widened([action], 4)[0], batch.task)
        torch.testing.assert_close(q, model.q_value(z[1:], action, batch.task))
        again = make_model(action_dims=(a,), observation_dim=o, num_q=3, **BINS).double()
        unpadded(wide, again)
        torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("limit", [0.3, 1e6], ids=["clipped", "free"])
def test_training_together_is_training_each_alone(same_numbers, limit):
    alone = models()
    stack, config = stacked(alone), model_settings(bins=11, num_q=3, grad_norm=limit, value_coef=0.1, entropy_coef=0.01)
    discount = torch.tensor([0.9])
    trainers = [ModelTrainer(model, config, discount) for model in alone]
    together, initial = StackTrainer(stack, config, 0.9), copy.deepcopy([*alone])
    for trainer in (together, *trainers):
        trainer.value_scale = trainer.value_scale.double()
    for _ in range(3):
        batches = [make_batch(3, 6, observation_dim=o, action_dim=a) for o, a in SIZES]
        batches = [Batch(*(part.double() for part in batch[:4]), batch.task) for batch in batches]
        apart = [trainer.update(batch, 0.0) for trainer, batch in zip(trainers, batches, strict=True)]
        obs, action, *rest = zip(*batches, strict=True)
        at_once = together.update(Batch(widened(obs, 8), widened(action, 4), *map(torch.stack, rest)), 0.0)
        for name, values in at_once.items():
            # The padding's entropy, log(1 + 1e-6) an action, is in the prior's loss.
            torch.testing.assert_close(
                values, torch.stack([own[name] for own in apart]).to(values), rtol=1e-6, atol=1e-6
            )
    for r, (model, before) in enumerate(zip(alone, initial, strict=True)):
        learnt = copy.deepcopy(before)
        unpadded(stack.take(r, padded(before, *WIDE).double()), learnt)
        ours, theirs = dict(learnt.state_dict()), dict(model.state_dict())
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        moved = [name for name, tensor in ours.items() if not torch.equal(tensor, before.state_dict()[name])]
        assert {name.split(".")[0] for name in moved} >= {"encoder", "dynamics", "policy_prior", "target_q_heads"}
        if r:
            assert at_once["model_grad_norm"][r] != at_once["model_grad_norm"][0]


def test_planning_together_is_planning_each_alone(same_numbers, monkeypatch):
    alone = [model.eval() for model in models()]
    monkeypatch.setattr(torch, "randn_like", lambda like: pattern(*like.shape[1:]).expand_as(like))
    search = {"iterations": 3, "samples": 20, "elites": 5, "prior_samples": 4, "precision": "float32"}
    planners = [Planner(model, 0.9, 3, **search, seed=0) for model in alone]
    together = StackPlanner(stacked(alone), 0.9, 3, **search)
    for step, first in enumerate(([True, True], [False, True], [False, False])):
        obs = [torch.randn(2, o, dtype=torch.float64) for o, _ in SIZES]
        first, task = torch.tensor(first), torch.zeros(2, dtype=torch.long)
        given = widened(obs, 8), first.expand(3, 2)
        actions = together(*given, explore=step == 2)
        for r, (planner, model) in enumerate(zip(planners, alone, strict=True)):
            with torch.no_grad():
                own = planner(model.encode(obs[r], task), task, first, explore=step == 2)
            width = own.shape[1]
            torch.testing.assert_close(actions[r, :, :width], own)
            assert (actions[r, :, width:] == 0).all()
    assert (actions[0] - actions[2]).abs().max() > 0.01


def test_padding_makes_no_search_longer():
    wide = padded(make_model(action_dims=(19,), num_q=2, **BINS), 8, 24)
    search = {"iterations": 6, "samples": 20, "elites": 5, "prior_samples": 4, "precision": "float32"}
    assert StackPlanner(Stack([wide]), 0.9, 3, **search).iterations == 6


def test_what_is_drawn_differs_between_runs():
    model, *_ = models()
    same = stacked([model, model])
    search = {"iterations": 2, "samples": 20, "elites": 5, "prior_samples": 4, "precision": "float32"}
    actions = StackPlanner(same, 0.9, 3, **search)(torch.zeros(2, 1, 8).double(), torch.ones(2, 1, dtype=torch.bool))
    assert not torch.equal(actions[0], actions[1])
    planner = StackPlanner(same, 0.9, 3, **search)
    draws = same.each(lambda z: planner.exponential(20_000) + 0.0 * z)(torch.zeros(2, 1))
    assert draws.min() >= 0 and not torch.equal(*draws)
    torch.testing.assert_close(draws.mean(1), torch.ones(2), rtol=0, atol=0.04)
    draw = same.each(lambda z: planner.pair())
    pairs = {tuple(sorted(pair.tolist())) for _ in range(40) for pair in draw(torch.zeros(2))}
    assert pairs == {(0, 1), (0, 2), (1, 2)}


CONFIGS = [run_config(task, "tdmpc2", seed, **ONLINE) for task, seed in (("hopper", 0), ("ant", 0), ("hopper", 1))]


def test_runs_together_go_on_bit_for_bit(tmp_path):
    """Killed among the updates that the random decisions are owed, and later; then each stands as if trained alone."""
    outs = {name: [tmp_path / name / str(r) for r in range(3)] for name in "ab"}
    tdmpc2.train_together([*map(Run, outs["a"], CONFIGS)])
    for saves in (5, 11):
        with pytest.raises(Killed):
            tdmpc2.train_together(
                [MortalRun(out, config, saves) for out, config in zip(outs["b"], CONFIGS, strict=True)]
            )
        torch.rand(7), np.random.rand(7)  # noqa: NPY002 - what a new process draws before it resumes
    runs = [Run(out, config, save_every=0.0) for out, config in zip(outs["b"], CONFIGS, strict=True)]
    tdmpc2.train_together(runs)
    for whole, broken, config, run in zip(outs["a"], outs["b"], CONFIGS, runs, strict=True):
        same_files(whole, broken, "policy")
        assert not run.state_folder.exists()
        rows = pd.read_csv(whole / "metrics.csv")
        assert rows["env_steps"].tolist() == [0, 12, 24] and rows["updates"].tolist() == [0, 12, 24]
        assert rows.iloc[1:].notna().all(axis=None)
        for out in (whole, broken):
            (out / "config.yaml").write_text(dump(config))
        assert evaluate_run(whole, 1)["returns"] == evaluate_run(broken, 1)["returns"]
    returns = [pd.read_csv(out / "metrics.csv")["return"].iloc[-1] for out in outs["a"]]
    assert len(set(returns)) == 3


def test_a_state_in_which_a_run_diverged_is_not_saved(tmp_path, monkeypatch):
    """Saved at every update, the last one before; the run is named."""
    update, made = StackTrainer.update, []

    def diverging(self, batch, progress):
        made.append(update(self, batch, progress))
        if len(made) == 5:
            made[-1]["value_loss"][1] = torch.nan
        return made[-1]

    monkeypatch.setattr(StackTrainer, "update", diverging)
    runs = [Run(tmp_path / str(r), config, save_every=0.0) for r, config in enumerate(CONFIGS)]
    with pytest.raises(FloatingPointError, match="update 5: value_loss is nan: training diverged; ") as diverged:
        tdmpc2.train_together(runs)
    told = str(diverged.value)
    assert told.startswith(f"{runs[1].out}: ") and told.endswith(f"state of all runs is in {runs[0].state_folder}")
    assert runs[0].load_state()["updates"] == 4


@pytest.mark.parametrize(
    ("configs", "outs", "told"),
    [
        ((("tdmpc2", 0), ("tdmpc2", 1)), 1, "--config names 2 files, --out 1 folders; give one for each"),
        ((("random", 0), ("random", 1)), 2, "runs of random are not trained together; give one at a time"),
        ((("random", 0), ("tdmpc2", 0)), 2, "runs of random, tdmpc2 are not trained together; give one at a time"),
    ],
)
def test_the_command_line_refuses_what_does_not_belong_together(tmp_path, monkeypatch, capsys, configs, outs, told):
    files = []
    for k, (algorithm, seed) in enumerate(configs):
        files.append(tmp_path / f"{k}.yaml")
        files[-1].write_text(dump(run_config("hopper", algorithm, seed, **(ONLINE if algorithm == "tdmpc2" else {}))))
    folders = [str(tmp_path / f"run{k}") for k in range(outs)]
    monkeypatch.setattr("sys.argv", ["baselines", "--config", *map(str, files), "--out", *folders])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and told in capsys.readouterr().err


def test_evaluations_disturb_nothing(tmp_path):
    for points in (1, 3):
        often = EvaluationConfig(curve_points=points, curve_episodes=2)
        configs = [config.model_copy(update={"evaluation": often}) for config in CONFIGS[::2]]
        tdmpc2.train_together([Run(tmp_path / str(points) / str(r), config) for r, config in enumerate(configs)])
    for r in range(2):
        same_weights(tmp_path / "1" / str(r), tmp_path / "3" / str(r), "policy")


def test_what_cannot_be_trained_together(tmp_path):
    def runs(*configs):
        return [Run(tmp_path / str(r), config) for r, config in enumerate(configs)]

    other = run_config("hopper", "tdmpc2", 1, **ONLINE | {"batch_size": 9})
    refusal(lambda: tdmpc2.train_together(runs(CONFIGS[0], other)), "settings differ", "without together")
    shorter = run_config("cup-catch", "tdmpc2", **ONLINE)
    refusal(lambda: tdmpc2.train_together(runs(CONFIGS[0], shorter)), "cup-catch and hopper", "lengths", "together")
    prior = [run_config("hopper", "tdmpc2", seed, **ONLINE | {"planning": None}) for seed in (0, 1)]
    refusal(lambda: tdmpc2.train_together(runs(*prior)), "online runs that plan", "together to false")
