"""The workflow's own code: figures, tables, plans and pages of the report."""

from pathlib import Path


def scripts(folder: str) -> list[str]:
    """Stems of the scripts that draw the figures (`figures`) or write the tables (`tables`), sorted."""
    files = (Path(__file__).parent / folder).glob("[!_]*.py")
    return sorted(file.stem for file in files if file.stem not in ("style", "common"))
