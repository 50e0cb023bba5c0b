"""What a figure of a measurement starts from, and the command line that all figures and tables share."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pwm.errors import UserError


@dataclass(frozen=True)
class Measured:
    """The CSV file of a measurement, and where its drawing goes (`out`, a path without suffix)."""

    table: pd.DataFrame
    scale: str
    out: Path
    module: str

    @property
    def commits(self) -> str:
        """Commits that measured it, as the file itself tells."""
        return ", ".join(sorted(self.table["commit"].unique()))

    @property
    def command(self) -> str:
        """The command that draws this at the files' usual places: the same wherever it was in fact run."""
        stem = self.module.rpartition(".")[2]
        measured = f"--measured results/{self.scale}/gradients/{stem}.csv"
        return f"python -m {self.module} {measured} --scale {self.scale} --out figures/{self.scale}/{stem}"


def read_measured(script: str, description: str, columns: Sequence[str], argv: Sequence[str] | None = None) -> Measured:
    """The same for a figure of a measurement, whose file has `columns` beside `scale` and `commit`.

    Raises:
        UserError: the file is missing or damaged, or holds another scale.
    """
    stem = Path(script).stem
    module, args = parse(script, description, {"measured": f"gradients/{stem}.csv"}, argv)
    table = read_measurement(args.measured, args.scale, stem, columns)
    return Measured(table, args.scale, args.out, module)


def read_measurement(path: Path | None, scale: str, stem: str, columns: Sequence[str]) -> pd.DataFrame:
    """The CSV file of a measurement; without rows where there is none.

    Raises:
        UserError: it is damaged, lacks a column or holds another scale.
    """
    if path is None:
        return pd.DataFrame(columns=list(columns))
    mend = f"make it again by snakemake --cores 1 results/{scale}/gradients/{stem}.csv"
    try:
        table = pd.read_csv(path, dtype={"scale": str, "commit": str})
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): {mend}") from None
    if missing := [column for column in ("scale", "commit", *columns) if column not in table]:
        raise UserError(f"{path} has no column {', '.join(missing)}: {mend}")
    check_scale(table, path, scale)
    return table


def parse(
    script: str,
    description: str,
    inputs: Mapping[str, str],
    argv: Sequence[str] | None,
    optional: Collection[str] = (),
) -> tuple[str, argparse.Namespace]:
    """The module of a script, and its command line: an argument for each of `inputs`, a file below results/<scale>, of
    which the `optional` ones may be left out.
    """
    path = Path(script)
    module = f"workflows.{path.parent.name}.{path.stem}"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.partition("\n")[0])
    for name, file in inputs.items():
        parser.add_argument(f"--{name}", type=Path, required=name not in optional, help=f"results/<scale>/{file}")
    parser.add_argument("--scale", required=True, help="name of the scale, such as demo")
    parser.add_argument("--out", type=Path, required=True, help="output path without suffix")
    return module, parser.parse_args(argv)


def check_scale(table: pd.DataFrame, file: Path, scale: str) -> None:
    """Refuse a file of another scale."""
    if others := sorted({*table["scale"]} - {scale}):
        raise UserError(f"{file} holds scale {others[0]}, not {scale}: give the files of one scale")
