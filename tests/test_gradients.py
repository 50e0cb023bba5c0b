"""What the gradients say: the ball-wall problem, gradients of returns, their statistics, and the figures of both."""

import importlib
from pathlib import Path

import mujoco
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from support import make_model, refusal

from pwm import ball_wall, gradients, statistics
from pwm.gradient_settings import BallWallConfig, GradientQualityConfig
from workflows.figures import ball_wall as ball_wall_figure
from workflows.figures import gradient_quality as quality_figure
from workflows.figures import style
from workflows.measured import Measured, read_measured

# --- ball-wall ---------------------------------------------------------------------------------------------------

V, G, D, HEIGHT = 10.0, 9.81, 5.0, 3.0
QUICK_BALL = BallWallConfig(seeds=2, samples=64, units=16, updates=30, starts=7, ascent_steps=5)


def thrown(degrees: float, dt: float = 1e-4) -> float:
    """How far the ball gets, by following it: exact positions a moment apart."""
    vx, vy = V * np.cos(np.radians(degrees)), V * np.sin(np.radians(degrees))
    time = np.arange(dt, 2 * vy / G + 2 * dt, dt)
    x, y = vx * time, vy * time - G * time**2 / 2
    np.testing.assert_allclose(vx**2 + (vy - G * time) ** 2, V**2 - 2 * G * y)  # energy
    at_wall = np.searchsorted(x, D)
    if at_wall < len(x) and 0 < y[at_wall] < HEIGHT:
        return D
    return float(x[np.argmax(y <= 0)])


@pytest.mark.parametrize("degrees", [3.0, 14.0, 20.0, 45.0, 49.5, 51.0, 60.0, 70.0, 73.0, 80.0, 89.0])
def test_distance_is_that_of_the_flight(degrees):
    assert ball_wall.distance(torch.tensor([degrees])).item() == pytest.approx(thrown(degrees), abs=2e-3)


def test_the_distance_jumps_where_the_ball_clears_the_wall():
    # d t − g d² (1 + t²) / (2 v²) = h in t = tan θ
    a = G * D**2 / (2 * V**2)
    low, high = (np.degrees(np.arctan((D + sign * np.sqrt(D**2 - 4 * a * (a + HEIGHT))) / (2 * a))) for sign in (-1, 1))
    angles = torch.tensor([low - 1e-4, low + 1e-4, high - 1e-4, high + 1e-4], dtype=torch.float64)
    free = [V**2 / G * np.sin(2 * np.radians(x)) for x in (low, high)]
    np.testing.assert_allclose(ball_wall.distance(angles), [D, free[0], free[1], D], rtol=1e-4)
    grid = torch.linspace(0, 90, 100_001, dtype=torch.float64)
    assert grid[ball_wall.distance(grid).argmax()].item() == pytest.approx(low, abs=1e-3)  # the optimum is the jump


