"""Published numbers beside ours: `results/published/*.csv`, each with its source."""

from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parents[1] / "results" / "published"


@cache
def scores() -> pd.DataFrame:
    """By suite, task and algorithm; `score` is in the suite's unit, in which PPO's locomotion scores are 1."""
    return pd.read_csv(FOLDER / "scores.csv").rename(columns={"normalized_score": "score"})


@cache
def quoted() -> pd.DataFrame:
    """Figures that the paper's text gives and the run data do not, by claim, suite, task, algorithm and setting."""
    return pd.read_csv(FOLDER / "quoted.csv", dtype={"setting": str})


@cache
def extraction_minutes() -> pd.DataFrame:
    """Wall time of a policy's extraction, `low` to `high` minutes, by what is said of it."""
    return pd.read_csv(FOLDER / "extraction_minutes.csv")
