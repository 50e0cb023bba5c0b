"""Published numbers beside ours: `results/published/*.csv`, each with its statistic, number of runs and source."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from pwm import statistics
from workflows.results import ALGORITHMS, PPO_UNIT, PUBLISHED, Aggregate, Results

STEPS_OF_A_DECISION = 2  # of the simulator, in which those published count, on all tasks of MT30
FOLDER = Path(__file__).resolve().parents[1] / "results" / "published"
ONLINE_STEPS = 1_000_000  # environment steps after which agents that learnt online are compared


@cache
def scores() -> pd.DataFrame:
    """By suite, task and algorithm; `score` is in the suite's unit, in which PPO's locomotion scores are 1."""
    return pd.read_csv(FOLDER / "scores.csv").rename(columns={"normalized_score": "score"})


@cache
def quoted() -> pd.DataFrame:
    """Figures that the paper's text gives and the run data do not, by claim, suite, task, algorithm and setting."""
    return pd.read_csv(FOLDER / "quoted.csv", dtype={"setting": str})


@cache
def online_curves() -> pd.DataFrame:
    """Of agents that learnt one task of MT30 each, online: returns by task, algorithm and steps of the simulator."""
    return pd.read_csv(FOLDER / "online_dmcontrol.csv")


@cache
def online() -> pd.DataFrame:
    """The same columns for agents that learnt one task of MT30 each, online, after `ONLINE_STEPS`."""
    table = online_curves().query("env_steps == @ONLINE_STEPS")
    statistic = f"mean episode return / 1000 after {ONLINE_STEPS:,} steps online"
    table = table.assign(suite="mt30", statistic=statistic, score=table["mean_return"] / 1000)
    return table.rename(columns={"n_seeds": "n_runs"})


@cache
def extraction_minutes() -> pd.DataFrame:
    """Wall time of a policy's extraction, `low` to `high` minutes, by what is said of it."""
    return pd.read_csv(FOLDER / "extraction_minutes.csv")


def comparable(results: Results, suite: str) -> bool:
    """Whether published scores may stand beside ours: not beside raw returns, which are another simulator's."""
    return suite != "locomotion" or not results.comparable_scores()[1]


def source(table: pd.DataFrame) -> str:
    """Where some rows come from and what they are."""
    return f"{table['source'].iloc[0]}: {' or '.join(table['statistic'].unique())}"


def aggregates(
    results: Results, suite: str, tasks: Sequence[str] | None = None, table: pd.DataFrame | None = None
) -> list[Aggregate]:
    """Rows like those of `Results.aggregates`, from one published score a task, hence without intervals.

    Over `tasks`, or those that the algorithm's default variant is meant to run on here, or the suite's here, or, where
    the scale has none of them, all that were published. No row where one of these tasks has no score.
    `table`: `scores()`, or `online()`.
    """
    variant = PUBLISHED[table is not None]
    table, found = scores() if table is None else table, []
    for algorithm in ALGORITHMS if comparable(results, suite) else ():
        default = results.runs.query("suite == @suite and algorithm == @algorithm and variant == 'default'")
        own = table.query("suite == @suite and algorithm == @algorithm").set_index("task")
        wanted = list(tasks or default["task"].unique()) or results.tasks(suite) or list(own.index)
        if not wanted or {*wanted} - {*own.index}:
            continue
        own = own.loc[wanted]
        matrix, runs = own[["score"]].to_numpy().T, int(own["n_runs"].min())
        unit = PPO_UNIT if suite == "locomotion" else "score"
        counts = (len(tasks or results.tasks(suite) or wanted), runs, runs, True)
        identity = (suite, algorithm, variant, unit, tuple(wanted), *counts)
        found.append(Aggregate(*identity, matrix, statistics.aggregate(matrix), source=source(own)))
    return found


def beside_ours(results: Results, suite: str, tasks: Sequence[str] | None = None) -> list[Aggregate]:
    """The contestants' aggregates, each algorithm's followed by what was published of it."""
    contestants, known = results.drawn(suite), [algorithm for algorithm, _ in results.algorithms()]
    rows = [row for row in results.aggregates(suite, tasks) if (row.algorithm, row.variant) in contestants]
    order = [*ALGORITHMS, *known]
    return sorted(rows + aggregates(results, suite, tasks), key=lambda row: order.index(row.algorithm))
