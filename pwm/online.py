"""PWM's online single-task loop: act in the environment, learn the world model from it, ascend through it.

Used by the stage `extract` where a run's settings have an `online` block (paper, section 2). The policy acts on the
model's own latent; real observations are encoded only at a window's start and after resets, unless `reencode` is set.
"""

import numpy as np
import torch
from torch import Tensor

from pwm import config, envs, runs
from pwm.agent import RunningVariance
from pwm.config import ExtractConfig, ModelConfig
from pwm.data.episodes import Episodes
from pwm.data.replay import Replay
from pwm.envs.tasks import get_task
from pwm.evaluate import curve_point, curve_updates, episode_seed
from pwm.extract import Finetuner, fingerprint, finish, latent_policy, load_state, make_trainer, value_check
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
        task: task name.
        num_envs: parallel environments, B.
        capacity: transitions kept for training the world model.
        seed: of the environments and of the replay's draws.
        model: the world model, whose reward scale follows the rewards seen.
        data: the episodes that the world model was trained on, with which replay and reward scale begin.
    """

    def __init__(self, task: str, num_envs: int, capacity: int, seed: int, model: WorldModel, data: Episodes) -> None:
        size = get_task(task)
        self.model = model
        self.env = envs.make(task, num_envs, seed)
        self.obs, _ = self.env.reset(seed=seed)
        self.replay = Replay(capacity, num_envs, size.observation_dim, size.action_dim, seed)
        fill(self.replay, data, num_envs, capacity)
        self.task = torch.zeros(num_envs, dtype=torch.long, device=model.action_mask.device)
        self.reward_scale = RunningVariance()
        taken = np.arange(data.meta.episode_length) < data.length[:, None]
        self.reward_scale.update(torch.from_numpy(data.reward[taken]))
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
        # Deviation D21: of all rewards seen, which are only divided by it; the public code also centres and clips them.
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


def train_online(run: runs.Run, model: WorldModel, model_config: ModelConfig, data: Episodes) -> None:
    """Train policy and world model of `run.config` online and finish the run.

    Per policy update: H steps in every environment, one actor step, the critic's passes, then `model_updates` updates
    of the world model on windows of the replay, which begins with `data`.
    """
    settings = config.validate(ExtractConfig, run.config.settings, "settings")
    online, model_hash = settings.online, fingerprint(model)
    trainer = make_trainer(settings, model, run.device)
    seed = episode_seed("training", run.config.seed)
    world = OnlineEnvironment(run.config.task, online.num_envs, online.replay_capacity, seed, model, data)
    horizon = model_config.settings.horizon
    tuner = Finetuner(model, model_config, online, lambda: world.replay.sample(online.model_batch_size, horizon))
    policy = latent_policy(model, trainer.actor, 0, get_task(run.config.task).action_dim)
    measure = value_check(trainer, 0)
    if state := load_state(run, model_hash):
        trainer.restore(state["trainer"])
        tuner.trainer.restore(state["tuner"])
        world.restore(state["world"])
    else:
        curve_point(run, policy, env_steps=0, updates=0, measure=measure)
    points = curve_updates(settings.updates, run.config.evaluation.curve_points)
    for _ in run.progress(settings.updates, trainer.updates):
        progress = trainer.progress
        metrics = trainer.update(world.encode(), world.task, world)
        if not model.config.reward_bins:
            model.reward_scale.fill_(world.reward_scale.std)
        metrics |= tuner.update(progress)
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
