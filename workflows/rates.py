"""What a unit of each kind of work costs on one core of this machine, from the jobs of finished scales.

    python -m workflows.rates --measured results/demo results/rates --out results/rates.csv
    python -m workflows.rates --measured results/demo --predict results/learning

A job's CPU time is taken to be the sum of its work (`workflows.work`), each unit at its rate. The rates are those, none
below zero, with the least sum of squared relative errors over all measured jobs. `--predict` says instead how far the
rates are off for the jobs of another scale.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from pwm import config
from pwm.config import Config, DataConfig, ModelConfig, RunConfig
from pwm.errors import UserError, exit_on_user_error
from pwm.gradient_settings import BallWallConfig, GradientQualityConfig
from workflows.readme import fill, numbers_table
from workflows.work import Work, of_job, on_core

RATES = Path("results/rates.csv")
COLUMNS = ["unit", "seconds", "jobs", "scale", "machine", "commit"]
PREDICTION = ("rule", "jobs", "wall, minutes", "CPU, minutes", "predicted", "predicted / CPU", "median error of a job")
# Snakemake looks at a job's CPU time twice a second at first, then twice a minute, and not at its end.
FIRST_LOOKS, LATER_LOOKS = 15.5, 30.0  # seconds
CLASSES: dict[str, type[Config]] = {
    "data/*/config.yaml": DataConfig,
    "models/**/config.yaml": ModelConfig,
    "runs/**/config.yaml": RunConfig,
    "gradients/ball_wall.yaml": BallWallConfig,
    "gradients/gradient_quality.yaml": GradientQualityConfig,
}


class Job(NamedTuple):
    """A finished job."""

    scale: str
    rule: str
    wall: float  # seconds
    cpu: float  # seconds
    work: Work


def cpu_seconds(wall: float, seen: float) -> float:
    """A job's CPU time, from what was `seen` of it when Snakemake last looked, as if it had gone on at that pace."""
    last = FIRST_LOOKS + LATER_LOOKS * ((wall - FIRST_LOOKS) // LATER_LOOKS) if wall > FIRST_LOOKS else wall
    return seen * wall / last


def measured(folder: Path) -> list[Job]:
    """The jobs of results/<scale> that have a benchmark file and a config of this version.

    Raises:
        UserError: there are none.
    """
    configs: dict[str, Config] = {}
    for pattern, cls in CLASSES.items():
        for file in folder.glob(pattern):
            key = file.parent if file.name == "config.yaml" else file.with_suffix("")
            try:
                configs[str(key.relative_to(folder))] = config.load(cls, file)
            except UserError as error:
                print(f"left out: {error}", file=sys.stderr)
    jobs = []
    for file in sorted((folder / "benchmarks").rglob("*.tsv")):
        name = str(file.relative_to(folder / "benchmarks").with_suffix(""))
        record = pd.read_csv(file, sep="\t", na_values=["-", "NA"]).iloc[0]
        try:
            work = on_core(of_job(name, configs, final_episodes(folder, name)))
        except KeyError as missing:
            print(f"left out: {file}: no config {missing}", file=sys.stderr)
            continue
        cpu = cpu_seconds(record["s"], record["cpu_time"]) if record["cpu_time"] > 0 else record["s"]
        jobs.append(Job(folder.name, name.partition("/")[0], record["s"], cpu, work))
    if not jobs:
        raise UserError(f"{folder}: no finished jobs (benchmarks/**.tsv); run make reproduce SCALE={folder.name} first")
    return jobs


def origin(folder: Path) -> dict[str, set[str]]:
    """The machines and commits that the manifests of results/<scale> name."""
    found: dict[str, set[str]] = {"machine": set(), "commit": set()}
    for file in folder.glob("*/**/manifest.json"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        hardware = manifest["hardware"]
        name = hardware.get("processor", hardware["machine"])  # older manifests do not name the processor
        found["machine"].add(f"{name}, {hardware['cpus']} cores")
        found["commit"].add(manifest["commit"])
    return found


def final_episodes(folder: Path, name: str) -> int:
    """Of a run's evaluation, as it was made; of no matter for other jobs."""
    rule, _, run = name.partition("/")
    file = folder / "runs" / run / "eval.json"
    return json.loads(file.read_text(encoding="utf-8"))["episodes"] if rule == "evaluate" and file.exists() else 0


def fit(jobs: Sequence[Job]) -> pd.Series:
    """Seconds by unit: argmin_r≥0 Σ_j (1 − Σ_u work_ju r_u / cpu_j)²."""
    work = pd.DataFrame([job.work for job in jobs]).fillna(0.0)
    work = work.loc[:, work.gt(0).any()]
    relative = work.to_numpy() / np.array([job.cpu for job in jobs])[:, None]
    size = np.linalg.norm(relative, axis=0)  # units differ by many orders of magnitude
    return pd.Series(nnls(relative / size, np.ones(len(jobs)))[0] / size, index=work.columns).sort_index()


def seconds(work: Work, rates: pd.Series) -> float:
    """CPU time of some work; a unit without a rate costs nothing."""
    return sum(amount * rates.get(unit, 0.0) for unit, amount in work.items())


def rate_table(folders: Sequence[Path]) -> pd.DataFrame:
    """results/rates.csv: a row for each unit, with the jobs, scales, machines and commits that tell its rate."""
    jobs = [job for folder in folders for job in measured(folder)]
    rates, origins = fit(jobs), {folder.name: origin(folder) for folder in folders}
    rows = []
    for unit, value in rates.items():
        telling = [job for job in jobs if job.work[unit]]
        names = sorted({job.scale for job in telling})
        where = {
            key: "; ".join(sorted(set().union(*(origins[name][key] for name in names))))
            for key in ("machine", "commit")
        }
        rows.append({"unit": unit, "seconds": value, "jobs": len(telling), "scale": ", ".join(names), **where})
    return pd.DataFrame(rows, columns=COLUMNS)


def prediction(folders: Sequence[Path], other: Path) -> str:
    """Measured against predicted minutes of another scale's jobs by rule, in Markdown."""
    rates = fit([job for folder in folders for job in measured(folder)])
    jobs = measured(other)
    told = [job for job in jobs if job.work.keys() <= set(rates.index)]
    frame = pd.DataFrame([(job.rule, job.wall, job.cpu, seconds(job.work, rates)) for job in told])
    frame.columns = ["rule", "wall", "cpu", "predicted"]
    frame["error"] = (frame["predicted"] / frame["cpu"] - 1).abs()
    cells = []
    for rule, own in [*frame.groupby("rule"), ("all", frame)]:
        wall, cpu, predicted = (own[name].sum() / 60 for name in ("wall", "cpu", "predicted"))
        ratio, error = f"{predicted / cpu:.2f}", f"{own['error'].median():.0%}"
        cells.append((rule, str(len(own)), f"{wall:.1f}", f"{cpu:.1f}", f"{predicted:.1f}", ratio, error))
    text = numbers_table(PREDICTION, cells)
    left = len(jobs) - len(told)
    return text + (f"\n\nLeft out: {left} jobs with work that was not measured." if left else "")


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.rates", description=__doc__.partition("\n")[0])
    parser.add_argument("--measured", type=Path, nargs="+", required=True, help="results/<scale> of finished scales")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="the CSV file to write, results/rates.csv")
    what.add_argument("--predict", type=Path, help="results/<scale> whose jobs are predicted instead")
    parser.add_argument("--into", type=Path, help="also put the prediction into this page, between its marks predicted")
    args = parser.parse_args()
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rate_table(args.measured).to_csv(args.out, index=False, float_format="%.6g", lineterminator="\n")
        return
    text = prediction(args.measured, args.predict)
    print(text)
    if args.into:
        args.into.write_text(fill(args.into.read_text(encoding="utf-8"), "predicted", text), encoding="utf-8")


if __name__ == "__main__":
    main()
