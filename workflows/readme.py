"""Put the finished demo's figures and numbers into the README: python -m workflows.readme

Copies the figures it shows into docs/demo/ and fills its marked sections with the table of scores and the costs.
"""

import argparse
import re
import shutil
from pathlib import Path

import pandas as pd

from pwm.errors import UserError, exit_on_user_error

README, DOCS = Path("README.md"), Path("docs/demo")
RESULTS, FIGURES = Path("results/demo"), Path("figures/demo")


def costs(benchmarks: Path) -> str:
    """A Markdown table of jobs, time and memory by rule, from Snakemake's benchmark files."""
    folders = sorted({file.relative_to(benchmarks).parts[0].removesuffix(".tsv") for file in benchmarks.rglob("*.tsv")})
    rows = []
    for rule in folders:
        files = [*(benchmarks / rule).rglob("*.tsv"), *benchmarks.glob(f"{rule}.tsv")]
        jobs = pd.concat(pd.read_csv(file, sep="\t", na_values="-") for file in files)
        rows.append((rule, len(jobs), jobs["s"].sum() / 60, jobs["s"].max() / 60, jobs["max_rss"].max() / 1024))
    jobs, minutes, longest, peak = zip(*(row[1:] for row in rows), strict=True)
    rows.append(("all", sum(jobs), sum(minutes), max(longest), max(peak)))
    lines = ["| rule | jobs | minutes in all | longest job, minutes | peak memory of a job, GiB |"]
    lines += ["|---|--:|--:|--:|--:|"]
    lines += ["| {} | {} | {:.1f} | {:.1f} | {:.2f} |".format(*row) for row in rows]
    return "\n".join(lines)


def fill(text: str, section: str, content: str) -> str:
    """`text` with what stands between the section's marks replaced."""
    pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"{README}: no section <!-- {section} --> … <!-- end -->; put the marks back")
    return pattern.sub(lambda marks: f"{marks[1]}\n{content.strip()}\n\n{marks[2]}", text)


@exit_on_user_error
def main() -> None:
    """The command line."""
    argparse.ArgumentParser(
        prog="python -m workflows.readme", description="Fill the README from the demo."
    ).parse_args()
    table, benchmarks = RESULTS / "tables" / "per_task_scores.md", RESULTS / "benchmarks"
    for needed in (table, benchmarks):
        if not needed.exists():
            raise UserError(f"{needed} does not exist; run make reproduce first")
    text = README.read_text(encoding="utf-8")
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in re.findall(rf"\]\({DOCS}/(\w+\.png)\)", text):
        shutil.copy(FIGURES / name, DOCS)
    text = fill(text, "per_task_scores", table.read_text(encoding="utf-8"))
    README.write_text(fill(text, "costs", costs(benchmarks)), encoding="utf-8")


if __name__ == "__main__":
    main()
