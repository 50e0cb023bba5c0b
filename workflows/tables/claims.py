"""The paper's claims C1 to C10: what was published, what was measured here, and a verdict by a rule written beforehand.

Each claim comes down to comparisons (`workflows/tables/_rules.py`), every one a number with its 95% bootstrap interval
and a bound that the claim says it lies beyond. A comparison is clear where its whole interval lies on one side of the
bound and there are at least `CLEAR` runs a task on both sides of it; it is full where the scale is the paper's, all of
the paper's tasks and settings were run, and there are at least `FULL` runs a task.

- not run: no comparison could be made.
- holds: all comparisons were made, are full, and are clear for the claim.
- holds in direction: those that were made are all clear for the claim, but not all are full, or not all were made.
- contradicted: one that is full is clear against the claim.
- not shown: anything else.

So a scale of smaller budgets than the paper's can say no more for a claim than that it holds in direction, and nothing
against it; and where an interval reaches over its bound, nothing is shown.
"""

import numpy as np
import pandas as pd

from pwm.errors import exit_on_user_error
from workflows.results import Results, read_results
from workflows.tables._rules import RULES, Comparison
from workflows.tables.common import number, write_table

SCALE = "paper"  # whose budgets are the paper's
CLEAR, FULL = 3, 5  # runs a task; five are behind the published locomotion scores of PWM and TD-MPC2
MEASURED = {
    "ball_wall": ("part", "model", "seed", "true_m"),
    "gradient_quality": ("system", "world", "seed", "horizon", "variance", "esnr"),
}
COLUMNS = ["claim", "says", "comparison", "published", "bound", "side", "estimate", "low", "high", "n", "whole"]
COLUMNS += ["verdict", "why"]
NOTE = (
    "Ours: estimate [95% bootstrap interval], n runs a task on the side that has fewer. Rules of the verdicts: "
    "workflows/tables/claims.py; of what is compared: workflows/tables/_rules.py. Intervals from few runs are too "
    "narrow, and PWM's leave out how much world models and data sets vary where its runs share them. C5 is judged by "
    "variance and signal-to-noise ratio, as the paper does; whether gradients point the right way is in the figure "
    "gradient_quality. C6: the published returns are another simulator's."
)


def verdict(scale: str, comparisons: list[Comparison]) -> tuple[str, str]:
    """The verdict on a claim by the rule above, and what keeps it from a better one."""
    made = [row for row in comparisons if row.run]
    full = [row for row in made if scale == SCALE and row.whole and row.n >= FULL]
    if not made:
        return "not run", "; ".join(limits(scale, comparisons))
    if against := [row.what for row in full if row.sign < 0]:
        return "contradicted", "; ".join(against)
    supported = all(row.sign > 0 and row.n >= CLEAR for row in made)
    if supported and len(full) == len(comparisons):
        return "holds", ""
    return "holds in direction" if supported else "not shown", "; ".join(limits(scale, comparisons))


def limits(scale: str, comparisons: list[Comparison]) -> list[str]:
    """What of the rule's conditions is not met."""
    made = [row for row in comparisons if row.run]
    fewest = min((row.n for row in made), default=FULL)
    told = [f"not had: {row.what}" for row in comparisons if not row.run]
    told += [f"the other way: {row.what}" for row in made if row.sign < 0]
    conditions = {
        "an interval over the bound": any(row.sign == 0 and row.n >= CLEAR for row in made),
        f"fewer than {CLEAR if fewest < CLEAR else FULL} runs": fewest < FULL,
        f"budgets of scale {scale}": bool(made) and scale != SCALE,
        "part of the tasks or settings": not all(row.whole for row in made),
    }
    return told + [words for words, unmet in conditions.items() if unmet]


def measure(results: Results) -> pd.DataFrame:
    """A row for each comparison of each claim."""
    rows = []
    for claim, (says, rule) in RULES.items():
        comparisons = rule(results)
        judged = verdict(results.scale, comparisons)
        for row in comparisons:
            side = "below" if row.below else "above"
            facts = (row.what, row.published, row.bound, side, *row.effect, row.n, row.whole)
            rows.append((claim, says, *facts, *judged))
    return pd.DataFrame(rows, columns=COLUMNS)


def in_short(numbers: pd.DataFrame) -> str:
    """Every claim's verdict in a sentence, which the report begins with."""
    judged = numbers.drop_duplicates("claim")
    return f"Verdicts: {'; '.join(f'{row.claim} {row.verdict}' for row in judged.itertuples())}."


def set_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """The same for reading; a claim and its verdict stand in the first of its rows."""
    rows = []
    for row in numbers.to_dict("records"):
        first = not rows or row["claim"] != numbers["claim"].iloc[len(rows) - 1]
        bound = f" ({row['side']} {number(row['bound'], 0)})"
        told = [row["claim"], row["verdict"], row["says"]] if first else ["", "", ""]
        why = (row["why"] or "–") if first else ""
        rows.append([*told, row["comparison"] + bound, row["published"], ours(row), why])
    header = ["Claim", "Verdict", "Says", "Comparison (as claimed)", "Published", "Ours", "Why not more"]
    return pd.DataFrame(rows, columns=header)


def ours(row: dict) -> str:
    """`0.12 [0.05, 0.19], n = 3`; without an interval where there is none."""
    if np.isnan(row["estimate"]):
        return "not run" if not row["n"] else "–"
    decimals = 3 if abs(row["estimate"]) < 10 else 1 if abs(row["estimate"]) < 100 else 0
    ends = (number(row[name], decimals) for name in ("low", "high"))
    interval = "" if np.isnan(row["low"]) else f" [{', '.join(ends)}]"
    return f"{number(row['estimate'], decimals)}{interval}, n = {row['n']}"


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    results = read_results(__file__, __doc__, ablations=True, measured=MEASURED)
    numbers = measure(results)
    write_table(results, numbers, set_cells(numbers), f"{in_short(numbers)} {NOTE}")


if __name__ == "__main__":
    main()
