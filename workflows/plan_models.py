"""What each multi-task world model of a scale takes, with its policies: python -m workflows.plan_models

Its pre-training on one GPU, what its batches read, and the wall time of it and all that follows from it on one GPU and
on a small cluster. At the rates of `workflows.plan`.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pwm.config import PretrainConfig
from pwm.envs.tasks import get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.matrix import Matrix, ModelId
from workflows.gpu_rates import GPU_RATES, read_gpu_rates
from workflows.plan import FLOAT, Job, amount, jobs, priority, read_rates, seconds, wall_time
from workflows.rates import RATES
from workflows.readme import fill, numbers_table

MACHINES = {"1 GPU": (16, 1), "8 GPUs": (64, 8)}  # cores, GPUs
COLUMNS = ("suite, model", "updates a second", "batches read, MB/s", "pre-training, hours", "a policy, hours")
COLUMNS += tuple(f"all of it on {name}, hours" for name in MACHINES)


def batch_bytes(settings: PretrainConfig, tasks: tuple[str, ...]) -> float:
    """What the windows of one batch come to on disk, on average over the tasks, which are drawn alike."""
    steps, table = settings.horizon, [get_task(task) for task in tasks]
    numbers = [(steps + 1) * task.observation_dim + steps * (task.action_dim + 2) for task in table]
    return FLOAT * settings.batch_size * sum(numbers) / len(numbers)


def of_model(model: ModelId, todo: list[Job]) -> list[Job]:
    """A model's pre-training, and the policies from it with their scores: as if the data were there."""
    made = f"pretrain/{model.path}"
    runs = {job.name for job in todo if made in job.needs}
    own = [job for job in todo if job.name in runs | {made} or runs & {*job.needs}]
    names = {job.name for job in own}
    return [replace(job, needs=tuple(names & {*job.needs})) for job in own]


def row(
    model: ModelId, matrix: Matrix, todo: list[Job], known: Mapping[str, float], gpu_rates: pd.DataFrame
) -> tuple[str, ...]:
    """The model's cells."""
    own = sorted(of_model(model, todo), key=priority)
    took = {job.name: seconds(job, known, gpu_rates) for job in own}
    settings = matrix.resolved(model).settings
    pretraining = took[f"pretrain/{model.path}"]
    a_second = settings.updates / pretraining
    reading = a_second * batch_bytes(settings, matrix.tasks_of(model)) / 1e6
    policies = [took[job.name] for job in own if job.rule == "extract"]
    policy = sum(policies) / len(policies)
    walls = [wall_time(own, took, cores, gpus) for cores, gpus in MACHINES.values()]
    hours = (amount(time / 3600) for time in (pretraining, policy, *walls))
    return f"{model.suite}, {settings.world_model.size}M", amount(a_second), amount(reading), *hours


def table(scale: str, rates: pd.DataFrame, gpu_rates: pd.DataFrame) -> str:
    """A row for each multi-task world model of the scale's first seed, in Markdown.

    Raises:
        UserError: the scale is unknown or has none.
    """
    matrix = Matrix(scale)
    todo = jobs(matrix)
    models = [model for model in matrix.models() if model.tasks == "all" and model.seed == 0]
    if not models:
        raise UserError(f"scale {scale} has no world models of several tasks; name one with tasks: all")
    models.sort(key=lambda model: (model.suite, float(matrix.resolved(model).settings.world_model.size)))
    known = dict(zip(rates["unit"], rates["seconds"], strict=True))
    return numbers_table(COLUMNS, [row(model, matrix, todo, known, gpu_rates) for model in models])


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.plan_models", description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", default="sizes")
    parser.add_argument("--into", type=Path, help="also put the table into this page, between its marks plan_models")
    args = parser.parse_args()
    text = table(args.scale, read_rates(RATES), read_gpu_rates(GPU_RATES))
    print(text)
    if args.into:
        args.into.write_text(fill(args.into.read_text(encoding="utf-8"), "plan_models", text), encoding="utf-8")


if __name__ == "__main__":
    main()
