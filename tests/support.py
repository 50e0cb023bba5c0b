"""What several test files share: tiny networks, configs, data sets and batches."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pwm.config import EvaluationConfig, ExtractConfig, ModelConfig, PretrainConfig, RunConfig, WorldModelConfig
from pwm.data.batch import Batch
from pwm.data.episodes import EpisodeWriter
from pwm.envs.tasks import get_task
from pwm.errors import UserError
from pwm.nn.world_model import WorldModel

TINY = {"encoder": (16,), "units": (16,), "latent_dim": 16}
TINY_POLICY = {"actor_units": (16,), "critic_units": (16,)}
EVALUATION = EvaluationConfig(curve_points=2, curve_episodes=1)


def model_settings(bins: int = 0, num_q: int = 0, **changes: object) -> PretrainConfig:
    """Settings of a tiny world model, with a scalar head or `bins` bins."""
    network = WorldModelConfig(**TINY, reward_bins=bins, task_dim=4, num_q=num_q)
    return PretrainConfig(**{"world_model": network, "updates": 20, "batch_size": 8, "horizon": 3} | changes)


def model_config(*tasks: str, seed: int = 0, **changes: object) -> ModelConfig:
    """A tiny world model of `tasks`."""
    settings = model_settings(**changes)
    return ModelConfig(scale="test", suite="mt30", variant="default", tasks=tasks, seed=seed, settings=settings)


def run_config(task: str, algorithm: str = "pwm", seed: int = 0, **settings: object) -> RunConfig:
    """A tiny run; the settings of PWM are completed from the defaults."""
    if algorithm == "pwm":
        small = {"updates": 12, "batch_size": 8, "horizon": 3, **TINY_POLICY}
        settings = ExtractConfig(**small | settings).model_dump(mode="json")
    identity = {"scale": "test", "suite": "mt30", "task": task, "algorithm": algorithm, "variant": "default"}
    return RunConfig(**identity, seed=seed, settings=settings, evaluation=EVALUATION)


def make_model(
    bins: int = 0, action_dims: tuple[int, ...] = (2,), observation_dim: int = 5, **network: object
) -> WorldModel:
    """A world model whose every weight is large enough to matter, the reward's zero ones included."""
    settings = WorldModelConfig(**{**TINY, "reward_bins": bins, "task_dim": 4} | network)
    model = WorldModel(settings, observation_dim, action_dims)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_batch(horizon: int, size: int, tasks: int = 1, observation_dim: int = 5, action_dim: int = 2) -> Batch:
    """Random windows."""
    return Batch(
        torch.randn(horizon + 1, size, observation_dim),
        torch.rand(horizon, size, action_dim) * 2 - 1,
        torch.randn(horizon, size),
        torch.zeros(horizon, size),
        torch.randint(tasks, (size,)),
    )


def write_episodes(
    folder: Path,
    task: str,
    lengths: tuple[int, ...] = (9, 6, 12),
    seed: int = 0,
    policy_returns: tuple[float, ...] = (),
) -> Path:
    """A data set of random numbers in the sizes of `task`."""
    sizes, rng = get_task(task), np.random.default_rng(seed)
    observation_dim, action_dim = sizes.observation_dim, sizes.action_dim
    writer = EpisodeWriter(folder, task, observation_dim, action_dim, sizes.episode_length, len(lengths))
    for n in lengths:
        action = rng.uniform(-1, 1, (n, action_dim))
        writer.add(rng.normal(size=(n + 1, observation_dim)), action, rng.normal(size=n), terminated=False)
    writer.commit({"behaviour": "made up"}, seed, policy_returns)
    return folder


def refusal(action, *parts: str) -> str:
    """The one line by which `action()` refuses; it holds every one of `parts`."""
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert re.search(re.escape(part), message), f"{part!r} is not in {message!r}"
    return message
