"""Stage `extract`: train a policy by first-order gradients through a world model.

python -m pwm.extract --config config.yaml --model FOLDER --data EPISODES --out RUN_FOLDER

From offline data the world model is frozen and start states are drawn from the task's own episodes; with `finetune`
settings the world model goes on learning from these episodes, and with `online` settings also from what the policy does
in the environment (`pwm.online`).
"""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pwm import config, runs
from pwm.agent import PolicyTrainer
from pwm.algorithms import Policy
from pwm.config import ExtractConfig, FinetuneConfig, ModelConfig, PretrainConfig, RunConfig
from pwm.data.batch import Batch
from pwm.data.episodes import Episodes
from pwm.data.windows import WindowSampler
from pwm.envs.tasks import get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.evaluate import Evaluation, curve_point, curve_updates
from pwm.nn import two_hot
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.world_model import WorldModel
from pwm.pretrain import build_model, index_of, load_model, make_model_trainer, open_data, to_device

MOMENTS_OF, SMALLEST_STD = 20_000, 1e-3  # observations whose latents `standardise_latents` reads; of a latent's entry


def pad(model: WorldModel, obs: np.ndarray, task_index: int) -> tuple[Tensor, Tensor]:
    """A task's observations [N, o] as `model` takes them: zero-padded [N, O], and the task [N], on its device."""
    device = model.action_mask.device
    padded = torch.zeros(len(obs), model.observation_dim, device=device)
    padded[:, : obs.shape[1]] = torch.from_numpy(obs)
    return padded, torch.full((len(obs),), task_index, device=device)


