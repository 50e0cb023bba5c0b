"""What a scale will cost, before anything runs: python -m workflows.plan --scale paper --cores 64 --gpus 8

Every job of the scale with its work (`workflows.work`), at the rates that finished jobs of one machine were measured at
(results/rates.csv, by `workflows.rates`), and updates on a GPU at those of `workflows.gpu_rates`.
"""

import argparse
import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pwm.config import ModelConfig, RunConfig, WorldModelConfig
from pwm.data.tdmpc2_files import OFFICIAL
from pwm.envs.tasks import get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.matrix import Matrix, Resources
from workflows import scripts
from workflows.gpu_rates import GPU_RATES, on_gpu, read_gpu_rates, read_table
from workflows.rates import COLUMNS as RATE_COLUMNS
from workflows.rates import RATES
from workflows.readme import fill, numbers_table
from workflows.work import Configs, Networks, Work, dense, model_of, of_job, on_core, runs_together

FLOAT = 4  # bytes
COLUMNS = ("rule", "jobs", "core-hours", "GPU-hours", "disk, GB", "longest job, hours")
PRIORITIES = ("import", "collect", "pretrain", "extract")  # what Snakemake starts first where it has a choice
TOGETHER = "tdmpc2_together"  # the job of all runs that learn together
MEASURED_BY = {"ball_wall": "ball_wall", "gradient_quality": "gradients"}  # figures that are not drawn from runs


@dataclass(frozen=True)
class Job:
    """One job of a scale."""

    name: str  # its benchmark file: the rule, then the wildcards
    needs: tuple[str, ...]  # the jobs that it waits for
    work: Work
    ask: Resources
    disk: float  # bytes that it leaves

    @property
    def rule(self) -> str:
        """Its rule; those of scripts and of TD-MPC2's sets are taken together."""
        return self.name.partition("/")[0]


def configs_of(matrix: Matrix) -> Configs:
    """The resolved configs of a scale, by where they lie."""
    configs = {f"data/{task}": matrix.resolved(task) for task in matrix.data_sets()}
    configs |= {f"models/{model.path}": matrix.resolved(model) for model in matrix.models()}
    configs |= {f"runs/{run.path}": matrix.resolved(run) for run in matrix.runs()}
    measurements = matrix.config.gradients
    return configs | {f"gradients/{name}": getattr(measurements, name) for name in MEASURED_BY}


def jobs(matrix: Matrix) -> list[Job]:
    """All jobs of a scale, but for those that only write configs."""
    configs, known = configs_of(matrix), {}

    def job(name: str, *needs: str, disk: float = 0.0) -> Job:
        same = name.rpartition("/seed")[0] or name  # seeds do the same work
        if same not in known:
            known[same] = of_job(name, configs, matrix.config.episodes)
        asks_as = "tdmpc2" if name == TOGETHER else name.partition("/")[0]
        return Job(name, needs, known[same], matrix.resources(asks_as), disk)

    source = {task: f"collect/{task}" for task in matrix.data_sets()}
    source |= {task: f"import/{name}" for name, tasks in matrix.imports().items() for task in tasks}
    found = [job(name, disk=data_bytes(name, source, configs)) for name in dict.fromkeys(source.values())]
    for model in {model: None for run in matrix.runs() if (model := matrix.model_of(run))}:
        needs = dict.fromkeys(source[task] for task in matrix.tasks_of(model))
        found.append(job(f"pretrain/{model.path}", *needs, disk=model_bytes(configs[f"models/{model.path}"])))
    if together := runs_together(configs):
        found.append(job(TOGETHER, disk=sum(policy_bytes(configs[name], configs) for name in together)))
    for run in matrix.runs():
        rule = "extract" if run.algorithm == "pwm" else run.algorithm
        name, model = f"{rule}/{run.suite}/{run.task}/{run.variant}/seed{run.seed}", matrix.model_of(run)
        needs = [f"pretrain/{model.path}"] if model else []
        needs += [source[run.task]] if rule == "extract" else []
        if f"runs/{run.path}" in together:
            name = TOGETHER
        else:
            found += [job(name, *needs, disk=policy_bytes(configs[f"runs/{run.path}"], configs))]
        found += [job(f"evaluate/{run.path}", name)]
        if (run.suite, run.variant, run.seed) == ("locomotion", "default", 0):
            found += [job(f"film_strip/{run.path}", name)]
    scored = [one.name for one in found if one.rule in ("evaluate", "collect", "import")]
    found += [job("collate", *scored), *(job(name) for name in MEASURED_BY.values())]
    found += [job(f"plot/{stem}", MEASURED_BY.get(stem, "collate")) for stem in scripts("figures")]
    return found + [job(f"tabulate/{stem}", "collate") for stem in scripts("tables")]


