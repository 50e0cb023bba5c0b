"""Stage `ball_wall`: a throw over a wall, networks fitted to its distance, and where ascent through each ends.

python -m pwm.ball_wall --config config.yaml --scale SCALE --out ball_wall.csv

A ball thrown from the ground at an angle θ with speed v lands after v² sin 2θ / g, unless it meets a wall on its way,
at whose foot it falls. The distance jumps where the ball just clears the wall, and its optimum is such a jump: the
paper's example of a landscape whose gradients mislead. Angles are in degrees, lengths in metres, [N] of each.

The CSV file has a row for every angle of the landscape (`part` landscape) and for every start of an ascent (ascent,
from `start_deg` to `angle_deg`), by `model` (true, or one of `NETWORKS`) and seed: `model_m` is the distance that the
model gives at `angle_deg`, `true_m` the true one. It takes a minute or two, so a killed one starts anew.
"""

# Deviation D24: the paper does not give its wall, speed and networks; these are our own.

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pwm import config, provenance, runs
from pwm.errors import exit_on_user_error
from pwm.gradient_settings import BallWallConfig
from pwm.nn.layers import Linear, Mish, NormedLinear, SimNorm

SPEED = 10.0  # m/s
GRAVITY = 9.81  # m/s²
WALL_DISTANCE = 5.0  # m
WALL_HEIGHT = 3.0  # m: higher than the widest throw, that of 45°, is there
LANDSCAPE_POINTS = 361  # from 0° to 90°
SIMPLEX = 8  # features of a group of SimNorm
NETWORKS = ("mlp", "simnorm", "simnorm_layernorm")
COLUMNS = ["scale", "part", "model", "seed", "start_deg", "angle_deg", "model_m", "true_m", "commit"]

Distance = Callable[[Tensor], Tensor]  # angles [N] → distances [N]


def distance(angle: Tensor) -> Tensor:
    """How far the ball gets: v² sin 2θ / g, or the wall's distance d where it meets the wall.

    It does where it is still in the air at d, at a height d tan θ − g d² / (2 v² cos² θ) below the wall's. The gradient
    is the exact one almost everywhere: zero before the wall, blind to the jumps.
    """
    theta = torch.deg2rad(angle)
    free = SPEED**2 / GRAVITY * torch.sin(2.0 * theta)
    drop = GRAVITY * WALL_DISTANCE**2 / (2.0 * SPEED**2 * torch.cos(theta) ** 2)
    stopped = (free > WALL_DISTANCE) & (WALL_DISTANCE * torch.tan(theta) - drop < WALL_HEIGHT)
    return torch.where(stopped, WALL_DISTANCE, free)


class Fit(nn.Module):
    """A network from angle to distance: one hidden layer, a latent, a linear output, of the same widths for all.

    Args:
        kind: "mlp", a plain one; "simnorm", whose latent is a SimNorm instead; "simnorm_layernorm", with LayerNorm too:
            the layers of the world model.
        units: width of the hidden layer and the latent.
        mean, std: of the distances it is fitted to, which standardise its output.
    """

    def __init__(self, kind: str, units: int, mean: float, std: float) -> None:
        super().__init__()
        normed = kind == "simnorm_layernorm"
        latent = Mish() if kind == "mlp" else SimNorm(SIMPLEX)
        hidden = [NormedLinear(1, units, Mish(), normed), NormedLinear(units, units, latent, normed)]
        self.network = nn.Sequential(*hidden, Linear(units, 1))
        self.mean, self.std = mean, std

    def forward(self, angle: Tensor) -> Tensor:
        """Angles [N] → distances [N]."""
        return self.mean + self.std * self.network((angle / 45.0 - 1.0).unsqueeze(-1)).squeeze(-1)


def fit(kind: str, settings: BallWallConfig) -> Fit:
    """A network fitted to the distances of uniformly random angles, by the mean squared error."""
    angle = 90.0 * torch.rand(settings.samples)
    target = distance(angle)
    model = Fit(kind, settings.units, target.mean().item(), target.std().item())
    optimiser = torch.optim.Adam(model.parameters(), settings.learning_rate)
    for _ in range(settings.updates):
        optimiser.zero_grad()
        F.mse_loss(model(angle), target).backward()
        optimiser.step()
    return model.eval()


def ascend(model: Distance, start: Tensor, steps: int, rate: float) -> Tensor:
    """The angles [N] that Adam reaches from `start` [N] by the model's gradient; they stay within 0° and 90°."""
    angle = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([angle], rate)
    for _ in range(steps):
        (angle.grad,) = torch.autograd.grad(-model(angle).sum(), angle)
        optimiser.step()
        with torch.no_grad():
            angle.clamp_(0.0, 90.0)
    return angle.detach()


def rows(name: str, seed: int, model: Distance, settings: BallWallConfig) -> pd.DataFrame:
    """The landscape of a model and its ascents, as rows of the CSV file."""
    start = torch.linspace(0.0, 90.0, settings.starts)
    reached = ascend(model, start, settings.ascent_steps, settings.ascent_rate)
    grid = torch.linspace(0.0, 90.0, LANDSCAPE_POINTS)
    parts = {"landscape": (grid, grid), "ascent": (start, reached)}
    tables = []
    for part, (begin, angle) in parts.items():
        with torch.no_grad():
            table = {"angle_deg": angle.numpy(), "model_m": model(angle).numpy(), "true_m": distance(angle).numpy()}
        tables.append(pd.DataFrame(table).assign(part=part, start_deg=begin.numpy()))
    return pd.concat(tables).assign(model=name, seed=seed)


def measure(settings: BallWallConfig, scale: str) -> pd.DataFrame:
    """All rows of the CSV file: the true landscape once, as seed 0, and a fit of every kind for every seed."""
    tables = [rows("true", 0, distance, settings)]
    for seed in tqdm(range(settings.seeds), desc="ball-wall", unit="seed", mininterval=2.0):
        for kind in NETWORKS:
            runs.seed_everything(seed)  # all kinds see the same angles
            tables.append(rows(kind, seed, fit(kind, settings), settings))
    return pd.concat(tables).assign(scale=scale, commit=provenance.commit())[COLUMNS]


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.ball_wall", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--scale", required=True, help="name of the scale, such as demo")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    args = parser.parse_args()
    table = measure(config.load(BallWallConfig, args.config), args.scale)
    runs.write_atomically(args.out, table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))


if __name__ == "__main__":
    main()
