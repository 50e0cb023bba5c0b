"""Made-up results of a scale, for the tests of figures and tables."""

from pathlib import Path

import numpy as np
import pandas as pd

from pwm.statistics import CURVE_COLUMNS, RUN_KEYS, SCORE_COLUMNS

DMCONTROL = ("walker-walk", "cartpole-swingup", "cheetah-run", "reacher-three-easy")
MATRIX = {
    "locomotion": {"hopper": [("pwm", "default"), ("pwm", "no-simnorm"), ("shac", "default"), ("ppo", "default")]},
    "mt30": {task: [("pwm", "default"), ("pwm", "multitask"), ("tdmpc2", "default")] for task in DMCONTROL},
}
# Variants of ablations and what they vary; `default` is their reference.
VARIED = {
    "default": {"batch_size": 64, "model_updates": 50_000, "model_horizon": 16},
    "batch_size.16": {"batch_size": 16},
    "batch_size.256": {"batch_size": 256},
    "model_updates.5000": {"model_updates": 5_000},
    "model_updates.20000": {"model_updates": 20_000},
    "model_horizon.3": {"model_horizon": 3},
}
KINDS = ["regularisation.none", "regularisation.spectral", "regularisation.plain", "regularisation.relu"]
ABLATIONS = {
    "locomotion": {"hopper": [("pwm", variant) for variant in [*KINDS, "batch_size.16", "batch_size.256"]]},
    "stiffness": {"hopper-stiff": [("pwm", "default"), ("shac", "default"), ("ppo", "default")]},
    "mt30": {task: [("pwm", variant) for variant in VARIED if variant.startswith("model_")] for task in DMCONTROL[:3]},
}
MT80 = {"mt80": {task: [("pwm", "default"), ("tdmpc2", "default")] for task in ("fish-swim", "mw-push", "mw-reach")}}
# Measured once, no contestants.
REFERENCES = [("random", "default"), ("data", "mean"), ("data", "best"), ("data", "best_policy")]


def with_ablations(matrix: dict = MATRIX, ablations: dict = ABLATIONS) -> dict:
    """A matrix with ablations' runs beside its own."""
    return {
        suite: {
            task: matrix.get(suite, {}).get(task, []) + ablations.get(suite, {}).get(task, [])
            for task in {**matrix.get(suite, {}), **ablations.get(suite, {})}
        }
        for suite in {**matrix, **ablations}
    }


def make_expected(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs as `expected.csv` lists them, with what ablations vary of PWM's."""
    facts = [
        VARIED["default"] | VARIED.get(run.variant, {}) if run.algorithm == "pwm" else {} for run in runs.itertuples()
    ]
    return runs.join(pd.DataFrame(facts, columns=list(VARIED["default"]), index=runs.index))


def make_runs(matrix: dict, seeds: int) -> pd.DataFrame:
    """Every run of `{suite: {task: [(algorithm, variant)]}}`."""
    rows = [
        (suite, task, algorithm, variant, seed)
        for suite, tasks in matrix.items()
        for task, pairs in tasks.items()
        for algorithm, variant in pairs
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=RUN_KEYS)


def make_scores(runs: pd.DataFrame, scale: str) -> pd.DataFrame:
    """A score per run, between about 200 and 1000 of return, the same at every call."""
    rng = np.random.default_rng(0)
    level = {key: rng.uniform(300, 900) for key, _ in runs.groupby(["task", "algorithm", "variant"])}
    returns = np.clip([level[r.task, r.algorithm, r.variant] + rng.normal(0, 50) for r in runs.itertuples()], 0, 1000)
    scores = runs.assign(scale=scale, return_mean=returns, return_std=10.0, episodes=10, env_steps=1000, updates=100)
    scores["score"] = scores["return_mean"] / np.where(scores["suite"].isin(["locomotion", "stiffness"]), 1, 1000)
    scores = scores.assign(success_last=np.nan, success_any=np.nan, train_wall_s=60.0, eval_wall_s=1.0)
    return scores.assign(device="cpu", simulator="mujoco 3.3.0", commit="abc1234")[SCORE_COLUMNS]


def make_curves(scores: pd.DataFrame, points: int = 12) -> pd.DataFrame:
    """A rising curve per run that ends at its score; PWM on MT30 counts updates only, all else environment steps."""
    rng = np.random.default_rng(1)
    curves = []
    for run in scores[~scores["algorithm"].isin(["random", "data"])].itertuples():
        share = np.linspace(0, 1, points)
        offline = run.algorithm == "pwm" and run.suite == "mt30"
        curve = pd.DataFrame({"env_steps": (share * 250_000 * (not offline)).astype(int), "updates": share * 10_000})
        curve["wall_time_s"] = share * (400 if offline else 900) + rng.uniform(0, 20)
        curve["return"] = run.return_mean * (1 - np.exp(-4 * share)) + rng.normal(0, 15, points)
        keys = {key: getattr(run, key) for key in ("scale", *RUN_KEYS)}
        promise = {"start_value": np.nan, "discounted_return": np.nan}
        if run.algorithm == "pwm":
            promise = {"start_value": 60.0 * share + run.seed, "discounted_return": 40.0 * share}
        success = curve["return"].clip(0, 1000) / 1000 if run.task.startswith("mw-") else np.nan
        curves.append(curve.assign(**keys, **promise, success=success))
    return pd.concat(curves)[CURVE_COLUMNS] if curves else pd.DataFrame(columns=CURVE_COLUMNS)


def write_results(
    folder: Path, scale: str = "demo", matrix: dict = MATRIX, seeds: int = 3, missing: tuple[str, ...] = ()
) -> dict[str, Path]:
    """Write the four CSV files; runs that match a query in `missing` are expected and not there."""
    folder.mkdir(parents=True, exist_ok=True)
    references = make_runs({suite: dict.fromkeys(tasks, REFERENCES) for suite, tasks in matrix.items()}, 1)
    runs = make_runs(matrix, seeds)
    expected = pd.concat([runs, references.query("algorithm == 'random'")], ignore_index=True)
    for query in missing:
        runs = runs.drop(runs.query(query).index)
    scores = make_scores(pd.concat([runs, references], ignore_index=True), scale)
    of_data = scores["algorithm"] == "data"
    tables = {"scores": scores[~of_data], "curves": make_curves(scores), "expected": make_expected(expected)}
    tables["data"] = scores[of_data]
    paths = {name: folder / f"{name}.csv" for name in tables}
    for name, table in tables.items():
        table.to_csv(paths[name], index=False)
    return paths


def arguments(paths: dict[str, Path], scale: str, out: Path) -> list[str]:
    """The command line every figure and table takes."""
    files = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    return [*files, "--scale", scale, "--out", str(out)]