def test_the_true_gradient_is_blind_to_the_wall():
    angle = torch.tensor([10.0, 30.0, 60.0], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(ball_wall.distance(angle).sum(), angle)
    slope = 2 * V**2 / G * np.cos(2 * np.radians([10.0, 30.0, 60.0])) * np.pi / 180
    np.testing.assert_allclose(found, slope * [1, 0, 1])


def test_ascent_climbs_and_stays_in_range():
    start = torch.tensor([5.0, 40.0, 85.0])
    top = ball_wall.ascend(lambda x: -((x - 50.0) ** 2), start, 800, 0.2)
    np.testing.assert_allclose(top, 50.0, atol=0.05)
    assert ball_wall.ascend(lambda x: x, start, 800, 0.2).tolist() == [90.0] * 3
    # Over the jump, down to the plateau before it, where the gradient is zero.
    assert ball_wall.distance(ball_wall.ascend(ball_wall.distance, torch.tensor([60.0]), 300, 0.2)).item() == D


@pytest.mark.parametrize("kind", ball_wall.NETWORKS)
def test_networks_fit(kind):
    torch.manual_seed(0)
    model = ball_wall.fit(kind, BallWallConfig(units=32, updates=300))
    grid = torch.linspace(0.0, 90.0, 181)
    error = (model(grid) - ball_wall.distance(grid)).square().mean().sqrt()
    assert error < 0.35 * ball_wall.distance(grid).std()


def test_networks_differ_in_their_latent_alone():
    plain, simnorm = (ball_wall.Fit(kind, 16, 0.0, 1.0) for kind in ("mlp", "simnorm"))
    assert [p.shape for p in plain.parameters()] == [p.shape for p in simnorm.parameters()]
    latent = simnorm.network[:2](torch.randn(5, 1)).view(5, 2, 8)
    torch.testing.assert_close(latent.sum(-1), torch.ones(5, 2))


def test_rows_of_ball_wall():
    table = ball_wall.measure(QUICK_BALL, "test")
    assert list(table) == ball_wall.COLUMNS and set(table["scale"]) == {"test"}
    counts = table.groupby(["part", "model"]).size()
    assert counts["landscape"].to_dict() == {"true": 361} | dict.fromkeys(ball_wall.NETWORKS, 2 * 361)
    assert counts["ascent"].to_dict() == {"true": 7} | dict.fromkeys(ball_wall.NETWORKS, 14)
    np.testing.assert_allclose(table["true_m"], ball_wall.distance(torch.tensor(table["angle_deg"].to_numpy())))
    pd.testing.assert_frame_equal(ball_wall.measure(QUICK_BALL, "test"), table)


# --- gradients of returns ----------------------------------------------------------------------------------------


def test_the_pendulums_reward_is_the_height_of_its_tip():
    body, model = gradients.SYSTEMS["double_pendulum"], gradients.build_model("double_pendulum")
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(5):
        data.qpos[:], data.qvel[:] = body.start(model, rng)
        mujoco.mj_forward(model, data)
        tip = data.xpos[-1] + data.xmat[-1].reshape(3, 3) @ [0, 0, -0.3]
        reward = body.reward(data.qpos[None], data.qvel[None], np.array([[0.5]]))
        assert reward.item() == pytest.approx(tip[2] / 0.6 - 0.01 * 0.25)


@pytest.mark.parametrize("system", gradients.SYSTEMS)
def test_gradients_of_returns_against_finite_differences(system):
    steps, num, epsilon = 8, 6, 1e-6
    size = gradients.build_model(system).nu
    tape = torch.from_numpy(np.random.default_rng(1).uniform(-0.5, 0.5, (steps, num, size)))

    def paths(actions: torch.Tensor) -> gradients.Paths:
        given = iter(actions.clone())
        act = lambda _: next(given).requires_grad_()  # noqa: E731
        return gradients.roll_out(system, num, steps, act, np.random.default_rng(2))

    def value(actions: torch.Tensor, horizon: int) -> np.ndarray:
        discount = 0.99 ** np.arange(horizon)
        return discount @ paths(actions).reward[:horizon].detach().numpy()

    rolled = paths(tape)
    for horizon, ours in zip((3, 8), gradients.action_gradients(rolled.reward, rolled.action, (3, 8)), strict=True):
        direction = torch.from_numpy(np.random.default_rng(horizon).normal(size=tape.shape))
        change = value(tape + epsilon * direction, horizon) - value(tape - epsilon * direction, horizon)
        found = (ours * direction[:horizon]).sum((0, 2)).numpy()
        np.testing.assert_allclose(np.median(np.abs(found * 2 * epsilon / change - 1)), 0, atol=1e-4)


def test_each_samples_gradient_is_autograds():
    torch.manual_seed(0)
    policies = gradients.Policies(policies=2, samples=3, obs_dim=4, action_dim=2)
    weight, bias = (x.requires_grad_() for x in (policies.weight, policies.bias))
    obs, noise_seed = torch.randn(5, 6, 4, dtype=torch.float64), 7
    torch.manual_seed(noise_seed)
    action = torch.stack([policies(x) for x in obs])
    by_action = torch.randn_like(action)
    with torch.no_grad():
        found = policies.gradients(obs, action, by_action)
    assert found.shape == (2, 3, 2 * 4 + 2)
    for k in range(6):  # rollout k is sample k % 3 of policy k // 3
        value = (by_action[:, k].detach() * action[:, k]).sum()
        by_weight, by_bias = torch.autograd.grad(value, (weight, bias), retain_graph=True)
        expected = torch.cat([by_weight[k // 3].flatten(), by_bias[k // 3]])
        torch.testing.assert_close(found[k // 3, k % 3], expected)


def test_moments_of_gaussian_gradients():
    rng = torch.Generator().manual_seed(0)
    mean, std = torch.tensor([[3.0, 0.0, -1.0], [0.2, 0.1, 0.0]]), torch.tensor([0.5, 2.0, 1.0])
    drawn = mean[:, None] + std * torch.randn(2, 200_000, 3, generator=rng)
    found = gradients.quality(drawn.double())
    np.testing.assert_allclose(found.variance, [5.25, 5.25], rtol=0.02)
    np.testing.assert_allclose(found.esnr, [10 / 5.25, 0.05 / 5.25], rtol=0.03, atol=5e-4)
    np.testing.assert_allclose(found.mean, mean, atol=0.02)
    # From few samples of pure noise the naive ratio would be 1 / N.
    noise = gradients.quality(torch.randn(4000, 4, 50, generator=rng, dtype=torch.float64))
    assert abs(noise.esnr.mean().item()) < 0.01 and noise.variance.mean().item() == pytest.approx(50, rel=0.01)


def test_imagined_rewards_are_the_models_own():
    torch.manual_seed(0)
    model = make_model(observation_dim=4, action_dims=(2,))
    model.reward_scale.fill_(3.0)
    obs, action, task = torch.randn(5, 4), torch.rand(3, 5, 2), torch.zeros(5, dtype=torch.int64)
    z, expected = model.encode(obs, task), []
    for a in action:
        expected.append(3.0 * model.reward(z, a, task))
        z = model.next(z, a, task)
    torch.testing.assert_close(gradients.imagined_rewards(model, obs, list(action)), torch.stack(expected))


def test_windows_are_pieces_of_the_data():
    torch.manual_seed(0)
    data = gradients.random_episodes("double_pendulum", 3, 6, np.random.default_rng(0))
    batch = gradients.draw_windows(data, 50, 4)
    assert batch.obs.shape == (5, 50, 6) and batch.action.shape == (4, 50, 1)
    obs, action, reward = data.obs.float(), torch.stack(data.action).float(), data.reward.float()
    for k in range(50):
        places = [(t, e) for t in range(3) for e in range(3) if torch.equal(obs[t : t + 5, e], batch.obs[:, k])]
        ((t, e),) = places
        assert torch.equal(action[t : t + 4, e], batch.action[:, k]) and torch.equal(
            reward[t : t + 4, e], batch.reward[:, k]
        )


def test_rows_of_gradient_quality():
    quick = {"seeds": 1, "horizons": (1, 3), "policies": 2, "samples": 3, "episodes": 2}
    settings = GradientQualityConfig(**quick, updates=2, batch_size=4, units=8)
    table = gradients.measure(settings, "test")
    assert list(table) == gradients.COLUMNS
    worlds = {"true", *gradients.TRAINED_OVER}
    keys = {(s, w, 0, h) for s in gradients.SYSTEMS for w in worlds for h in (1, 3)}
    assert {*table[["system", "world", "seed", "horizon"]].itertuples(index=False, name=None)} == keys
    assert np.isfinite(table[["variance", "esnr", "cosine"]]).all(axis=None) and (table["variance"] > 0).all()
    np.testing.assert_allclose(table.query("world == 'true'")["cosine"], 1.0)
    pd.testing.assert_frame_equal(gradients.measure(settings, "test"), table)


# --- figures -----------------------------------------------------------------------------------------------------


def made_up(stem: str, scale: str = "demo") -> pd.DataFrame:
    """A measurement's table: straight landscapes, and powers of the horizon."""
    rows = []
    if stem == "ball_wall":
        for model, seeds in [("true", 1), *((name, 2) for name in ball_wall.NETWORKS)]:
            for seed in range(seeds):
                rows += [("landscape", model, seed, x, x, 5.0 + seed, 5.0) for x in np.linspace(0, 90, 7)]
                rows += [("ascent", model, seed, x, 50.0, x, 8.0 + seed - x / 10) for x in (0, 20)]
        table = pd.DataFrame(rows, columns=ball_wall_figure.COLUMNS)
    else:
        for system in quality_figure.SYSTEMS:
            for world in quality_figure.LOOKS:
                rows += [(system, world, k, h, 10.0 ** (h + k), 1 / h, 0.5) for k in range(3) for h in (1, 2, 4)]
        table = pd.DataFrame(rows, columns=quality_figure.COLUMNS)
    return table.assign(scale=scale, commit="abc1234")


@pytest.fixture
def few_resamples(monkeypatch):
    """Intervals only have to be there, not to be exact: 50 resamples are drawn instead of 2000."""
    bootstrap = statistics._bootstrap
    monkeypatch.setattr(statistics, "_bootstrap", lambda measure, scores, _, seed: bootstrap(measure, scores, 50, seed))


def read(stem: str, folder: Path, table: pd.DataFrame, scale: str = "demo") -> Measured:
    """What the figure's script reads."""
    module = importlib.import_module(f"workflows.figures.{stem}")
    file = folder / f"{stem}.csv"
    table.to_csv(file, index=False)
    words = ["--measured", str(file), "--scale", scale, "--out", str(folder / "out" / stem)]
    return read_measured(module.__file__, module.__doc__, module.COLUMNS, words)


@pytest.mark.parametrize("module", [ball_wall_figure, quality_figure])
def test_same_data_same_bytes_nothing_clipped(module, tmp_path, few_resamples):
    stem = module.__name__.rpartition(".")[2]
    written = []
    for _ in range(2):
        measured = read(stem, tmp_path, made_up(stem))
        figure, data = module.draw(measured)
        style.save(figure, data, measured)
        written.append([Path(f"{measured.out}.{ending}").read_bytes() for ending in ("pdf", "png", "csv")])
    assert written[0] == written[1] and list(data) == module.DATA_COLUMNS
    texts = {text.get_text() for text in figure.findobj(Text)}
    assert {"demo scale", *(look.label for look in module.LOOKS.values())} <= texts
    about = Image.open(f"{measured.out}.png").text
    assert about["Commit"] == "abc1234"
    command = f"python -m workflows.figures.{stem} --measured results/demo/gradients/{stem}.csv --scale demo"
    assert about["Command"] == f"{command} --out figures/demo/{stem}"
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 > -0.01 and drawn.y0 > -0.01 and drawn.x1 < width + 0.01 and drawn.y1 < height + 0.01


def test_ball_wall_draws_means_and_the_true_distance(tmp_path, few_resamples):
    _, data = ball_wall_figure.draw(read("ball_wall", tmp_path, made_up("ball_wall")))
    landscape = data.query("panel == 'landscape' and model == 'mlp'")
    np.testing.assert_allclose(landscape[["distance_m", "low", "high"]], [[5.5, 5.5 - 0.5**0.5, 5.5 + 0.5**0.5]] * 7)
    reached = data.query("panel == 'distance' and model == 'simnorm'").set_index("seed")["distance_m"]
    assert reached.to_dict() == {"mean": 7.5, 0: 7.0, 1: 8.0}  # of the true distance, over starts
    chosen = data.query("panel == 'chosen' and model == 'simnorm'")["distance_m"].item()
    assert chosen == 6.5  # true, of the ascent that the model says went far
    assert np.isnan(data.query("panel == 'distance' and model == 'true' and seed == 'mean'")["low"].item())


def test_gradient_quality_draws_means_of_seeds(tmp_path, few_resamples):
    _, data = quality_figure.draw(read("gradient_quality", tmp_path, made_up("gradient_quality")))
    means = data.query("system == 'hopper' and world == 'horizon3' and seed == 'mean'").set_index("quantity")
    np.testing.assert_allclose(means.loc["variance", "value"], [1e2, 1e3, 1e5])  # geometric over 10^h, 10^(h+1), …
    np.testing.assert_allclose(means.loc["esnr", "value"], [1, 0.5, 0.25])
    assert (means.loc["variance", "low"] < means.loc["variance", "value"]).all() and set(means["n"]) == {3}
    assert set(data.query("quantity == 'cosine'")["world"]) == {"horizon3", "horizon16"}


def test_other_files_are_refused(tmp_path):
    table = made_up("ball_wall")
    refusal(lambda: read("ball_wall", tmp_path, table, "paper"), "holds scale demo, not paper")
    refusal(lambda: read("ball_wall", tmp_path, table.drop(columns="true_m")), "no column true_m", "snakemake")
