"""SAC by stable-baselines3."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pwm import config
from pwm.algorithms import Policy
from pwm.config import Positive, SACSettings
from pwm.envs.tasks import SUITES as ALL_SUITES
from pwm.envs.tasks import get_task

if TYPE_CHECKING:
    from pwm.runs import Run

SUITES = tuple(ALL_SUITES)


class Settings(SACSettings):
    """Hyper-parameters."""

    env_steps: Positive = 1_000_000  # decisions, over all environments
    learning_rate: config.Rate = 3e-4
    random_steps: Positive = 10_000  # decisions before the first update


def train(run: "Run") -> None:
    """Train on observations and rewards as they are; `updates` counts gradient steps."""
    from pwm import envs
    from pwm.envs.sb3 import SB3VecEnv
    from pwm.evaluate import episode_seed
    from pwm.sb3 import make_sac, train_baseline

    settings = config.validate(Settings, run.config.settings, "settings")
    env = SB3VecEnv(envs.make(run.config.task, settings.num_envs))
    learner = make_sac(settings, env, run)
    env.seed(episode_seed("training", run.config.seed))  # the learner has seeded it with the bare run seed
    make_policy = lambda tensors: _policy(tensors, settings, run.config.task)  # noqa: E731
    train_baseline(learner, env, run, settings.env_steps, lambda: _tensors(learner), make_policy)


def load_policy(folder: Path) -> Policy:
    """The deterministic policy of a finished run."""
    from pwm.evaluate import load_trained

    tensors, _, run_config, settings = load_trained(folder, Settings)
    return _policy(tensors, settings, run_config.task)


def _tensors(learner: Any) -> dict[str, Any]:
    """The layers of the policy's mean."""
    actor = learner.policy.actor
    return {
        f"{i}.{k}": v for i, layer in enumerate([*actor.latent_pi, actor.mu]) for k, v in layer.state_dict().items()
    }


def _policy(tensors: dict[str, Any], settings: Settings, task: str) -> Policy:
    import torch
    from torch import nn

    widths = [get_task(task).observation_dim, *settings.units]
    hidden = [module for pair in itertools.pairwise(widths) for module in (nn.Linear(*pair), nn.ReLU())]
    network = nn.Sequential(*hidden, nn.Linear(widths[-1], get_task(task).action_dim), nn.Tanh())
    network.load_state_dict({name: value.cpu() for name, value in tensors.items()})

    @torch.no_grad()
    def policy(obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(obs)).numpy()

    return policy