def latent_policy(model: WorldModel, actor: Actor, task_index: int, action_dim: int) -> Policy:
    """The deterministic policy tanh μ(E(s)) of one task, re-encoding every observation.

    Args:
        model: the world model, of which only the encoder is used.
        actor: the policy on latents.
        task_index: the task's place among the model's tasks.
        action_dim: the task's own number of actions.
    """

    @torch.no_grad()
    def policy(obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        return actor(model.encode(*pad(model, obs, task_index)))[:, :action_dim].cpu().numpy()

    return policy


def value_check(trainer: PolicyTrainer, task_index: int) -> Callable[[Evaluation], dict[str, float]]:
    """Columns of the learning curve that show a policy which exploits the model's errors.

    `start_value` is what the critic promises at the episodes' first states, mean min_k V_k(E(s_0)), and
    `discounted_return` what came of it, mean Σ_t γ^t r_t in the same units. The critic looks beyond an episode's
    truncation, which adds up to γ^T of its value: 0.7% where T is 500, at γ = 0.99.
    """
    model, config = trainer.model, trainer.config

    @torch.no_grad()
    def measure(result: Evaluation) -> dict[str, float]:
        obs, task = pad(model, result.first_obs, task_index)
        value = trainer.critic.minimum(model.encode(obs, task)).mean()
        reward = torch.from_numpy(result.rewards).to(obs.device)
        if not config.decode_reward:
            reward = two_hot.symlog(reward) if model.config.reward_bins else reward / model.reward_scale[task_index]
        discount = config.gamma ** torch.arange(len(reward), dtype=reward.dtype, device=reward.device)
        return {"start_value": value.item(), "discounted_return": (discount @ reward).mean().item()}

    return measure


def make_trainer(settings: ExtractConfig, model: WorldModel, device: torch.device) -> PolicyTrainer:
    """Fresh actor and critic on `model`'s latent."""
    latent = model.config.latent_dim
    actor = make_actor(settings, model).to(device)
    critic = Critic(latent, settings.critic_units, settings.critics, settings.standardise_latents).to(device)
    return PolicyTrainer(model, actor, critic, settings)


def make_actor(settings: ExtractConfig, model: WorldModel) -> Actor:
    """A fresh actor on `model`'s latent."""
    standardised = settings.standardise_latents
    return Actor(model.config.latent_dim, model.action_dim, settings.actor_units, standardised=standardised)


@torch.no_grad()
def standardise_latents(trainer: PolicyTrainer, data: Episodes, task_index: int) -> None:
    """Give actor and critic the moments of the latents of the data's observations, if they are to have them."""
    if not trainer.config.standardise_latents:
        return
    # Deviation D26: the paper's actor and critic read latents as they are.
    model = trainer.model
    sampler = WindowSampler([data], 1, 1, 0, model.observation_dim, model.action_dim)
    obs, _ = sampler.sample_starts(MOMENTS_OF)
    task = torch.full((MOMENTS_OF,), task_index)
    std, mean = torch.std_mean(model.encode(*(x.to(model.action_mask.device) for x in (obs, task))), dim=0)
    for network in (trainer.actor, trainer.critic):
        network.standardise.fit(0, mean, std.clamp(min=SMALLEST_STD))


class Finetuner:
    """World-model updates beside the policy's: PWM's own objective, with a learning rate for the purpose.

    Args:
        model: the world model.
        trained: what it was trained by, its window's horizon included.
        tasks: its tasks.
        settings: number of updates, and their learning rate.
        sample: draws the windows, with the task's index in the model.
    """

    def __init__(
        self,
        model: WorldModel,
        trained: PretrainConfig,
        tasks: tuple[str, ...],
        settings: FinetuneConfig,
        sample: Callable[[], Batch],
    ) -> None:
        rates = {"learning_rate": settings.model_lr, "final_lr": settings.model_final_lr, "value_coef": 0.0}
        self.trainer = make_model_trainer(model, trained.model_copy(update=rates), tasks)
        self.updates, self.sample, self.device = settings.model_updates, sample, model.action_mask.device

    def update(self, progress: float) -> dict[str, Tensor]:
        """All updates that are due with one of the policy; the last one's metrics.

        Args:
            progress: share of training done, which sets the learning rate.
        """
        for _ in range(self.updates):
            metrics = self.trainer.update(to_device(self.sample(), self.device), progress)
        return metrics


def fingerprint(model: WorldModel) -> str:
    """A hash of all weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def load_state(run: runs.Run, model_hash: str) -> dict[str, Any] | None:
    """The state that a killed run left.

    Raises:
        UserError: it is of a run on another world model.
    """
    state = run.load_state()
    if state and state["model_hash"] != model_hash:
        raise UserError(f"{run.state_folder}: state of a run on another world model; delete it to start this run anew")
    return state


def extract(run: runs.Run, model: WorldModel, model_config: ModelConfig, data: Episodes) -> None:
    """Train the policy of `run.config` on `model` and finish the run."""
    settings = config.validate(ExtractConfig, run.config.settings, "settings")
    index, model_hash = model_config.tasks.index(run.config.task), fingerprint(model)
    task = torch.full((settings.batch_size,), index, device=run.device)
    trainer = make_trainer(settings, model, run.device)
    tuner, size, horizon = None, 1, 1
    if settings.finetune:
        trained = model_config.settings
        size, horizon = settings.finetune.model_batch_size, trained.horizon
        draw = lambda: sampler.sample()._replace(task=torch.full((size,), index))  # noqa: E731
        tuner = Finetuner(model, trained, model_config.tasks, settings.finetune, draw)
    sampler = WindowSampler([data], size, horizon, run.config.seed, model.observation_dim, model.action_dim)
    policy = latent_policy(model, trainer.actor, index, get_task(run.config.task).action_dim)
    measure = value_check(trainer, index)
    standardise_latents(trainer, data, index)
    if state := load_state(run, model_hash):
        trainer.restore(state["trainer"])
        sampler.restore(state["sampler"])
        if tuner:
            tuner.trainer.restore(state["tuner"])
    else:
        curve_point(run, policy, env_steps=0, updates=0, measure=measure)
    points = curve_updates(settings.updates, run.config.evaluation.curve_points)
    for _ in run.progress(settings.updates, trainer.updates):
        metrics = tuner.update(trainer.progress) if tuner else {}
        obs, _ = sampler.sample_starts(settings.batch_size)
        with torch.no_grad():
            z = model.encode(obs.to(run.device), task)
        metrics |= trainer.update(z, task)
        run.watch(trainer.updates, metrics)
        if trainer.updates in points:
            curve_point(run, policy, env_steps=0, updates=trainer.updates, measure=measure, **metrics)
        run.save_state(
            lambda: {
                "model_hash": model_hash,
                "trainer": trainer.state(),
                "tuner": tuner.trainer.state() if tuner else None,
                "sampler": sampler.state(),
            }
        )
    finish(run, trainer, model_config)


def finish(run: runs.Run, trainer: PolicyTrainer, model_config: ModelConfig) -> None:
    """Write the run's outputs: the policy is the actor with the encoder it reads through."""
    tensors: dict[str, Tensor] = {f"actor.{name}": value for name, value in trainer.actor.state_dict().items()}
    for name, value in trainer.model.state_dict().items():
        if name.startswith(("encoder.", "task_embedding.", "standardise.")):
            tensors[f"model.{name}"] = value
    run.finish(Path("policy"), tensors, {"model": model_config.model_dump(mode="json")}, task=run.config.task)


def load_policy(folder: Path) -> Policy:
    """The policy that `finish` wrote.

    Raises:
        UserError: the checkpoint is missing, damaged or of another format.
        KeyError, RuntimeError: its weights do not fit its config.
    """
    tensors, saved = runs.load_checkpoint(folder)
    run_config = config.validate(RunConfig, saved["config"], str(folder / "config.json"))
    model_config = config.validate(ModelConfig, saved["model"], str(folder / "config.json"))
    settings = config.validate(ExtractConfig, run_config.settings, str(folder / "config.json"))
    model = build_model(model_config.settings, model_config.tasks)
    actor = make_actor(settings, model)
    parts = {"actor": actor}
    parts |= {f"model.{name}": getattr(model, name) for name in ("encoder", "task_embedding", "standardise")}
    for prefix, part in parts.items():  # dynamics and reward are not needed to act
        if part is not None:
            own = {name: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
            part.load_state_dict({name.removeprefix(f"{prefix}."): value for name, value in own.items()})
    device = runs.default_device()
    index = model_config.tasks.index(run_config.task)
    return latent_policy(model.to(device), actor.to(device), index, get_task(run_config.task).action_dim)


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.extract", description="Extract a policy from a world model.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of the pre-trained world model")
    parser.add_argument("--data", type=Path, required=True, help="the task's episodes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args()
    run_config = config.load(RunConfig, args.config)
    settings = config.validate(ExtractConfig, run_config.settings, f"{args.config}: settings")
    model, model_config = load_model(args.model)
    index_of(run_config.task, model_config, args.model)
    if settings.online and len(model_config.tasks) > 1:
        raise UserError(
            f"{args.model}: online training takes a world model of one task; pre-train one with tasks: each"
        )
    data = open_data([args.data], (run_config.task,))[0]
    run = runs.Run(args.out, run_config, args.tensorboard)
    if settings.online:
        from pwm.online import train_online

        train_online(run, model, model_config, data)
    else:
        extract(run, model, model_config, data)


if __name__ == "__main__":
    main()
