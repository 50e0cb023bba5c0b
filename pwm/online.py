"""PWM's online single-task loop: act in the environment, learn the world model from it, ascend through it.

Used by the stage `extract` where a run's settings have an `online` block (paper, section 2). The policy acts on the
model's own latent; real observations are encoded only at a window's start and after resets, unless `reencode` is set.
"""

import numpy as np
import torch
from torch import Tensor

from pwm import config, envs, runs
from pwm.agent import PolicyTrainer, RunningVariance
from pwm.config import ExtractConfig, ModelConfig
from pwm.data.episodes import Episodes
from pwm.data.replay import Replay
from pwm.envs import TaskVectorEnv
from pwm.evaluate import curve_point, curve_updates, episode_seed
from pwm.extract import (
    Finetuner,
    fingerprint,
    finish,
    latent_policy,
    load_state,
    make_trainer,
    standardise_latents,
    value_check,
)
from pwm.nn.world_model import WorldModel


def fill(replay: Replay, data: Episodes, num_envs: int, capacity: int) -> None:
    """Begin a replay with the newest transitions of a data set, as if the environments had seen them in turn.

    Args:
        replay: empty, of `num_envs` environments.
        data: the task's episodes.
        num_envs: its environments, each of which gets a run of consecutive transitions.
        capacity: transitions that it holds.
    """
    later = np.cumsum(data.length[::-1])[::-1] - data.length  # transitions after each episode
    kept = np.flatnonzero(later < capacity)
    length, step = data.length[kept, None], np.arange(data.meta.episode_length)
    total = int(length.sum())
    rows = min(total, capacity) // num_envs

    def columns(x: np.ndarray) -> np.ndarray:
        """[E, T, ...] → [rows, num_envs, ...]."""
        newest = x[step < length][total - rows * num_envs :]
        return newest.reshape(num_envs, rows, *x.shape[2:]).swapaxes(0, 1)

    parts = (data.obs[kept, :-1], data.action[kept], data.reward[kept], data.terminated[kept], data.obs[kept, 1:])
    obs, action, reward, terminated, next_obs = map(columns, parts)
    ends = columns(step == length - 1)
    ends[-1:] = True  # what the environments do next does not follow from it
    for row in zip(obs, action, reward, terminated, ends, next_obs, strict=True):
        replay.add(*row)


class OnlineEnvironment:
    """The real environments beside the model's rollout: steps them, stores the transitions, reports episode ends.

    Args:
        env: parallel environments, B, of the task.
        capacity: transitions kept for training the world model.
        seed: of the environments and of the replay's draws.
        model: the world model, whose reward scale follows the rewards seen.
        data: the episodes that the world model was trained on, with which replay and reward scale begin. None: they
            begin empty.
    """

    def __init__(
        self, env: TaskVectorEnv, capacity: int, seed: int, model: WorldModel, data: Episodes | None = None
    ) -> None:
        self.model = model
        self.env = env
        self.obs, _ = env.reset(seed=seed)
        self.replay = Replay(capacity, env.num_envs, env.task.observation_dim, env.task.action_dim, seed)
        self.task = torch.zeros(env.num_envs, dtype=torch.long, device=model.action_mask.device)
        self.reward_scale = RunningVariance()
        if data is not None:
            fill(self.replay, data, env.num_envs, capacity)
            taken = np.arange(data.meta.episode_length) < data.length[:, None]
            self.reward_scale.update(torch.from_numpy(data.reward[taken]))
        self.env_steps = 0

    def scale_rewards(self) -> None:
        """Let a model with a scalar head learn rewards in units of their standard deviation so far."""
        if not self.model.config.reward_bins:
            self.model.reward_scale.fill_(self.reward_scale.std)

    @torch.no_grad()
    def encode(self) -> Tensor:
        """Latents of the current observations [B, Z]."""
        return self.model.encode(torch.from_numpy(self.obs).to(self.task.device), self.task)

    def __call__(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step all environments (`pwm.agent.Environment`)."""
        ended, terminated = self.step(action.cpu().numpy())
        ends, terminated = (
            torch.from_numpy(flag.astype(np.float32)).to(self.task.device) for flag in (ended, terminated)
        )
        return ends, terminated, self.encode()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Step all environments by actions [B, A] and store it; where episodes ended, and of those, terminated [B]."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.replay.add(self.obs, action, reward, terminated, truncated, info["final_obs"])
        # Deviation D15: of all rewards seen, which are only divided by it; the public code also centres and clips them.
        if not self.model.config.reward_bins:
            self.reward_scale.update(torch.from_numpy(reward))
        self.obs = obs
        self.env_steps += len(obs)
        return terminated | truncated, terminated

    def state(self) -> dict:
        """Everything needed to go on exactly."""
        return {
            "env": {name: torch.from_numpy(value) for name, value in self.env.state().items()},
            "obs": torch.from_numpy(self.obs),
            "replay": self.replay.state(),
            "reward_scale": self.reward_scale.state(),
            "env_steps": self.env_steps,
        }

    def restore(self, state: dict) -> None:
        """Go on from `state()`."""
        self.env.restore({name: value.cpu().numpy() for name, value in state["env"].items()})
        self.obs = state["obs"].cpu().numpy()
        self.replay.restore(state["replay"])
        self.reward_scale = RunningVariance(*state["reward_scale"])
        self.env_steps = state["env_steps"]


def online_update(trainer: PolicyTrainer, tuner: Finetuner, world: OnlineEnvironment) -> dict[str, Tensor | float]:
    """H steps in every environment, one actor step, the critic's passes, then the world model's updates.

    Returns:
        The metrics of the policy update and of the last model update.
    """
    progress = trainer.progress
    metrics = trainer.update(world.encode(), world.task, world)
    world.scale_rewards()
    return metrics | tuner.update(progress)


def train_online(run: runs.Run, model: WorldModel, model_config: ModelConfig, data: Episodes) -> None:
    """Train policy and world model of `run.config` online and finish the run; the replay begins with `data`."""
    settings = config.validate(ExtractConfig, run.config.settings, "settings")
    online, model_hash = settings.online, fingerprint(model)
    trainer = make_trainer(settings, model, run.device)
    standardise_latents(trainer, data, 0)
    seed = episode_seed("training", run.config.seed)
    env = envs.make(run.config.task, online.num_envs, seed)
    world = OnlineEnvironment(env, online.replay_capacity, seed, model, data)
    trained = model_config.settings
    draw = lambda: world.replay.sample(online.model_batch_size, trained.horizon)  # noqa: E731
    tuner = Finetuner(model, trained, model_config.tasks, online, draw)
    policy = latent_policy(model, trainer.actor, 0, env.task.action_dim)
    measure = value_check(trainer, 0)
    if state := load_state(run, model_hash):
        trainer.restore(state["trainer"])
        tuner.trainer.restore(state["tuner"])
        world.restore(state["world"])
    else:
        curve_point(run, policy, env_steps=0, updates=0, measure=measure)
    points = curve_updates(settings.updates, run.config.evaluation.curve_points)
    for _ in run.progress(settings.updates, trainer.updates):
        metrics = online_update(trainer, tuner, world)
        run.watch(trainer.updates, metrics)
        if trainer.updates in points:
            curve_point(run, policy, world.env_steps, trainer.updates, measure=measure, **metrics)
        run.save_state(
            lambda: {
                "model_hash": model_hash,
                "trainer": trainer.state(),
                "tuner": tuner.trainer.state(),
                "world": world.state(),
            }
        )
    finish(run, trainer, model_config)
