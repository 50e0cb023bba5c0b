"""Stage `pretrain`: train a world model on the episodes of one task or many.

    python -m pwm.pretrain --config config.yaml --data EPISODES [EPISODES ...] --out FOLDER

On k GPUs, each with its share of every batch: torchrun --standalone --nproc-per-node k -m pwm.pretrain ...
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from pwm import config, runs
from pwm.config import ModelConfig, PretrainConfig
from pwm.data.batch import Batch
from pwm.data.episodes import Episodes
from pwm.data.windows import Ahead, WindowSampler
from pwm.envs.tasks import get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.model_learning import ModelTrainer, discount_factor
from pwm.nn import processes
from pwm.nn.world_model import WorldModel

LOG_POINTS = 50  # rows of metrics.csv


def build_model(settings: PretrainConfig, tasks: tuple[str, ...]) -> WorldModel:
    """A freshly initialised world model for these tasks."""
    table = [get_task(name) for name in tasks]
    observation_dim = max(task.observation_dim for task in table)
    return WorldModel(settings.world_model, observation_dim, [task.action_dim for task in table])


def make_model_trainer(model: WorldModel, settings: PretrainConfig, tasks: tuple[str, ...]) -> ModelTrainer:
    """The trainer of a world model of these tasks, whose discounts follow from their episodes' lengths."""
    discount = torch.tensor([discount_factor(get_task(name).episode_length) for name in tasks])
    return ModelTrainer(model, settings, discount)


def load_model(folder: Path) -> tuple[WorldModel, ModelConfig]:
    """A pre-trained world model in evaluation mode on the default device, and the config it was trained by.

    Raises:
        UserError: the checkpoint is missing, damaged or does not fit its config.
    """
    tensors, saved = runs.load_checkpoint(folder)
    settings = config.validate(ModelConfig, saved.get("config", {}), str(folder / "config.json"))
    model = build_model(settings.settings, settings.tasks)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: weights do not fit the config ({reason}); pre-train it again") from None
    return model.to(runs.default_device()).eval(), settings


def index_of(task: str, model_config: ModelConfig, folder: Path) -> int:
    """A task's place among a world model's tasks.

    Raises:
        UserError: the model of `folder` was not trained on it.
    """
    if task not in model_config.tasks:
        trained = ", ".join(model_config.tasks)
        raise UserError(f"{folder}: world model of {trained}, not of '{task}'; pre-train one that has it")
    return model_config.tasks.index(task)


def open_data(folders: list[Path], tasks: tuple[str, ...]) -> list[Episodes]:
    """The data sets of `tasks`, in that order, verified.

    Raises:
        UserError: one is damaged, of another task, or their number is wrong.
    """
    if len(folders) != len(tasks):
        raise UserError(
            f"--data: {len(folders)} folders for {len(tasks)} tasks ({', '.join(tasks)}); give one per task"
        )
    return [Episodes.open(folder, expected_task=task) for folder, task in zip(folders, tasks, strict=True)]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`."""
    return Batch(*(part.to(device, non_blocking=True) for part in batch))


def reward_std(data: Episodes) -> float:
    """Standard deviation of all rewards in the data, by which a scalar head's rewards are divided; off zero."""
    return max(data.meta.statistics.reward_std, 1e-4)


def observation_moments(data: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation [o] of each component over all observations; the latter 1 if it is 0."""
    count, total, square = 0, np.zeros(data.meta.observation_dim), np.zeros(data.meta.observation_dim)
    shift = np.asarray(data.obs[0, 0], np.float64)  # keeps the difference of squares exact where the mean is large
    for obs, length in zip(data.obs, data.length, strict=True):  # one episode in memory at a time
        rows = obs[: length + 1] - shift
        count += len(rows)
        total += rows.sum(0)
        square += np.square(rows).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    return mean + shift, np.where(std > 1e-6, std, 1.0)


def pretrain(run: runs.Run, datasets: list[Episodes]) -> None:
    """Train the model of `run.config` and finish the run."""
    settings: PretrainConfig = run.config.settings
    model = build_model(settings, run.config.tasks).to(run.device)
    if not settings.world_model.reward_bins:
        # Deviation D4: the data's standard deviation, known beforehand; the paper divides by a running one.
        model.reward_scale.copy_(torch.tensor([reward_std(data) for data in datasets]))
    if model.standardise is not None:
        # Deviation D25: the paper's encoder reads observations as they are.
        for index, data in enumerate(datasets):
            model.standardise.fit(index, *map(torch.from_numpy, observation_moments(data)))
    trainer = make_model_trainer(model, settings, run.config.tasks)
    share = processes.rank(), processes.world_size()
    sampler = WindowSampler(
        datasets, settings.batch_size, settings.horizon, run.config.seed, piece=settings.piece, share=share
    )
    start = 0
    if state := run.load_state():
        trainer.restore(state["trainer"])
        sampler.restore(state["sampler"])
        start = state["update"]
    ahead = Ahead(sampler)
    log_every = max(settings.updates // LOG_POINTS, 1)
    for update in run.progress(settings.updates, start):
        metrics = trainer.update(to_device(ahead.sample(), run.device), update / settings.updates)
        done = update + 1
        run.watch(done, metrics)
        if done % log_every == 0 or done == settings.updates:
            run.log({"updates": done, **metrics})
        run.save_state(lambda: {"trainer": trainer.state(), "sampler": ahead.state(), "update": done})  # noqa: B023
    run.finish(Path(), model.state_dict(), **metrics_summary(run))


def metrics_summary(run: runs.Run) -> dict[str, float]:
    """The model's last losses, for the manifest."""
    return {key: value for key, value in run.rows[-1].items() if key.endswith("_loss")}


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.pretrain", description="Train a world model on episodes.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args()
    model_config = config.load(ModelConfig, args.config)
    processes.join()
    if rest := model_config.settings.batch_size % processes.world_size():
        size, count = model_config.settings.batch_size, processes.world_size()
        raise UserError(
            f"{args.config}: batch_size {size} leaves {rest} over for {count} processes; make it a multiple"
        )
    datasets = open_data(args.data, model_config.tasks)
    pretrain(runs.Run(args.out, model_config, args.tensorboard), datasets)


if __name__ == "__main__":
    main()
