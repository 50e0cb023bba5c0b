"""The paper's text against its own published data: what can be computed anew from `results/published/scores.csv`."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pwm import statistics
from pwm.errors import exit_on_user_error
from workflows import published
from workflows.results import ALGORITHMS, SUITES, Results, read_results
from workflows.tables.common import number, write_table

COLUMNS = ["subject", "what", "quoted", "source", "computed", "runs", "same"]
MULTITASK = ("mt30", "mt80")
NOTE = (
    "Computed: from results/published/scores.csv, which has one number a task and algorithm; nothing here is of this "
    "scale's runs. Runs: behind each of these numbers. Same: the computed number, rounded as the quoted one is, is it. "
    "TD-MPC2's multi-task numbers are means over runs, and an IQM of means is not the IQM of the runs, which are not "
    "published with the scores; PWM's are of single runs. Locomotion's are the maximum over training of an IQM curve, "
    "not the end of training. Quoted figures: results/published/quoted.csv and extraction_minutes.csv."
)
STATISTICS = {"IQM": statistics.METRICS["iqm"], "mean": statistics.METRICS["mean"]}


def audit() -> pd.DataFrame:
    """A row for each number."""
    rows = [*aggregates(), *gains(), *wins(), *families(), *units(), *returns(), *minutes()]
    return pd.DataFrame(rows, columns=COLUMNS)


def table_of(suite: str, column: str = "score") -> pd.DataFrame:
    """A suite's published numbers, a row a task and a column an algorithm."""
    return published.scores().query("suite == @suite").pivot(index="task", columns="algorithm", values=column)


def behind(suite: str, *algorithms: str) -> str:
    """How many runs are behind each number: `1`, or `1; 10` for several algorithms."""
    counts = table_of(suite, "n_runs")
    return "; ".join("–".join(f"{n:g}" for n in sorted(counts[name].unique())) for name in algorithms)


def quotation(suite: str, algorithm: str, statistic: str) -> tuple[float, str]:
    """What the text says, and where; NaN where it says nothing."""
    rows = published.quoted().query("claim == 'C4' and suite == @suite and algorithm == @algorithm")
    rows = rows[rows["statistic"] == statistic]
    return (rows["value"].item(), rows["source"].item()) if len(rows) else (np.nan, "")


def same(quoted: float, computed: float, decimals: int) -> str:
    """Whether a number is the quoted one."""
    if np.isnan(quoted):
        return "–"
    return "yes" if round(computed, decimals) == round(quoted, decimals) else "no"


def aggregates() -> Iterator[tuple]:
    """IQM and mean over tasks of every suite and algorithm."""
    for suite in ("locomotion", *MULTITASK):
        table = table_of(suite)
        for algorithm in [name for name in ALGORITHMS if name in table]:
            for name, statistic in STATISTICS.items():
                quoted, source = quotation(suite, algorithm, name)
                value = float(statistic(table[[algorithm]].to_numpy().T))
                subject = f"{SUITES[suite]}, {len(table)} tasks"
                facts = (quoted, source, value, behind(suite, algorithm), same(quoted, value, 3))
                yield (subject, f"{name} of {ALGORITHMS[algorithm]}", *facts)


def gains() -> Iterator[tuple]:
    """By what factor PWM is above TD-MPC2: the abstract's figure is a maximum over settings that it does not name."""
    row = published.quoted().query("claim == 'C4' and suite.isna()").iloc[0]
    for suite in MULTITASK:
        table = table_of(suite)[["pwm", "tdmpc2"]].to_numpy()
        for name, statistic in STATISTICS.items():
            value = float(statistic(table[:, :1].T) / statistic(table[:, 1:].T))
            facts = (row["value"], row["source"], value, behind(suite, "pwm", "tdmpc2"), same(row["value"], value, 2))
            yield (SUITES[suite], f"{name} of PWM / TD-MPC2's", *facts)
        ratio = float(np.divide(*(quotation(suite, name, "IQM")[0] for name in ("pwm", "tdmpc2"))))
        facts = (row["value"], row["source"], ratio, "–", same(row["value"], ratio, 2))
        yield (SUITES[suite], "the quoted IQMs' ratio", *facts)


def wins() -> Iterator[tuple]:
    """On how many tasks PWM's number is above a rival's, and on how many it is the same."""
    for suite in ("locomotion", *MULTITASK):
        table = table_of(suite)
        for rival in [name for name in ALGORITHMS if name in table and name != "pwm"]:
            subject, of = f"{SUITES[suite]}, {len(table)} tasks", behind(suite, "pwm", rival)
            counts = {"above": table["pwm"] > table[rival], "equal to": table["pwm"] == table[rival]}
            for word, where in counts.items():
                yield (subject, f"tasks with PWM {word} {ALGORITHMS[rival]}", np.nan, "", float(where.sum()), of, "–")


def families() -> Iterator[tuple]:
    """MT80's means by family: where the difference comes from."""
    table = table_of("mt80")
    of_metaworld = table.index.str.startswith("mw-")
    for family, rows in (("DMControl", table[~of_metaworld]), ("Meta-World", table[of_metaworld])):
        for algorithm in ("pwm", "tdmpc2"):
            what, runs = f"mean of {ALGORITHMS[algorithm]}", behind("mt80", algorithm)
            yield (f"MT80's {family}, {len(rows)} tasks", what, np.nan, "", float(rows[algorithm].mean()), runs, "–")


def units() -> Iterator[tuple]:
    """Whether locomotion's normalised scores are returns divided by PPO's."""
    value, score = table_of("locomotion", "value"), table_of("locomotion")
    error = float((value.div(value["ppo"], axis=0) - score).abs().max().max())
    subject, what = "Locomotion", "largest error of score = return / PPO's"
    yield (subject, what, np.nan, "", error, behind("locomotion", *score), "–")


def returns() -> Iterator[tuple]:
    """The ablation's return with SimNorm beside that of the comparison's same task."""
    row = published.quoted().query("claim == 'C6' and setting == 'reference'").iloc[0]
    value = float(table_of("locomotion", "value").loc[row["task"], "pwm"])
    facts = (row["value"], row["source"], value, behind("locomotion", "pwm"), same(row["value"], value, 0))
    yield (f"Locomotion, {row['task']}", "return of PWM, in the ablation (quoted) and the comparison", *facts)


def minutes() -> Iterator[tuple]:
    """Extraction's wall time, promised and seen."""
    table = published.extraction_minutes().set_index("quantity")
    promise, seen = table.loc["promise"], table.drop("promise").iloc[0]
    for end in ("low", "high"):
        told = (promise["high"], promise["source"], seen[end], behind("mt30", "pwm"))
        yield ("MT30, MT80", f"minutes of extraction, {seen.name}: {end}", *told, same(promise["high"], seen[end], 0))


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """The same for reading."""

    def show(value: float, like: float) -> str:
        """Counts and returns without decimals, all else with three."""
        return "–" if np.isnan(value) else number(value, 0 if like == round(like) else 3)

    rows = []
    for row in numbers.itertuples():
        quoted = f"{show(row.quoted, row.quoted)} ({row.source})" if row.source else "–"
        rows.append([row.subject, row.what, quoted, show(row.computed, row.computed), row.runs, row.same])
    return pd.DataFrame(rows, columns=["Of", "What", "Quoted", "Computed", "Runs", "Same"])


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results: Results = read_results(__file__, __doc__)
    numbers = audit()
    write_table(results, numbers, set_cells(numbers), NOTE)


if __name__ == "__main__":
    main()
