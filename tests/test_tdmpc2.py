"""TD-MPC2: planning against optimal control and a plain loop, and what its runs do in which order."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from interrupted import killed_and_resumed, same_files, unbroken
from support import TINY, make_model, model_config, refusal, run_config

from baselines import tdmpc2
from baselines.tdmpc2 import Planning, Settings
from benchmarks.plain import PlainPlanner
from pwm import algorithms
from pwm.config import ModelConfig, dump, validate
from pwm.evaluate import evaluate_run
from pwm.model_learning import ModelTrainer
from pwm.planning import STD_MIN, Planner, PriorActor
from pwm.pretrain import build_model
from pwm.runs import Run, load_checkpoint, save_checkpoint

SEARCH = {"iterations": 2, "samples": 12, "elites": 4, "prior_samples": 2}
ONLINE = {
    "network": {"size": "5", **TINY, "num_q": 3},
    "planning": SEARCH,
    "env_steps": 24,
    "seed_steps": 12,
    "num_envs": 2,
    "batch_size": 8,
}


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def planner(model, kind=Planner, **changes):
    given = {"discount": 0.9, "horizon": 3, **SEARCH, "precision": "float32", "seed": 0}
    return kind(model, **given | changes)


# Planning


class LinearQuadratic:
    """x' = A x + B u, reward −(x'Q x + u'R u); the Q-functions are exact: V(x) = −x'P x, P of Riccati's equation."""

    config = SimpleNamespace(num_q=2)
    children = staticmethod(tuple)
    action_dim, gamma = 2, 0.95
    A = torch.tensor([[1.0, 0.2], [-0.1, 0.9]])
    B = torch.tensor([[0.1, 0.0], [0.3, 0.4]])
    Q, R = torch.diag(torch.tensor([40.0, 20.0])), torch.diag(torch.tensor([30.0, 50.0]))

    def __init__(self, prior_std=0.5):
        self.action_mask, self.prior_std = torch.ones(1, 2), prior_std
        A, B, g = self.A.double(), self.B.double(), self.gamma
        P = self.Q.double()
        for _ in range(1000):
            self.K = torch.linalg.solve(self.R.double() + g * B.T @ P @ B, g * B.T @ P @ A)
            P = self.Q.double() + g * A.T @ P @ (A - B @ self.K)
        self.K, self.P = self.K.float(), P.float()

    def next(self, x, u, task):
        return x @ self.A.T + u @ self.B.T

    def reward(self, x, u, task):
        return -((x @ self.Q) * x).sum(-1) - ((u @ self.R) * u).sum(-1)

    def decode_reward(self, reward, task):
        return reward

    def prior(self, x, task, noise=None):
        spread = 0.0 if noise is None else self.prior_std * noise
        return (torch.zeros(*x.shape[:-1], 2) + spread).clamp(-1, 1), None

    def q_value(self, x, u, task, members):
        return -((x @ self.P) * x).sum(-1).expand(len(members), *x.shape[:-1])


def test_planning_finds_the_optimal_control():
    """In several states at once: the action −K x, and a plan worth V(x), both to what a spread of 0.05 leaves."""
    model = LinearQuadratic()
    x = torch.tensor([[0.8, -0.3], [-0.5, 0.9], [0.1, 0.2], [-1.0, -0.4]])
    task, first = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    search = planner(
        model, discount=model.gamma, iterations=10, samples=512, elites=64, prior_samples=24, precision="float32"
    )
    action = search(x, task, first)
    best = -x @ model.K.T
    assert best.abs().max() < 0.95 and best.abs().max() > 0.4
    torch.testing.assert_close(search.mean[0], best, rtol=0, atol=0.03)
    torch.testing.assert_close(action, best, rtol=0, atol=0.2)  # one elite
    found, optimal = search.value(x, search.mean.unsqueeze(0), task)[0], -((x @ model.P) * x).sum(-1)
    assert (found <= optimal + 1e-3).all()
    torch.testing.assert_close(found, optimal, rtol=0.002, atol=0.05)


