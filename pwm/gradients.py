"""Stage `gradients`: policy gradients through true dynamics and through world models, by horizon (claim C5).

python -m pwm.gradients --config config.yaml --scale SCALE --out gradient_quality.csv

Random policies act in the true dynamics. The return of such a rollout, J_H = Σ_{h<H} γ^h r_h, is differentiated twice:
through the true dynamics and rewards, and through a world model's, unrolled from the encoded first observation along
the same actions. So start states, policies, actions and noise are the same for all, and only dJ/da differs. A policy
sees an observation without its gradient, as in PWM (paper, section 2), and its gradient is g = Σ_h dJ_H/da_h ∂a_h/∂θ.

The CSV file has a row for each system, dynamics (`world`: true, and horizon3 and horizon16 for models trained over so
many steps), seed and horizon; `Quality` defines the numbers. A killed measurement starts anew: it takes minutes.

Shapes: H horizon, P policies, N samples of a policy, B = P N rollouts, O observation, A action, θ: D parameters.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from pwm import config, provenance, runs
from pwm.config import PretrainConfig
from pwm.data.batch import Batch
from pwm.envs.differentiable import DifferentiableSimulation
from pwm.envs.double_pendulum import DoublePendulum
from pwm.envs.locomotion import BODIES, Simulation, build_model
from pwm.errors import exit_on_user_error
from pwm.gradient_settings import GradientQualityConfig
from pwm.model_learning import ModelTrainer
from pwm.nn.world_model import WorldModel

SYSTEMS = {"double_pendulum": DoublePendulum(), "hopper": BODIES["hopper"]}  # their motors take [-1, 1]
TRAINED_OVER = {"horizon3": 3, "horizon16": 16}  # steps of a window, by world model
GAMMA = 0.99
NOISE = math.exp(-1.0)  # standard deviation of the policies' noise before tanh, that of PWM's at first
COLUMNS = ["scale", "system", "world", "seed", "horizon", "variance", "esnr", "cosine", "policies", "samples", "commit"]


class Paths(NamedTuple):
    """Rollouts in the true dynamics, time first, float64."""

    obs: Tensor  # [H + 1, B, O]
    action: list[Tensor]  # H of [B, A]; leaves, where gradients are asked for
    reward: Tensor  # [H, B]


def roll_out(system: str, num: int, steps: int, act: Callable[[Tensor], Tensor], rng: np.random.Generator) -> Paths:
    """Roll `num` copies of a system out from random starts. No episode ends: a hopper that falls stays down.

    Args:
        system: one of `SYSTEMS`.
        num, steps: B and H.
        act: observations [B, O] → actions [B, A], float64.
        rng: of the start states.

    Raises:
        FloatingPointError: the physics diverged.
    """
    body, model = SYSTEMS[system], build_model(system)
    simulation = Simulation(model, num)
    differentiable = DifferentiableSimulation(simulation, system)
    starts = zip(*(body.start(model, rng) for _ in range(num)), strict=True)
    state = tuple(torch.from_numpy(np.stack(part)) for part in starts)
    obs, actions, rewards = [body.observe(*state, torch.zeros(num, model.nu))], [], []
    for _ in range(steps):
        actions.append(act(obs[-1].detach()))
        state = differentiable(*state, actions[-1])
        obs.append(body.observe(*state, actions[-1]))
        rewards.append(body.reward(*state, actions[-1]))
    return Paths(torch.stack(obs).detach(), actions, torch.stack(rewards))


def random_episodes(system: str, num: int, steps: int, rng: np.random.Generator) -> Paths:
    """Rollouts of uniformly random actions: the world models' data."""
    size = build_model(system).nu
    with torch.no_grad():
        return roll_out(system, num, steps, lambda obs: 2.0 * torch.rand(num, size, dtype=obs.dtype) - 1.0, rng)


def draw_windows(data: Paths, size: int, horizon: int) -> Batch:
    """`size` windows of the data, drawn uniformly."""
    steps, episodes = data.reward.shape
    episode = torch.randint(episodes, (size,))
    time = torch.randint(steps - horizon + 1, (size,)) + torch.arange(horizon + 1)[:, None]
    obs, reward = data.obs[time, episode].float(), data.reward[time[:-1], episode].float()
    action = torch.stack(data.action)[time[:-1], episode].float()
    return Batch(obs, action, reward, torch.zeros_like(reward), torch.zeros(size, dtype=torch.int64))


def train_model(data: Paths, settings: PretrainConfig, label: str) -> WorldModel:
    """A world model trained by PWM's objective on windows of `settings.horizon` steps."""
    model = WorldModel(settings.world_model, data.obs.shape[-1], [data.action[0].shape[-1]])
    model.reward_scale.fill_(max(data.reward.std().item(), 1e-4))
    trainer = ModelTrainer(model, settings, torch.tensor([GAMMA]))
    for update in tqdm(range(settings.updates), desc=label, unit="update", mininterval=2.0):
        trainer.update(draw_windows(data, settings.batch_size, settings.horizon), update / settings.updates)
    return model


