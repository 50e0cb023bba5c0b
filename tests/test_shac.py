"""SHAC's update against plain loops over plain environments, and what it leaves behind."""

import numpy as np
import pandas as pd
import pytest
import torch
from support import run_config

from baselines import shac
from pwm import algorithms, envs
from pwm.envs.differentiable import make_differentiable
from pwm.runs import Run

SMALL = {"epochs": 4, "num_envs": 4, "horizon": 6, "actor_units": [8], "critic_units": [8], "critic_passes": 1}


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_learner(late: int = 0, **changes: object) -> shac.Learner:
    """A learner whose first environment is `late` decisions into its episode; its second window begins."""
    torch.manual_seed(0)
    settings = shac.Settings(**SMALL | changes)
    env = make_differentiable("hopper", settings.num_envs)
    env.reset()
    env.restore(env.state() | {"elapsed": np.array([late, 0, 0, 0])})
    learner = shac.Learner(env, settings, torch.device("cpu"))
    learner.update()
    return learner


@torch.no_grad()
def plain_return(learner: shac.Learner, noise: torch.Tensor) -> np.ndarray:
    """What the window is worth in each environment, by the equation, one environment and step at a time."""
    settings, plain = learner.settings, envs.make("hopper", 4)
    plain.reset()
    obs = plain.restore(learner.env.state())
    mean, std = learner.moments.mean, np.sqrt(learner.moments.var + 1e-5)
    normalise = lambda x: torch.from_numpy((x - mean) / std).float()  # noqa: E731
    total, discount = np.zeros(4), np.ones(4)
    for h, epsilon in enumerate(noise):
        obs, reward, terminated, truncated, info = plain.step(learner.actor(normalise(obs), epsilon).numpy())
        value = learner.critic.minimum(normalise(info["final_obs"])).numpy() * ~terminated
        for i in range(4):
            total[i] += discount[i] * reward[i]
            discount[i] *= settings.gamma
            if terminated[i] or truncated[i] or h == settings.horizon - 1:
                total[i] += discount[i] * value[i]
                discount[i] = 1.0
    return total


@pytest.mark.parametrize("late", [0, 990])  # 990: it is truncated within the second window
def test_the_window_is_worth_what_the_equation_says(late: int) -> None:
    learner = make_learner(late)
    torch.manual_seed(1)
    noise = torch.randn(6, 4, 3)
    expected = plain_return(learner, noise)
    torch.manual_seed(1)
    assert float(learner.update()["value"]) == pytest.approx(expected.mean(), rel=1e-4)


def test_the_actor_ascends_the_return() -> None:
    """A small step of the actor alone, with the same noise, raises it by what the gradient's norm says."""
    learner = make_learner(actor_lr=1e-9, critic_lr=1e-9, final_lr=1e-9, actor_grad_norm=1e9)
    parameters = list(learner.actor.parameters())
    noise = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(2))
    before, snapshot = plain_return(learner, noise).mean(), learner.env.state()
    moments = learner.moments.mean.copy(), learner.moments.var.copy()
    weights = [p.detach().clone() for p in parameters]
    torch.randn, randn = lambda *shape: noise, torch.randn
    try:
        learner.update()
    finally:
        torch.randn = randn
    gradient = [-p.grad * learner.settings.horizon for p in parameters]  # of the mean return
    squared = sum(float(g.square().sum()) for g in gradient)
    learner.env.restore(snapshot)
    learner.moments.mean, learner.moments.var = moments
    size = 1e-2 / squared  # the return should rise by a hundredth
    with torch.no_grad():
        for parameter, start, g in zip(parameters, weights, gradient, strict=True):
            parameter.copy_(start + size * g)
    assert plain_return(learner, noise).mean() - before == pytest.approx(1e-2, rel=0.1)


def test_observations_are_normalised_by_all_windows_before() -> None:
    learner = make_learner()
    seen = learner.env.begin_window().numpy()
    mean, var = learner.moments.mean.copy(), learner.moments.var.copy()
    obs, *_ = learner._roll_out(torch.randn(6, 4, 3))
    np.testing.assert_allclose(obs[0].detach(), (seen - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    assert learner.moments.count == pytest.approx(2 * 6 * 4, abs=1e-3)


def test_the_actors_gradient_is_clipped_and_reported_unclipped() -> None:
    learner = make_learner(actor_grad_norm=1e-3)
    assert learner.update()["actor_grad_norm"] > 1e-2
    clipped = sum(float(p.grad.square().sum()) for p in learner.actor.parameters()) ** 0.5
    assert clipped == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("limit", [False, True])
def test_exploding_gradients_are_counted_and_limited(limit: bool) -> None:
    learner = make_learner(limit_exploding=limit)
    ascent = torch.ones(6, 4, 3) * torch.tensor([1.0, 2.0, 3.0, 50.0]).view(1, 4, 1)
    found, exploding = learner._limited(ascent)
    assert exploding == 1 and torch.equal(found[:, :3], ascent[:, :3])
    torch.testing.assert_close(found[:, 3], torch.full((6, 3), 20.0 if limit else 50.0))


@pytest.mark.parametrize("updates, softness", [(0, 3.0), (10, 3.0), (20, 2.0), (30, 1.0), (90, 1.0)])
def test_contacts_harden_linearly_from_a_tenth_to_a_third_of_the_epochs(
    updates: int, softness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shac, "HARDENING", (0.1, 0.3))
    learner = make_learner(epochs=100, softness=3.0)
    learner.updates = updates
    assert learner.softness == pytest.approx(softness)


def test_windows_have_the_softness_of_their_epoch() -> None:
    learner = make_learner(epochs=4, softness=3.0)
    constants = []
    for _ in range(3):
        learner.update()
        constants.append(learner.env.scene()[0].geom_solref[0, 0])
    hardened = (1 / 4 - 0.1) / (1 / 3 - 0.1)
    assert constants == pytest.approx([0.06 - 0.04 * hardened, 0.02, 0.02])


def test_a_run_ends_with_the_learners_policy(tmp_path, monkeypatch) -> None:
    learners = []
    make = shac.Learner.__init__
    monkeypatch.setattr(shac.Learner, "__init__", lambda self, *given: (learners.append(self), make(self, *given))[1])
    run = Run(tmp_path / "run", run_config("hopper", "shac", **SMALL))
    shac.train(run)
    learner = learners[0]
    rows = pd.read_csv(run.out / "metrics.csv")
    assert rows["env_steps"].tolist() == [0, 48, 96] and rows["updates"].tolist() == [0, 2, 4]
    assert np.isfinite(rows["return"]).all() and rows["wall_time_s"].is_monotonic_increasing
    obs = learner.moments.mean + np.random.default_rng(0).normal(size=(50, 11))
    expected = learner.actor(
        torch.from_numpy((obs - learner.moments.mean) / np.sqrt(learner.moments.var + 1e-5)).float()
    )
    policy = algorithms.load_policy("shac", run.out / "policy")
    found = policy(obs.astype(np.float32), np.zeros(50, bool))
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-3, atol=1e-4)
    assert expected.std() > 1e-3