def test_values_of_sequences_by_hand():
    """r_0 + γ r_1 + γ² V(x_2), whatever the prior does at the end."""
    model, x = LinearQuadratic(), torch.tensor([[0.5, -1.0]])
    u = torch.tensor([[0.3, -0.2], [0.9, 0.1]])
    search = planner(model, discount=0.5, horizon=2)
    after = x @ model.A.T + u[:1] @ model.B.T
    last = after @ model.A.T + u[1:] @ model.B.T
    reward = lambda x, u: -(x @ model.Q @ x.T + u @ model.R @ u.T)  # noqa: E731
    expected = reward(x, u[:1]) + 0.5 * reward(after, u[1:]) - 0.25 * last @ model.P @ last.T
    found = search.value(x, u.view(1, 2, 1, 2), torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(found, expected)


class Tape(Planner):
    """Draws what is on its tape, of environment b alone if that is set; records where the tape is empty."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.tape, self.b, self.at = [], None, 0

    def _draw(self, draw, cut):
        if self.b is None:
            self.tape.append(draw())
            return self.tape[-1]
        self.at += 1
        return cut(self.tape[self.at - 1])

    def normal(self, *shape):
        return self._draw(lambda: super(Tape, self).normal(*shape).double(), lambda x: x[..., self.b : self.b + 1, :])

    def exponential(self, *shape):
        draw = super().exponential
        return self._draw(lambda: draw(*shape).double(), lambda x: x[..., self.b : self.b + 1])

    def pair(self):
        return self._draw(super().pair, lambda x: x)


@pytest.mark.parametrize("tasks", [1, 3])
def test_planning_at_once_is_planning_one_by_one(tasks):
    """With the same numbers drawn, against ours for each environment alone and against the plain loop; warm too."""
    torch.manual_seed(0)
    model = make_model(11, action_dims=(1, 2, 2)[:tasks] if tasks > 1 else (2,), num_q=3, reward_low=-2, reward_high=2)
    model = model.double().eval()
    z, task = torch.softmax(torch.randn(5, 2, 8), -1).flatten(1).double(), torch.arange(5) % tasks
    sizes = {"samples": 40, "elites": 6, "prior_samples": 5, "iterations": 3}
    together, alone = planner(model, Tape, **sizes), [planner(model, Tape, **sizes) for _ in range(5)]
    for step, first in enumerate((torch.ones(5, dtype=torch.bool), torch.tensor([True, False, False, True, False]))):
        together.tape.clear()
        action = together(z, task, first)
        for b, single in enumerate(alone):
            single.tape, single.b, single.at = together.tape, b, 0
            own = single(z[b : b + 1], task[b : b + 1], first[b : b + 1])
            torch.testing.assert_close(own[0], action[b])
            if step == 0:
                single.at = 0
                plain = PlainPlanner(single)
                plain.q_functions.double()
                torch.testing.assert_close(plain.plan(z[b : b + 1], task[b : b + 1])[0], action[b])
                assert single.at == len(together.tape)
    assert (action[model.action_mask[task] == 0] == 0).all() and action.std() > 0.1


class Told(Planner):
    """Values come from a table; keeps the sequences that were to be valued."""

    table = ()

    def value(self, z, actions, task):
        self.seen = actions
        return torch.tensor(self.table).unsqueeze(1).expand(-1, len(z))


def test_the_last_plan_is_shifted_unless_an_episode_begins():
    search = planner(LinearQuadratic(), Told, iterations=1, samples=2, elites=1, prior_samples=1)
    search.table, search.normal = (0.0, 1.0), lambda *shape: torch.zeros(shape)
    search.mean = torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand(3, 2, 2).clone()
    search(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), torch.tensor([False, True]))
    expected = torch.tensor([[0.2, 0.3, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(search.seen[1].permute(1, 0, 2), expected.unsqueeze(-1).expand(-1, -1, 2))


def test_an_elite_is_drawn_by_its_weight_and_noise_added_in_training_only():
    """Three sequences worth 4, 1 and 0: the first two are elites, of weights proportional to e² and e^0.5."""
    count = 4000
    search = planner(LinearQuadratic(0.4), Told, iterations=1, samples=3, elites=2, prior_samples=3)
    search.table = (4.0, 1.0, 0.0)
    given = torch.zeros(count, 2), torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.bool)
    action = search(*given)
    chosen = [(action == search.seen[k, 0]).all(-1) for k in range(3)]
    share = 1 / (1 + np.exp(-1.5))
    assert chosen[0].float().mean().item() == pytest.approx(share, abs=0.03)
    assert (chosen[0] | chosen[1]).all() and not chosen[2].any()
    elites = search.seen[:2].double()
    weight = torch.tensor([share, 1 - share])[:, None, None, None]
    torch.testing.assert_close(search.mean.double(), (weight * elites).sum(0), rtol=1e-5, atol=1e-6)
    one = planner(LinearQuadratic(0.0), Told, iterations=1, samples=3, elites=1, prior_samples=3)
    one.table = (4.0, 1.0, 0.0)
    assert (one(*given) == 0).all()
    noise = one(*given, explore=True)
    assert noise.std().item() == pytest.approx(STD_MIN, rel=0.05) and noise.mean().abs() < 0.005


@pytest.mark.parametrize(("actions", "expected"), [(19, 6), (20, 8)])
def test_wide_actions_are_searched_longer(actions, expected):
    model = make_model(11, action_dims=(actions,), num_q=2)
    assert planner(model, iterations=6).iterations == expected


def test_the_prior_acts_by_its_mode_or_with_noise():
    torch.manual_seed(0)
    model = make_model(11, action_dims=(1, 2), num_q=2)
    actor, z, task = PriorActor(model, "float32", seed=0), torch.rand(3, 16), torch.tensor([0, 1, 1])
    mode = actor(z, task, None)
    torch.testing.assert_close(mode, model.prior(z, task)[0])
    assert mode[0, 1] == 0 and not torch.equal(actor(z, task, None, explore=True), mode)


# Runs


def test_the_defaults_are_the_papers():
    objective = tdmpc2.learning_config(Settings())
    expected = {"batch_size": 256, "learning_rate": 3e-4, "encoder_lr_scale": 0.3, "rho": 0.5, "grad_norm": 20.0}
    expected |= {"consistency_coef": 20.0, "reward_coef": 0.1, "value_coef": 0.1, "target_rate": 0.01, "horizon": 3}
    expected |= {"entropy_coef": 1e-4, "final_lr": 3e-4}
    assert objective.model_dump(include=set(expected)) == expected
    network = objective.world_model
    assert (network.num_q, network.dropout, network.reward_bins, network.latent_dim) == (5, 0.01, 101, 512)
    assert Planning().model_dump() == {"iterations": 6, "samples": 512, "elites": 64, "prior_samples": 24}


def test_online_learning_in_order(tmp_path, monkeypatch):
    """12 random decisions, as many updates, then two decisions and two updates in turn; evaluations disturb nothing."""
    events = []
    step, plan, update = tdmpc2._Player.step, Planner.__call__, ModelTrainer.update
    monkeypatch.setattr(tdmpc2._Player, "step", lambda self: events.append("step") or step(self))

    def planned(self, z, task, first, explore=False):
        if explore:
            events.append(("plan", first.tolist()))
        return plan(self, z, task, first, explore)

    monkeypatch.setattr(Planner, "__call__", planned)
    monkeypatch.setattr(ModelTrainer, "update", lambda *given: events.append("update") or update(*given))
    run = Run(tmp_path / "run", run_config("hopper", "tdmpc2", **ONLINE))
    tdmpc2.train(run)
    turns = [event for event in events if event in ("step", "update")]
    assert turns == ["step"] * 6 + ["update"] * 12 + (["step", "update", "update"] * 6)
    plans = [event for event in events if event not in ("step", "update")]
    assert len(plans) == 6 and events[18:20] == ["step", plans[0]]
    rows = pd.read_csv(run.out / "metrics.csv")
    assert rows["env_steps"].tolist() == [0, 12, 24] and rows["updates"].tolist() == [0, 12, 24]
    assert rows.iloc[1:].notna().all(axis=None)
    (run.out / "config.yaml").write_text(dump(run.config))
    assert evaluate_run(run.out, 2)["returns"] == evaluate_run(run.out, 2)["returns"]


def test_seed_phase_follows_the_episode_length(tmp_path):
    def steps(task, **settings):
        return tdmpc2.random_decisions(Run(tmp_path / task, run_config(task, "tdmpc2")), Settings(**settings))

    assert [steps(task) for task in ("hopper", "cartpole-swingup", "mw-reach")] == [5000, 2500, 1000]
    refusal(lambda: steps("hopper", env_steps=4000), "seed_steps is 5000", "env_steps 4000")
    refusal(lambda: steps("hopper", seed_steps=29, num_envs=10), "give 30 to env_steps")


def pretrained(folder: Path, **changes: object) -> ModelConfig:
    """A multi-task world model on disk, never trained."""
    settings = {"bins": 11, "num_q": 3} | changes
    saved = model_config("reacher-easy", "cartpole-swingup", **settings)
    torch.manual_seed(4)
    save_checkpoint(
        folder, build_model(saved.settings, saved.tasks).state_dict(), {"config": saved.model_dump(mode="json")}
    )
    return saved


@pytest.mark.parametrize("planning", [SEARCH, None], ids=["planning", "policy_only"])
def test_a_pretrained_model_is_scored_as_it_is(tmp_path, planning):
    pretrained(tmp_path / "model")
    config = run_config("cartpole-swingup", "tdmpc2", seed=3, world_model="multitask", planning=planning)
    run = Run(tmp_path / "results" / "run", config, model=tmp_path / "model")
    tdmpc2.train(run)
    rows = pd.read_csv(run.out / "metrics.csv")
    assert rows[["env_steps", "updates"]].values.tolist() == [[0, 0]]
    (run.out / "config.yaml").write_text(dump(config))
    assert evaluate_run(run.out, 2)["returns"] == evaluate_run(run.out, 2)["returns"]
    obs = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    policy, begins = algorithms.load_policy("tdmpc2", run.out / "policy"), np.ones(4, bool)
    action = policy(obs, begins)
    assert action.shape == (4, 1)
    tensors, saved = load_checkpoint(tmp_path / "model")
    model = build_model(
        model_config("reacher-easy", "cartpole-swingup", bins=11, num_q=3).settings,
        ("reacher-easy", "cartpole-swingup"),
    )
    model.load_state_dict(tensors)
    z = model.eval().encode(torch.nn.functional.pad(torch.from_numpy(obs), (0, 1)), torch.ones(4, dtype=torch.long))
    mode = model.prior(z, torch.ones(4, dtype=torch.long))[0][:, :1].detach().numpy()
    assert np.allclose(action, mode, atol=1e-6) == (planning is None)
    # trained anew in the meantime
    save_checkpoint(tmp_path / "model", {name: tensor + 1.0 for name, tensor in tensors.items()}, saved)
    refusal(lambda: algorithms.load_policy("tdmpc2", run.out / "policy"), "not the world model", "run its rule again")


def test_what_is_refused(tmp_path):
    run = lambda task, model=None: Run(  # noqa: E731
        tmp_path / task, run_config(task, "tdmpc2", world_model="multitask"), model=model
    )
    refusal(lambda: tdmpc2.train(run("reacher-easy")), "'multitask'", "--model")
    pretrained(tmp_path / "model")
    refusal(lambda: tdmpc2.train(run("hopper", tmp_path / "model")), "not of 'hopper'")
    pretrained(tmp_path / "plain", num_q=0)
    refusal(lambda: tdmpc2.train(run("reacher-easy", tmp_path / "plain")), "no Q-functions", "num_q")
    check = lambda settings: lambda: validate(Settings, settings, "here")  # noqa: E731
    refusal(check({"planning": {"samples": 60}}), "elites and prior_samples must not exceed samples, 60")
    refusal(check({"network": {"size": "single"}}), "no Q-functions", "num_q")
    refusal(check({"network": {"size": "5", "standardise_obs": True}}), "standardise_obs", "data set")


@pytest.mark.parametrize("planning", [SEARCH, None], ids=["planning", "policy_only"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, planning):
    """Killed among the updates that the random decisions are owed, and where planning and updates take turns."""
    settings = ONLINE | {"planning": planning, "env_steps": 36, "seed_steps": 15, "num_envs": 3}
    config = run_config("hopper", "tdmpc2", **settings, replay_capacity=30)
    unbroken(tmp_path / "a", config, tdmpc2.train)
    killed_and_resumed(tmp_path / "b", config, tdmpc2.train, kills=[7, 16])
    same_files(tmp_path / "a", tmp_path / "b", "policy")
    assert pd.read_csv(tmp_path / "a" / "metrics.csv")["env_steps"].tolist() == [0, 18, 36]
