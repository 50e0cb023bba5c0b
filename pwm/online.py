"""PWM's online single-task loop: act in the environment, learn the world model from it, ascend through it.

Used by the stage `extract` where a run's settings have an `online` block (paper, section 2).
"""

import numpy as np
import torch
from torch import Tensor

from pwm import config, envs, runs
from pwm.agent import ModelTrainer, PolicyTrainer, RunningVariance
from pwm.config import ExtractConfig, ModelConfig, OnlineConfig
from pwm.data.replay import Replay
from pwm.envs import TaskVectorEnv
from pwm.evaluate import curve_point, curve_updates, episode_seed
from pwm.extract import finish, latent_policy, make_trainer
from pwm.nn.world_model import WorldModel
from pwm.pretrain import to_device


class OnlineEnvironment:
    """The real environments beside the model's rollout: steps them, stores the transitions, reports episode ends.

    The policy acts on the model's own latent; real observations are encoded only at a window's start and after resets.

    Args:
        env: parallel environments, B, of the task.
        capacity: transitions kept for training the world model.
        seed: of the environments and of the replay's draws.
        model: the world model, whose reward scale follows the rewards seen.
    """

    def __init__(self, env: TaskVectorEnv, capacity: int, seed: int, model: WorldModel) -> None:
        self.model = model
        self.env = env
        self.obs, _ = env.reset(seed=seed)
        self.replay = Replay(capacity, env.num_envs, env.task.observation_dim, env.task.action_dim, seed)
        self.task = torch.zeros(env.num_envs, dtype=torch.long, device=model.action_mask.device)
        self.reward_scale = RunningVariance(variance=model.reward_scale.item() ** 2, count=float(env.num_envs))
        self.env_steps = 0

    @torch.no_grad()
    def encode(self) -> Tensor:
        """Latents of the current observations [B, Z]."""
        return self.model.encode(torch.from_numpy(self.obs).to(self.task.device), self.task)

    def __call__(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step all environments (`pwm.agent.Environment`)."""
        action = action.cpu().numpy()
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.replay.add(self.obs, action, reward, terminated, truncated, info["final_obs"])
        self.reward_scale.update(torch.from_numpy(reward))
        self.obs = obs
        self.env_steps += len(obs)
        ends, terminated = (
            torch.from_numpy(flag.astype(np.float32)).to(self.task.device)
            for flag in (terminated | truncated, terminated)
        )
        return ends, terminated, self.encode()

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


def online_update(
    trainer: PolicyTrainer, model_trainer: ModelTrainer, world: OnlineEnvironment, online: OnlineConfig
) -> dict[str, Tensor | float]:
    """H steps in every environment, one actor step, the critic's passes, then `model_updates` updates of the world
    model on windows of the replay.

    Returns:
        The metrics of the policy update and of the last model update.
    """
    metrics = trainer.update(world.encode(), world.task, world)
    if not world.model.config.reward_bins:
        world.model.reward_scale.fill_(world.reward_scale.std)
    for _ in range(online.model_updates):
        batch = world.replay.sample(online.model_batch_size, model_trainer.config.horizon)
        model_metrics = model_trainer.update(to_device(batch, world.task.device), progress=1.0)
    return metrics | model_metrics


def train_online(run: runs.Run, model: WorldModel, model_config: ModelConfig) -> None:
    """Train policy and world model of `run.config` online and finish the run."""
    settings = config.validate(ExtractConfig, run.config.settings, "settings")
    online = settings.online
    trainer = make_trainer(settings, model, run.device)
    model_trainer = ModelTrainer(model, model_config.settings)
    seed = episode_seed("training", run.config.seed)
    env = envs.make(run.config.task, online.num_envs, seed)
    world = OnlineEnvironment(env, online.replay_capacity, seed, model)
    policy = latent_policy(model, trainer.actor, 0, env.task.action_dim)
    if state := run.load_state():
        trainer.restore(state["trainer"])
        model_trainer.restore(state["model_trainer"])
        world.restore(state["world"])
    else:
        curve_point(run, policy, env_steps=0, updates=0)
    points = curve_updates(settings.updates, run.config.evaluation.curve_points)
    for _ in run.progress(settings.updates, trainer.updates):
        metrics = online_update(trainer, model_trainer, world, online)
        if trainer.updates in points:
            curve_point(run, policy, world.env_steps, trainer.updates, **metrics)
        run.save_state(
            lambda: {"trainer": trainer.state(), "model_trainer": model_trainer.state(), "world": world.state()}
        )
    finish(run, trainer, model_config)
