"""Put a finished scale's figures and numbers into its page: python -m workflows.readme --scale demo

Copies the figures that the page shows into docs/<scale>/ and fills its marked sections: tables by their stems, `costs`,
`redraw` (what each figure took to draw), and the index of `figures` and of `tables`, which `--index` fills alone.
"""

import argparse
import ast
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pwm.errors import UserError, exit_on_user_error
from workflows import scripts

WORKFLOWS = Path(__file__).resolve().parent
INDEXED = ("figures", "tables")
IN_PAPER = ".. In the paper: "
COSTS = ["rule", "jobs", "minutes in all", "longest job, minutes", "peak memory of a job, GiB"]
PAGES = {
    "contacts": Path("docs/shac.md"),
    "demo": Path("README.md"),
    "learning": Path("docs/learning.md"),
    "online-cpu": Path("docs/online.md"),
    "tuning": Path("docs/baselines.md"),
}


def index(kind: str) -> str:
    """A table of all figures or tables: the script's name, what it is in the paper and what it shows.

    Both are read from its files: from the first line of its caption, where that says it, and of its docstring.
    """
    lines = [f"| `workflows/{kind}/` | in the paper | shows |", "|---|---|---|"]
    for stem in scripts(kind):
        docstring = ast.get_docstring(ast.parse((WORKFLOWS / kind / f"{stem}.py").read_text(encoding="utf-8")))
        caption = WORKFLOWS / "report" / f"{stem}.rst"
        told = caption.read_text(encoding="utf-8").partition("\n")[0] if caption.exists() else ""
        paper = told.removeprefix(IN_PAPER) if told.startswith(IN_PAPER) else "–"
        lines.append(f"| `{stem}` | {paper} | {(docstring or '').partition(chr(10))[0]} |")
    return "\n".join(lines)


def redraw_times(benchmarks: Path) -> str:
    """A table of what drawing each figure took, from the records of the rules that draw them."""
    rows = []
    for file in sorted((benchmarks / "plot").glob("*.tsv")):
        job = pd.read_csv(file, sep="\t", na_values="-").iloc[0]
        rows.append((f"`{file.stem}`", f"{job['s']:.1f}", f"{job['cpu_time']:.1f}"))
    return numbers_table(["figure", "seconds", "of them on the CPU"], rows)


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


def contents(sections: Sequence[str], scale: str) -> dict[str, str]:
    """What belongs into each section of a scale's page.

    Raises:
        UserError: what it is made from is not there.
    """
    results, found = Path("results") / scale, {}
    for name in sections:
        source = results / ("benchmarks" if name in ("costs", "redraw") else f"tables/{name}.md")
        if name in INDEXED:
            found[name] = index(name)
            continue
        if not source.exists():
            raise UserError(f"{source} does not exist; run make reproduce SCALE={scale} first")
        if name == "costs":
            found[name] = numbers_table(COSTS, costs(source).to_numpy())
        else:
            found[name] = redraw_times(source) if name == "redraw" else source.read_text(encoding="utf-8")
    return found


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=PAGES, default="demo")
    parser.add_argument("--index", action="store_true", help="fill the README's index alone, which needs no results")
    args = parser.parse_args()
    page, docs = PAGES[args.scale], Path("docs") / args.scale
    text = page.read_text(encoding="utf-8")
    sections = [name for name in re.findall(r"<!-- (\w+) -->", text) if name != "end"]
    for name, content in contents(INDEXED if args.index else sections, args.scale).items():
        text = fill(text, name, content)
    if not args.index:
        docs.mkdir(parents=True, exist_ok=True)
        for name in re.findall(rf"\]\((?:docs/)?{args.scale}/(\w+\.png)\)", text):
            shutil.copy(Path("figures") / args.scale / name, docs)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
