"""The one way a table is written: the numbers as CSV, the same set for reading as Markdown, LaTeX and HTML."""

from pathlib import Path
from typing import Protocol

import pandas as pd

from workflows import pages

LATEX = {"±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "≠": r"$\neq$"}


class Source(Protocol):
    """What a table is made from, as it names itself, and where it goes (`out`, a path without suffix)."""

    out: Path
    source: str


def write_table(results: Source, numbers: pd.DataFrame, cells: pd.DataFrame, note: str) -> None:
    """Write `<out>.csv`, `.md`, `.tex` (a booktabs tabular) and `.html`; the same bytes from the same data.

    Args:
        numbers: tidy numbers, in full precision.
        cells: text for reading, laid out as the table is.
        note: how to read the cells; its source is added.
    """
    results.out.parent.mkdir(parents=True, exist_ok=True)
    numbers.to_csv(f"{results.out}.csv", index=False, float_format="%.8g", lineterminator="\n")
    Path(f"{results.out}.md").write_text(f"{markdown(cells)}\n{note}\n\n{results.source}\n", encoding="utf-8")
    title = results.out.name.replace("_", " ").capitalize()
    parts = (pages.table(cells), pages.paragraph(note), pages.paragraph(results.source))
    Path(f"{results.out}.html").write_text(pages.page(title, *parts), encoding="utf-8")
    comments = "".join(f"% {line}\n" for line in (note, results.source))
    Path(f"{results.out}.tex").write_text(comments + latex(cells), encoding="utf-8")


def markdown(cells: pd.DataFrame) -> str:
    """A pipe table."""
    rows = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def latex(cells: pd.DataFrame) -> str:
    """A `tabular` environment with booktabs rules; needs `\\usepackage{booktabs}` and nothing else."""
    text = cells.to_latex(index=False, escape=True, column_format="l" * len(cells.columns))
    for sign, command in LATEX.items():
        text = text.replace(sign, command)
    return text


def number(value: float, decimals: int) -> str:
    """A number with a true minus sign."""
    return f"{value:.{decimals}f}".replace("-", "−")