def data_bytes(name: str, source: Mapping[str, str], configs: Configs) -> float:
    """Of the data sets that the job `name` makes (`pwm.data.episodes`), and of TD-MPC2's files that it reads."""
    rule, _, made = name.partition("/")
    total = float(OFFICIAL[made].size.removesuffix(" GB")) * 1e9 if rule == "import" else 0.0
    for task in (task for task, job in source.items() if job == name):
        sizes, settings = get_task(task), configs[f"data/{task}"].settings
        episodes = OFFICIAL[made].episodes if settings.tdmpc2 else sum(settings.mixture.model_dump().values())
        length = sizes.episode_length
        numbers = (length + 1) * sizes.observation_dim + length * (sizes.action_dim + 2)
        total += FLOAT * episodes * numbers
    return total


def model_bytes(model: ModelConfig) -> float:
    """Of a world model's weights."""
    return FLOAT * Networks.of(model.settings.world_model, model.tasks).weights


def policy_bytes(run: RunConfig, configs: Configs) -> float:
    """Of a run's policy: PWM's with the encoder it reads through, TD-MPC2's with its model; others are small."""
    model = model_of(run, configs)
    if run.algorithm == "pwm":
        sizes = model.settings.world_model
        action_dim = max(get_task(task).action_dim for task in model.tasks)
        actor = dense(sizes.latent_dim, *run.settings["actor_units"], action_dim)
        return FLOAT * (Networks.of(sizes, model.tasks).encoder + actor)
    if run.algorithm == "tdmpc2" and model is None:
        return FLOAT * Networks.of(WorldModelConfig(**run.settings["network"]), (run.task,)).weights
    return 0.0


def seconds(job: Job, rates: Mapping[str, float], gpu_rates: pd.DataFrame) -> float:
    """Of a job on one core, its updates and searches on a GPU where it asks for one; work without a rate takes no time.

    Several GPUs are reckoned as if they divided a job's updates among them without loss.
    """
    on_gpus, work = on_gpu(job.work, gpu_rates) if job.ask.gpu else (0.0, on_core(job.work))
    return on_gpus / max(job.ask.gpu, 1) + sum(amount * rates.get(unit, 0.0) for unit, amount in work.items())


def wall_time(order: list[Job], took: Mapping[str, float], cores: int, gpus: int) -> float:
    """Seconds until all jobs are done, if one starts whenever what it needs is done and there is room for it.

    Jobs take their threads' cores, or all where these are fewer, and their GPUs; `order` says who goes first.
    """
    rank = {job.name: place for place, job in enumerate(order)}
    waits = {job.name: set(job.needs) for job in order}
    then: dict[str, list[Job]] = {name: [] for name in rank}
    for job in order:
        for name in job.needs:
            then[name].append(job)
    ready: dict[tuple[int, int], list[tuple[int, Job]]] = {}  # by cores and GPUs, first ones first
    running: list[tuple[float, int, Job]] = []
    now, free, free_gpus = 0.0, cores, gpus

    def make_ready(job: Job) -> None:
        room = min(job.ask.threads, cores), job.ask.gpu
        heapq.heappush(ready.setdefault(room, []), (rank[job.name], job))

    for job in order:
        if not job.needs:
            make_ready(job)
    while running or any(ready.values()):
        while fitting := [room for room in ready if ready[room] and room[0] <= free and room[1] <= free_gpus]:
            room = min(fitting, key=lambda room: ready[room][0][0])
            place, job = heapq.heappop(ready[room])
            free, free_gpus = free - room[0], free_gpus - room[1]
            heapq.heappush(running, (now + took[job.name], place, job))
        now, _, job = heapq.heappop(running)
        free, free_gpus = free + min(job.ask.threads, cores), free_gpus + job.ask.gpu
        for follower in then[job.name]:
            waits[follower.name].discard(job.name)
            if not waits[follower.name]:
                make_ready(follower)
    return now


