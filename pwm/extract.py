"""Stage `extract`: train a policy by first-order gradients through a world model.

python -m pwm.extract --config config.yaml --model FOLDER --data EPISODES --out RUN_FOLDER

From offline data the world model is frozen and start states are drawn from the task's own episodes; with `online`
settings the policy also acts in the environment and the world model goes on learning (`pwm.online`).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pwm import config, runs
from pwm.agent import PolicyTrainer
from pwm.algorithms import Policy
from pwm.config import ExtractConfig, ModelConfig, RunConfig
from pwm.data.episodes import Episodes
from pwm.data.windows import WindowSampler
from pwm.envs.tasks import get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.evaluate import curve_point, curve_updates
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.world_model import WorldModel
from pwm.pretrain import build_model, load_model, open_data


def latent_policy(model: WorldModel, actor: Actor, task_index: int, action_dim: int) -> Policy:
    """The deterministic policy tanh μ(E(s)) of one task, re-encoding every observation.

    Args:
        model: the world model, of which only the encoder is used.
        actor: the policy on latents.
        task_index: the task's place among the model's tasks.
        action_dim: the task's own number of actions.
    """
    device = next(actor.parameters()).device

    @torch.no_grad()
    def policy(obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        padded = torch.zeros(len(obs), model.observation_dim, device=device)
        padded[:, : obs.shape[1]] = torch.from_numpy(obs)
        task = torch.full((len(obs),), task_index, device=device)
        return actor(model.encode(padded, task))[:, :action_dim].cpu().numpy()

    return policy


def make_trainer(settings: ExtractConfig, model: WorldModel, device: torch.device) -> PolicyTrainer:
    """Fresh actor and critic on `model`'s latent."""
    latent = model.config.latent_dim
    actor = Actor(latent, model.action_dim, settings.actor_units).to(device)
    critic = Critic(latent, settings.critic_units, settings.critics).to(device)
    return PolicyTrainer(model, actor, critic, settings)


def extract(run: runs.Run, model: WorldModel, model_config: ModelConfig, data: Episodes) -> None:
    """Train the policy of `run.config` on the frozen `model` and finish the run."""
    settings = config.validate(ExtractConfig, run.config.settings, "settings")
    index = model_config.tasks.index(run.config.task)
    trainer = make_trainer(settings, model, run.device)
    policy = latent_policy(model, trainer.actor, index, get_task(run.config.task).action_dim)
    sampler = WindowSampler([data], settings.batch_size, 1, run.config.seed, model.observation_dim)
    task = torch.full((settings.batch_size,), index, device=run.device)
    start = 0
    if state := run.load_state():
        trainer.restore(state["trainer"])
        sampler.restore(state["sampler"])
        start = trainer.updates
    else:
        curve_point(run, policy, env_steps=0, updates=0)
    points = curve_updates(settings.updates, run.config.evaluation.curve_points)
    for _ in run.progress(settings.updates, start):
        obs, _ = sampler.sample_starts(settings.batch_size)
        with torch.no_grad():
            z = model.encode(obs.to(run.device), task)
        metrics = trainer.update(z, task)
        if trainer.updates in points:
            curve_point(run, policy, env_steps=0, updates=trainer.updates, **metrics)
        run.save_state(lambda: {"trainer": trainer.state(), "sampler": sampler.state()})
    finish(run, trainer, model_config)


def finish(run: runs.Run, trainer: PolicyTrainer, model_config: ModelConfig) -> None:
    """Write the run's outputs: the policy is the actor with the encoder it reads through."""
    tensors: dict[str, Tensor] = {f"actor.{name}": value for name, value in trainer.actor.state_dict().items()}
    for name, value in trainer.model.state_dict().items():
        if name.startswith(("encoder.", "task_embedding.")):
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
    actor = Actor(model.config.latent_dim, model.action_dim, settings.actor_units)
    parts = {"actor": actor, "model.encoder": model.encoder, "model.task_embedding": model.task_embedding}
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
    if run_config.task not in model_config.tasks:
        trained = ", ".join(model_config.tasks)
        raise UserError(
            f"{args.model}: world model of {trained}, not of '{run_config.task}'; pre-train one that has it"
        )
    if settings.online and len(model_config.tasks) > 1:
        raise UserError(
            f"{args.model}: online training takes a world model of one task; pre-train one with tasks: each"
        )
    run = runs.Run(args.out, run_config, args.tensorboard)
    if settings.online:
        from pwm.online import train_online

        train_online(run, model, model_config)
    else:
        extract(run, model, model_config, open_data([args.data], (run_config.task,))[0])


if __name__ == "__main__":
    main()
