"""Figures drawn from made-up results, for their tests."""

from pathlib import Path
from types import ModuleType

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_results import arguments, write_results

from workflows.results import Results, read_results

ABLATIONS = ("stiffness", "regularisation", "batch_size", "model_quality")


def read(module: ModuleType, folder: Path, scale: str = "demo", **made: object) -> Results:
    """Results of made-up CSV files, as the script would read them."""
    return read_files(module, write_results(folder, scale, **made), scale, folder / Path(module.__file__).stem)


def read_files(module: ModuleType, paths: dict[str, Path], scale: str = "demo", out: Path = Path("figure")) -> Results:
    """Results of such files as they are."""
    ablations = Path(module.__file__).stem in ABLATIONS
    return read_results(module.__file__, module.__doc__, arguments(paths, scale, out), ablations)


def draw(module: ModuleType, paths: dict[str, Path], scale: str = "demo", out: Path = Path("figure")) -> tuple:
    """The figure with its data, and the results it was drawn from."""
    results = read_files(module, paths, scale, out)
    return module.draw(results), results


def change(file: Path, query: str, **columns: object) -> None:
    """Put other values into the rows of a CSV file that match."""
    table = pd.read_csv(file)
    rows = table.query(query).index
    assert len(rows)
    for name, values in columns.items():
        table[name] = table[name].astype(object)
        table.loc[rows, name] = values
    table.to_csv(file, index=False)


def texts(figure: Figure) -> list[str]:
    """What a figure says."""
    return [text.get_text().replace("\u00a0", " ") for text in figure.findobj(Text) if text.get_text()]
