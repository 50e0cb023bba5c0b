"""Stage `collate`: the tidy CSV files of a scale, from its runs' folders.

python -m pwm.scores --scale SCALE --out results/SCALE

scores.csv      one row a run
curves.csv      one row a learning-curve point
expected.csv    one row a run that the scale's matrix lists, done or not, with the numbers that ablations vary
data.csv        mean, best episode and best policy of every data set, in the columns of scores.csv
provenance.csv  one row a data set, world model and run: commit, times, hardware, versions, command

and checksums.json, by which whoever reads these tells that one is damaged or from another collation.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pwm.data.episodes import Episodes
from pwm.envs.tasks import RETURN_UNIT, get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.integrity import LIST, file_checksum, list_checksums, unseal
from pwm.matrix import Matrix, RunId
from pwm.runs import check_same_config, write_atomically
from pwm.yaml_files import read_yaml

IDENTITY = ["suite", "task", "algorithm", "variant", "seed"]
EVALUATED = ["score", "return_mean", "return_std", "success_last", "success_any", "episodes"]
GAIT = ["terminated", "speed"]  # how many episodes ended by a fall, m/s forward: older evaluations do not tell
TRAINED = ["env_steps", "updates", "train_wall_s"]
SCORES = ["scale", *IDENTITY, *EVALUATED, *TRAINED, "eval_wall_s", "device", "simulator", "commit", *GAIT]
CURVES = ["scale", *IDENTITY, "env_steps", "updates", "wall_time_s", "return", "success"]
PROMISE = ["start_value", "discounted_return"]  # of PWM alone: what the critic promises, what came of it
VARIED = ["batch_size", "model_updates", "model_horizon"]  # of PWM alone
HARDWARE = ["device", "processor", "machine", "cpus", "threads", "gpu"]
PROVENANCE = ["made", "commit", "started", "ended", "train_wall_s", "seed", *HARDWARE]
PROVENANCE += ["versions", "simulator", "command"]


def identity(scale: str, run: RunId) -> dict[str, Any]:
    """The columns that name a run."""
    return {"scale": scale} | {name: getattr(run, name) for name in IDENTITY}


def varied(matrix: Matrix, run: RunId) -> dict[str, Any]:
    """What ablations vary of a run of PWM: rollouts an update; updates and horizon of its world model's training."""
    if run.algorithm != "pwm":
        return dict.fromkeys(VARIED)
    settings, model = matrix.resolved(run).settings, matrix.resolved(matrix.model_of(run)).settings
    batch_size = settings["online"]["num_envs"] if settings["online"] else settings["batch_size"]
    return dict(zip(VARIED, (batch_size, model.updates, model.horizon), strict=True))


def score_row(scale: str, run: RunId, folder: Path) -> dict[str, Any]:
    """A run's row of scores.csv."""
    facts = _read_facts(folder / "eval.json", [*EVALUATED, "eval_wall_s", "simulator"], GAIT)
    facts |= _read_facts(folder / "manifest.json", [*TRAINED, "device", "commit"])
    return identity(scale, run) | facts


def curve_rows(scale: str, run: RunId, folder: Path) -> pd.DataFrame:
    """A run's rows of curves.csv."""
    try:
        known = unseal((folder / "manifest.json").read_bytes()).get("metrics_sha256")  # older ones do not tell
        if known not in (None, file_checksum(folder / "metrics.csv")):
            raise ValueError("checksum differs from the manifest's")
        curve = pd.read_csv(folder / "metrics.csv")
        return curve.assign(**identity(scale, run))[CURVES].join(curve.reindex(columns=PROMISE))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder / 'metrics.csv'}: cannot be read ({reason}); delete it to train the run again"
        ) from None


def data_rows(scale: str, suite: str, task: str, folder: Path) -> list[dict[str, Any]]:
    """A data set's rows of data.csv: the mean and the best of its episodes, and the best of the learnt policies that
    acted in it, by itself; scored as a run's would be.

    There are none where the score is success and the data do not tell it. Its checksums were verified by whoever
    trained on it.
    """
    meta = Episodes.open(folder, verify=False, expected_task=task).meta
    known, rule = meta.statistics, get_task(task).score
    returns = {"mean": known.return_mean, "best": known.return_max}
    if meta.policy_returns:
        returns["best_policy"] = max(meta.policy_returns)
    if rule != "success":
        score = {name: value / RETURN_UNIT[rule] for name, value in returns.items()}
    elif known.success_mean is not None:
        score = {"mean": known.success_mean, "best": float(known.success_mean > 0)}
        returns.pop("best_policy", None)  # its success is not known
    else:
        return []
    return [
        identity(scale, RunId(suite, task, "data", statistic, 0))
        | {"score": score[statistic], "return_mean": value, "episodes": meta.episodes}
        for statistic, value in returns.items()
    ]


