"""Every setting: what the paper's scale has, and what this scale has."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pwm.errors import UserError, exit_on_user_error
from workflows.measured import parse
from workflows.results import ALGORITHMS
from workflows.tables.common import write_table

KEYS = ["suite", "variant", "task"]
PARTS = {"runs": "runs", "data": "data", "world model": "world model"} | ALGORITHMS
COLUMNS = ["part", "setting", "paper", "here", "differs"]
NOTE = (
    "Paper: this project's scale `paper`, of whose suites only those are shown that the scale has, too. A value "
    "without brackets holds wherever none in brackets does. none: switched off; a dash: the part, or the setting in "
    "such a part, does not occur. Settings whose values differ are marked by ≠."
)


@dataclass(frozen=True)
class Settings:
    """Settings of a scale and of the scale `paper`, and where the table goes."""

    here: pd.DataFrame
    paper: pd.DataFrame
    scale: str
    out: Path
    module: str

    @property
    def source(self) -> str:
        """Where they come from, in a line."""
        folder = f"results/{self.scale}"
        files = f"--settings {folder}/settings.csv --paper {folder}/paper_settings.csv"
        out = f"--scale {self.scale} --out {folder}/tables/{self.module.rpartition('.')[2]}"
        return (
            f"Scale {self.scale}, of `workflows/config/{self.scale}.yaml`, by `python -m {self.module} {files} {out}`."
        )


def read_settings(argv: Sequence[str] | None = None) -> Settings:
    """Parse the command line and read both files.

    Raises:
        UserError: a file is missing or damaged, or holds another scale.
    """
    inputs = {"settings": "settings.csv", "paper": "paper_settings.csv"}
    module, args = parse(__file__, __doc__, inputs, argv)
    tables = []
    for file, scale, name in ((args.settings, args.scale, "settings"), (args.paper, "paper", "paper_settings")):
        mend = f"make it again by snakemake --cores 1 results/{args.scale}/{name}.csv"
        try:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
            raise UserError(f"{file} cannot be read ({' '.join(str(error).split())}): {mend}") from None
        if missing := [name for name in ("scale", "part", *KEYS, "setting", "value") if name not in table]:
            raise UserError(f"{file} has no column {', '.join(missing)}: {mend}")
        if others := {*table["scale"]} - {scale}:
            raise UserError(f"{file} holds scale {min(others)}, not {scale}: {mend}")
        tables.append(table)
    return Settings(*tables, args.scale, args.out, module)


def compare(settings: Settings) -> pd.DataFrame:
    """A row for every setting of every part, with its values at both scales in words."""
    suites = {*settings.here["suite"]}
    tables = [settings.paper[settings.paper["suite"].isin(suites)], settings.here]
    parts = [*PARTS, *sorted({*settings.here["part"]} - {*PARTS})]
    rows = []
    for part in [part for part in parts if part in {*settings.here["part"]}]:
        own = [table[table["part"] == part] for table in tables]
        for setting in dict.fromkeys([*own[1]["setting"], *own[0]["setting"]]):
            paper, here = (words(table[table["setting"] == setting]) for table in own)
            rows.append((part, setting, paper, here, paper != here))
    return pd.DataFrame(rows, columns=COLUMNS)


def words(rows: pd.DataFrame) -> str:
    """One setting's values: the most frequent alone, others with where they hold, as coarsely as can be said."""
    if rows.empty:
        return "–"
    ways: list[Callable[[dict], str]] = [
        lambda row, names=names: " ".join(row[name] for name in names if row[name])
        for names in (["suite"], ["variant"], ["task"], ["suite", "variant"], ["suite", "task"], KEYS)
    ]
    records = rows.to_dict("records")
    usual = Counter(record["value"] for record in records).most_common(1)[0][0]
    for way in ways:
        values: dict[str, set[str]] = {}
        for record in records:
            values.setdefault(way(record), set()).add(record["value"])
        if "" not in values and all(len(found) == 1 for found in values.values()):
            break
    places: dict[str, list[str]] = {}
    for place, (value,) in values.items():
        places.setdefault(value, []).append(place)
    others = [f"{value} ({', '.join(names)})" for value, names in places.items() if value != usual]
    return "; ".join([usual, *others])


def set_cells(numbers: pd.DataFrame, scale: str) -> pd.DataFrame:
    """The same for reading."""
    parts = numbers["part"].map(lambda part: PARTS.get(part, part))
    marks = numbers["differs"].map({True: "≠", False: ""})
    return pd.DataFrame(
        {"Part": parts, "Setting": numbers["setting"], "Paper": numbers["paper"], scale: numbers["here"], "": marks}
    )


@exit_on_user_error
def main() -> None:
    """Write the table from the command line."""
    settings = read_settings()
    numbers = compare(settings)
    write_table(settings, numbers, set_cells(numbers, settings.scale), NOTE)


if __name__ == "__main__":
    main()
