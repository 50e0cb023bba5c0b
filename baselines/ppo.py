"""PPO by stable-baselines3: the unit in which the locomotion suite's scores are given.

Heavy libraries are imported inside the functions, so that reading the settings of all baselines stays fast.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pwm import config
from pwm.algorithms import Policy
from pwm.config import Config, Positive, Rate, Share, Units
from pwm.envs.tasks import SUITES as ALL_SUITES
from pwm.envs.tasks import get_task

if TYPE_CHECKING:
    from torch import nn

    from pwm.runs import Run

SUITES = tuple(ALL_SUITES)
CLIP_OBS = 10.0  # normalised observations are clipped to ± this


class Settings(Config):
    """Hyper-parameters; the names are stable-baselines3's where it has one."""

    env_steps: Positive = 20_000_000  # decisions, over all environments
    num_envs: Positive = 64
    n_steps: Positive = 32  # per environment between updates
    batch_size: Annotated[int, Field(ge=2)] = 512  # advantages are normalised within it
    n_epochs: Positive = 5
    learning_rate: Rate = 3e-4
    final_lr: Rate = 3e-4  # reached linearly
    gamma: Share = 0.99
    gae_lambda: Share = 0.95
    clip_range: Rate = 0.2
    ent_coef: float = 0.0
    max_grad_norm: Rate = 1.0
    target_kl: Rate | None = None  # an update ends early beyond it
    log_std_init: float = 0.0
    units: Units = (256, 128, 64)
    activation: Literal["tanh", "elu"] = "tanh"


def train(run: "Run") -> None:
    """Train on normalised observations and rewards; `updates` counts passes over the rollouts."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecNormalize

    from pwm import envs
    from pwm.envs.sb3 import SB3VecEnv
    from pwm.evaluate import episode_seed
    from pwm.sb3 import train_baseline

    settings = config.validate(Settings, run.config.settings, "settings")
    env = SB3VecEnv(envs.make(run.config.task, settings.num_envs))
    normalised = VecNormalize(env, gamma=settings.gamma, clip_obs=CLIP_OBS)
    own = settings.model_dump(
        exclude={"env_steps", "num_envs", "learning_rate", "final_lr", "log_std_init", "units", "activation"}
    )
    network = {"net_arch": list(settings.units), "activation_fn": _activation(settings)}
    learner = PPO(
        "MlpPolicy",
        normalised,
        learning_rate=lambda left: settings.final_lr + (settings.learning_rate - settings.final_lr) * left,
        policy_kwargs=network | {"log_std_init": settings.log_std_init},
        seed=run.config.seed,
        device=run.device,
        **own,
    )
    normalised.seed(episode_seed("training", run.config.seed))  # the learner has seeded it with the bare run seed
    export = lambda: _tensors(learner)  # noqa: E731
    make_policy = lambda tensors: _policy(tensors, settings, run.config.task)  # noqa: E731
    train_baseline(learner, env, run, settings.env_steps, export, make_policy)


def load_policy(folder: Path) -> Policy:
    """The deterministic policy of a finished run."""
    from pwm.evaluate import load_trained

    tensors, _, run_config, settings = load_trained(folder, Settings)
    return _policy(tensors, settings, run_config.task)


def _tensors(learner: Any) -> dict[str, Any]:
    """What the deterministic policy needs: the layers of its mean and the observations' mean and variance."""
    import torch

    policy, statistics = learner.policy, learner.get_vec_normalize_env().obs_rms
    layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    weights = {f"mean.{i}.{k}": v for i, layer in enumerate(layers) for k, v in layer.state_dict().items()}
    moments = {"obs_mean": statistics.mean, "obs_var": statistics.var}
    return weights | {name: torch.from_numpy(value.copy()) for name, value in moments.items()}


def _activation(settings: Settings) -> "type[nn.Module]":
    from torch import nn

    return {"tanh": nn.Tanh, "elu": nn.ELU}[settings.activation]


def _network(settings: Settings, task: str) -> "nn.Sequential":
    from torch import nn

    widths = [get_task(task).observation_dim, *settings.units]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), _activation(settings)()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], get_task(task).action_dim))


def _policy(tensors: dict[str, Any], settings: Settings, task: str) -> Policy:
    import torch

    network = _network(settings, task)
    network.load_state_dict({k.removeprefix("mean."): v.cpu() for k, v in tensors.items() if k.startswith("mean.")})
    mean, std = tensors["obs_mean"].numpy(), np.sqrt(tensors["obs_var"].numpy() + 1e-8)

    @torch.no_grad()
    def policy(obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        normalised = np.clip((obs - mean) / std, -CLIP_OBS, CLIP_OBS).astype(np.float32)
        return network(torch.from_numpy(normalised)).clamp(-1.0, 1.0).numpy()

    return policy
