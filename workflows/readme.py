"""Put a finished scale's figures and numbers into its page: python -m workflows.readme --scale demo

Copies the figures that the page shows into docs/<scale>/ and fills its marked sections: tables by their stems, costs.
"""

import argparse
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pwm.errors import UserError, exit_on_user_error

COSTS = ["rule", "jobs", "minutes in all", "longest job, minutes", "peak memory of a job, GiB"]
PAGES = {"demo": Path("README.md"), "learning": Path("docs/learning.md")}


def costs(benchmarks: Path) -> pd.DataFrame:
    """Jobs, time and memory by rule, as text, from Snakemake's benchmark files; no row where there are none."""
    records = [
        pd.read_csv(file, sep="\t", na_values="-").assign(
            rule=file.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        )
        for file in sorted(benchmarks.rglob("*.tsv"))
    ]
    cells = []
    jobs = pd.concat(records) if records else pd.DataFrame({"rule": []})
    for rule, own in [*jobs.groupby("rule"), *([("all", jobs)] if records else [])]:
        minutes, peak = own["s"] / 60, own["max_rss"].max() / 1024  # a job too short to be looked at has none
        memory = "–" if pd.isna(peak) else f"{peak:.2f}"
        cells.append((rule, str(len(own)), f"{minutes.sum():.1f}", f"{minutes.max():.1f}", memory))
    return pd.DataFrame(cells, columns=COSTS)


def numbers_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], f"|---{'|--:' * (len(header) - 1)}|", *lines[1:]])


def fill(text: str, section: str, content: str) -> str:
    """`text` with what stands between the section's marks replaced.

    Raises:
        UserError: there are no such marks.
    """
    pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"no section <!-- {section} --> … <!-- end --> in the page; put the marks back")
    return pattern.sub(lambda marks: f"{marks[1]}\n{content.strip()}\n\n{marks[2]}", text)


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=PAGES, default="demo")
    scale = parser.parse_args().scale
    page, results, docs = PAGES[scale], Path("results") / scale, Path("docs") / scale
    text = page.read_text(encoding="utf-8")
    sections = [name for name in re.findall(r"<!-- (\w+) -->", text) if name != "end"]
    sources = {name: results / "tables" / f"{name}.md" for name in sections} | {"costs": results / "benchmarks"}
    for needed in sources.values():
        if not needed.exists():
            raise UserError(f"{needed} does not exist; run make reproduce SCALE={scale} first")
    docs.mkdir(parents=True, exist_ok=True)
    for name in re.findall(rf"\]\((?:docs/)?{scale}/(\w+\.png)\)", text):
        shutil.copy(Path("figures") / scale / name, docs)
    for name, source in sources.items():
        costly = name == "costs"
        text = fill(
            text, name, numbers_table(COSTS, costs(source).to_numpy()) if costly else source.read_text(encoding="utf-8")
        )
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