def provenance_rows(out: Path) -> pd.DataFrame:
    """Of every data set, world model and run that is there, what made it: the rows of provenance.csv."""
    rows = []
    for pattern in ("data/*/episodes/meta.json", "models/**/manifest.json", "runs/**/manifest.json"):
        for file in sorted(out.glob(pattern)):
            known = _read_facts(file)
            known |= known.get("hardware", {})
            evaluated = file.with_name("eval.json")
            known |= _read_facts(evaluated) if evaluated.exists() else {}
            versions = ", ".join(f"{name} {version}" for name, version in known.get("versions", {}).items())
            known |= {"made": str(file.parent.relative_to(out)), "versions": versions}
            rows.append({name: known.get(name) for name in PROVENANCE})
    return pd.DataFrame(rows, columns=PROVENANCE, dtype=object)


def check_configs(matrix: Matrix, out: Path) -> None:
    """Refuse what was made by another config than the matrix has: by an older one, or by a damaged file.

    Args:
        matrix: of the scale.
        out: its results folder.

    Raises:
        UserError: names the config.yaml and the first key that differs.
    """
    keys = {f"data/{task}": task for task in matrix.data_sets()}
    keys |= {f"models/{model.path}": model for model in matrix.models()}
    keys |= {f"runs/{run.path}": run for run in matrix.runs()}
    for folder, key in keys.items():
        file = out / folder / "config.yaml"
        if file.exists():
            check_same_config(matrix.resolved(key), read_yaml(file), file)


def collate(scale: str, out: Path, partial: bool) -> None:
    """Write the five CSV files of a scale, and their checksums, into `out`.

    Args:
        scale: its matrix says what is expected.
        out: the scale's results folder, `results/<scale>`.
        partial: leave missing runs out, naming them, instead of refusing.

    Raises:
        UserError: a run is missing, unreadable or of another config.
    """
    matrix = Matrix(scale)
    check_configs(matrix, out)
    folders = {run: out / "runs" / run.path for run in matrix.runs()}
    missing = [run for run, folder in folders.items() if not (folder / "eval.json").exists()]
    if missing and not partial:
        raise UserError(f"{folders[missing[0]]}: not evaluated yet ({len(missing)} runs missing); run snakemake first")
    for run in missing:
        print(f"missing: {run.path}", file=sys.stderr)
    done = {run: folder for run, folder in folders.items() if run not in missing}
    scores = pd.DataFrame([score_row(scale, run, folder) for run, folder in done.items()], columns=SCORES)
    curves = [curve_rows(scale, run, folder) for run, folder in done.items()]
    data = {(run.suite, run.task): out / "data" / run.task / "episodes" for run in folders}
    references = [
        row
        for (suite, task), folder in data.items()
        if (folder / "meta.json").exists() or not partial
        for row in data_rows(scale, suite, task, folder)
    ]
    tables = {
        "scores": scores,
        "curves": pd.concat(curves) if curves else pd.DataFrame(columns=CURVES + PROMISE),
        "expected": pd.DataFrame([identity(scale, run) | varied(matrix, run) for run in folders])[IDENTITY + VARIED],
        "data": pd.DataFrame(references, columns=SCORES),
        "provenance": provenance_rows(out),
    }
    for name, table in tables.items():
        write_atomically(out / f"{name}.csv", table.to_csv(index=False))
    write_atomically(out / LIST, list_checksums(out / f"{name}.csv" for name in tables))


def _read_facts(path: Path, names: Sequence[str] | None = None, optional: Sequence[str] = ()) -> dict[str, Any]:
    """What a JSON file tells: these names and the `optional` ones, or everything."""
    try:
        content = unseal(path.read_bytes())
        if names is None:
            return content
        return {name: content[name] for name in names} | {name: content.get(name) for name in optional}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run snakemake again") from None


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.scores", description="Collate a scale's runs into CSV files.")
    parser.add_argument("--scale", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the scale's results folder")
    parser.add_argument("--partial", action="store_true", help="leave out missing runs instead of refusing")
    args = parser.parse_args()
    collate(args.scale, args.out, args.partial)


if __name__ == "__main__":
    main()
