"""What an update or a search takes on a GPU, by its size: from measurements of updates (results/gpu_rates.csv).

On a GPU an update's time does not follow from its FLOPs at one rate: small ones are mostly launches of kernels. So the
time is read off the measured ones of its kind (log over log, straight lines). Smaller ones than were measured take as
long as the smallest, larger ones go at the rate of the largest.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pwm.errors import UserError
from workflows.work import PRODUCTS, Work, on_core

GPU_RATES = Path("results/gpu_rates.csv")
COLUMNS = ["work", "version", "gflop", "milliseconds", "what", "device", "source"]
STAND_IN = "float32"  # for versions that were not measured; those that are compiled are no slower


def read_table(file: Path, columns: Sequence[str], mend: str) -> pd.DataFrame:
    """A CSV file of rates.

    Raises:
        UserError: the file is missing or lacks one of `columns`; it ends with `mend`.
    """
    try:
        rates = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({' '.join(str(error).split())}); {mend}") from None
    if missing := [column for column in columns if column not in rates]:
        raise UserError(f"{file} has no column {', '.join(missing)}; {mend}")
    return rates


def read_gpu_rates(file: Path) -> pd.DataFrame:
    """Measured times by kind of work, version and GFLOP (as `workflows.work` counts them); errors of `read_table`."""
    return read_table(file, COLUMNS, "take the committed one").sort_values("gflop")


def milliseconds(rates: pd.DataFrame, kind: str, version: str, gflop: float) -> float:
    """Of one update or search of so many GFLOP."""
    own = rates[rates["work"] == kind]
    known = own[own["version"] == (version if version in {*own["version"]} else STAND_IN)]
    sizes, times = known["gflop"].to_numpy(), known["milliseconds"].to_numpy()
    between = float(np.exp(np.interp(np.log(gflop), np.log(sizes), np.log(times))))
    return between * max(gflop / sizes[-1], 1.0)


def on_gpu(work: Work, rates: pd.DataFrame) -> tuple[float, Work]:
    """Seconds of a job's updates and searches on a GPU, and the work that stays on a core."""
    seconds, rest = 0.0, Work(work)
    for unit, gflop in work.items():
        kind, _, version = unit.removeprefix(PRODUCTS).partition(", ")
        if unit.startswith(PRODUCTS) and gflop and kind in {*rates["work"]}:
            seconds += work[kind] * milliseconds(rates, kind, version, gflop / work[kind]) / 1e3
            del rest[unit]
            rest.pop(kind, None)
    return seconds, on_core(rest)