def priority(job: Job) -> int:
    """As in the rules: data first, then models, then policies."""
    return PRIORITIES.index(job.rule) if job.rule in PRIORITIES else len(PRIORITIES)


def amount(value: float) -> str:
    """A number of hours or gigabytes."""
    return "–" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def table(todo: list[Job], took: Mapping[str, float]) -> str:
    """Jobs, hours and disk by rule, in Markdown."""
    hours = [took[job.name] / 3600 for job in todo]
    gpu = [hour * job.ask.gpu for hour, job in zip(hours, todo, strict=True)]
    rows = pd.DataFrame({"rule": [job.rule for job in todo], "hours": hours, "gpu": gpu})
    rows["disk"] = [job.disk / 1e9 for job in todo]
    cells = []
    for rule, own in [*rows.groupby("rule", sort=False), ("all", rows)]:
        numbers = (own["hours"].sum(), own["gpu"].sum(), own["disk"].sum(), own["hours"].max())
        cells.append((rule, f"{len(own):,}", *map(amount, numbers)))
    return numbers_table(COLUMNS, cells)


def plan(scale: str, rates: pd.DataFrame, gpu_rates: pd.DataFrame, cores: int, gpus: int) -> str:
    """What a scale costs and what that rests on, in Markdown.

    Args:
        scale: its name.
        rates, gpu_rates: results/rates.csv and results/gpu_rates.csv.
        cores, gpus: of the machine or machines.

    Raises:
        UserError: the scale is unknown, or asks for more GPUs in a job than there are.
    """
    known = dict(zip(rates["unit"], rates["seconds"], strict=True))
    todo = sorted(jobs(Matrix(scale)), key=priority)
    if (most := max(job.ask.gpu for job in todo)) > gpus:
        raise UserError(f"scale {scale} has jobs of {most} GPUs, and there are {gpus}; raise --gpus")
    took = {job.name: seconds(job, known, gpu_rates) for job in todo}
    split = {job.name: took[job.name] / (1 if job.ask.gpu else min(job.ask.threads, cores)) for job in todo}
    longest, shortest = (wall_time(todo, times, cores, gpus) / 3600 for times in (took, split))
    wall = amount(longest) if amount(longest) == amount(shortest) else f"{amount(shortest)} to {amount(longest)}"
    uses_gpu = any(job.ask.gpu for job in todo)
    where = f"{cores} cores" + (f" and {gpus} GPU{'s' * (gpus > 1)}" if uses_gpu else "")
    measured = f"Rates of one core: {', '.join(rates['machine'].unique())}; scales {scales(rates)}."
    lines = [f"Scale {scale} on {where}: {wall} hours of wall time.", "", table(todo, took), "", measured]
    if longest > shortest:
        lines += ["Wall time: if threads divide a job's time, and if they do not."]
    if uses_gpu:
        lines += [f"Updates on a GPU as measured on {', '.join(gpu_rates['device'].unique())}."]
    for unit in sorted({unit for job in todo for unit in on_core(job.work)} - known.keys()):
        rules = ", ".join(sorted({job.rule for job in todo if unit in on_core(job.work)}))
        lines += [f"Not counted, since never measured: {unit} ({rules})."]
    return "\n".join(lines)


def scales(rates: pd.DataFrame) -> str:
    """The scales whose jobs were measured."""
    return ", ".join(sorted({name for names in rates["scale"] for name in names.split(", ")}))


def read_rates(file: Path) -> pd.DataFrame:
    """The rates of a machine; errors of `read_table`."""
    return read_table(file, RATE_COLUMNS, "make it again by python -m workflows.rates")


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.plan", description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", default="demo")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--rates", type=Path, default=RATES)
    parser.add_argument("--gpu-rates", type=Path, default=GPU_RATES)
    parser.add_argument("--into", type=Path, help="also put it into this page, between its marks plan_<scale>")
    args = parser.parse_args()
    for name in ("cores", "gpus"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name} is {getattr(args, name)}; give a number above 0")
    text = plan(args.scale, read_rates(args.rates), read_gpu_rates(args.gpu_rates), args.cores, args.gpus)
    print(text)
    if args.into:
        args.into.write_text(fill(args.into.read_text(encoding="utf-8"), f"plan_{args.scale}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