class Policies:
    """P random stochastic policies a = tanh(W s + b + σ ε), W [P, A, O], b [P, A]; N rollouts of each side by side."""

    def __init__(self, policies: int, samples: int, obs_dim: int, action_dim: int) -> None:
        self.shape = policies, samples
        self.weight = torch.randn(policies, action_dim, obs_dim, dtype=torch.float64) / obs_dim**0.5
        self.bias = torch.randn(policies, action_dim, dtype=torch.float64)

    def __call__(self, obs: Tensor) -> Tensor:
        """Observations [P N, O] → actions [P N, A], whose gradients may be asked for."""
        seen = obs.unflatten(0, self.shape)
        mean = torch.einsum("pao,pno->pna", self.weight, seen) + self.bias[:, None]
        return torch.tanh(mean + NOISE * torch.randn_like(mean)).flatten(0, 1).requires_grad_()

    def gradients(self, obs: Tensor, action: Tensor, by_action: Tensor) -> Tensor:
        """Every sample's own gradient with respect to its policy's W and b, exactly: [P, N, D].

        Args:
            obs, action: what was seen and done, [H, P N, O] and [H, P N, A].
            by_action: dJ/da [H, P N, A].
        """
        inner, seen = (x.unflatten(1, self.shape) for x in (by_action * (1.0 - action**2), obs))
        by_weight = torch.einsum("hpna,hpno->pnao", inner, seen)
        return torch.cat([by_weight.flatten(2), inner.sum(0)], dim=-1)


def action_gradients(reward: Tensor, action: Sequence[Tensor], horizons: Sequence[int]) -> Iterator[Tensor]:
    """dJ_H/da [H, B, A] for each H of `horizons`; rewards [steps, B] are functions of the actions, a leaf a step."""
    discount = GAMMA ** torch.arange(len(reward), dtype=reward.dtype)
    for horizon in horizons:
        total = (discount[:horizon, None] * reward[:horizon]).sum()
        yield torch.stack(torch.autograd.grad(total, action[:horizon], retain_graph=True))


def imagined_rewards(model: WorldModel, first_obs: Tensor, action: Sequence[Tensor]) -> Tensor:
    """Rewards [H, B] in the system's units along given actions, the model unrolled from E(s_0), open loop."""
    actions, task = torch.stack(list(action)).float(), torch.zeros(len(first_obs), dtype=torch.int64)
    z = model.unroll(model.encode(first_obs.float(), task), actions, task)
    return model.decode_reward(model.reward(z[:-1], actions, task), task)


class Quality(NamedTuple):
    """What N samples [N, D] of each policy's gradient say, [P] each.

    variance: tr Var g, that of one sample: the sum over parameters of the unbiased sample variance.
    esnr: ‖E g‖² / tr Var g, whose mean over policies is the expected signal-to-noise ratio (paper, claim C5; Parmas et
        al. 2023). ‖E g‖² is estimated without bias, ‖ḡ‖² − tr Var g / N, and so negative where noise is all there is.
    mean: ḡ, [P, D].
    """

    variance: Tensor
    esnr: Tensor
    mean: Tensor


def quality(gradients: Tensor) -> Quality:
    """Of gradients [P, N, D]."""
    mean, variance = gradients.mean(1), gradients.var(1, unbiased=True).sum(-1)
    signal = mean.square().sum(-1) - variance / gradients.shape[1]
    return Quality(variance, signal / variance, mean)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of the angle between gradients [P, D] each, [P]."""
    return torch.nn.functional.cosine_similarity(x, y, dim=-1, eps=1e-30)


def measure_seed(system: str, seed: int, settings: GradientQualityConfig) -> Iterator[dict[str, object]]:
    """The rows of one system and seed, without what is the same for all."""
    runs.seed_everything(seed)
    rng, steps = np.random.default_rng(seed), max(settings.horizons)
    data = random_episodes(system, settings.episodes, max(steps, *TRAINED_OVER.values()), rng)
    models = {}
    for world, horizon in TRAINED_OVER.items():
        models[world] = train_model(data, settings.world_model(horizon), f"{system} seed {seed} {world}")
    policies = Policies(settings.policies, settings.samples, data.obs.shape[-1], data.action[0].shape[-1])
    paths = roll_out(system, settings.policies * settings.samples, steps, policies, rng)
    action = torch.stack(paths.action).detach()
    rewards = {"true": paths.reward}
    rewards |= {world: imagined_rewards(model, paths.obs[0], paths.action) for world, model in models.items()}
    truth: dict[int, Tensor] = {}
    for world, reward in rewards.items():
        found = action_gradients(reward, paths.action, settings.horizons)
        for horizon, by_action in zip(settings.horizons, found, strict=True):
            samples = policies.gradients(paths.obs[:horizon], action[:horizon], by_action)
            here = quality(samples)
            along = cosine(here.mean, truth.setdefault(horizon, here.mean))
            means = {"variance": here.variance, "esnr": here.esnr, "cosine": along}
            row = {"system": system, "world": world, "seed": seed, "horizon": horizon}
            yield row | {name: value.mean().item() for name, value in means.items()}


def measure(settings: GradientQualityConfig, scale: str) -> pd.DataFrame:
    """All rows of the CSV file."""
    found = [
        row for system in SYSTEMS for seed in range(settings.seeds) for row in measure_seed(system, seed, settings)
    ]
    sizes = {"policies": settings.policies, "samples": settings.samples}
    return pd.DataFrame(found).assign(scale=scale, commit=provenance.commit(), **sizes)[COLUMNS]


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.gradients", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--scale", required=True, help="name of the scale, such as demo")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    args = parser.parse_args()
    table = measure(config.load(GradientQualityConfig, args.config), args.scale)
    runs.write_atomically(args.out, table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))


if __name__ == "__main__":
    main()
