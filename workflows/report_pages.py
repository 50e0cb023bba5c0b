"""Pages of the report that tell of the runs themselves: what is missing, what it cost, where it comes from.

    python -m workflows.report_pages --results results/demo --figures figures/demo

writes <results>/report/missing.html, costs.html and provenance.html from the files of the folder: the runs that
expected.csv lists, what provenance.csv tells of them, of world models and of data sets, and what the jobs took.
"""

import argparse
from pathlib import Path

import pandas as pd

from pwm import statistics
from pwm.errors import UserError, exit_on_user_error
from pwm.integrity import check_listed
from pwm.matrix import RunId
from pwm.scores import HARDWARE
from workflows import pages, scripts
from workflows.readme import costs


def provenance(results: Path) -> pd.DataFrame:
    """What the scale's collated files tell of every data set, world model and run; text, empty where it is unknown.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = results / "provenance.csv"
    try:
        check_listed(file)
        return pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); collate the runs again") from None


def missing_runs(results: Path) -> tuple[pd.DataFrame, int]:
    """The runs of expected.csv without a score and what there is of each; and how many are expected."""
    keys = statistics.RUN_KEYS
    expected = statistics.load_expected(results / "expected.csv")
    there = pd.MultiIndex.from_frame(statistics.load_scores(results / "scores.csv")[keys])
    absent = expected.loc[~pd.MultiIndex.from_frame(expected[keys]).isin(there), keys]
    trained = [(results / "runs" / RunId(*row).path / "manifest.json").exists() for row in absent.to_numpy()]
    return absent.assign(state=["trained, not scored" if yes else "not trained" for yes in trained]), len(expected)


def missing_page(results: Path, figures: Path) -> str:
    """What the scale asks for and the report does not have."""
    absent, expected = missing_runs(results)
    undrawn = [stem for stem in scripts("figures") if not (figures / f"{stem}.png").exists()]
    if absent.empty and not undrawn:
        return pages.page("Missing", pages.paragraph(f"Nothing is missing: all {expected} runs are scored."))
    parts = []
    if len(absent):
        parts += [pages.paragraph(f"{len(absent)} of {expected} runs are missing."), pages.table(absent)]
    if undrawn:
        parts += [pages.paragraph(f"Not drawn, since their measurements are missing: {', '.join(undrawn)}.")]
    return pages.page("Missing", *parts)


def costs_page(results: Path) -> str:
    """Jobs, time and memory by rule."""
    told = f"From the jobs' own records in {results / 'benchmarks'}. What was made again counts once, as it was last."
    cells = costs(results / "benchmarks")
    return pages.page("Run times and costs", pages.paragraph(told), pages.table(cells))


def provenance_page(results: Path, made: pd.DataFrame) -> str:
    """What was made when, by which commit, where, with which versions and by which settings."""
    places = made[[*HARDWARE, "versions"]].drop_duplicates().reset_index(drop=True)
    places.insert(0, "on", [f"({number})" for number in range(1, len(places) + 1)])
    rows = made.merge(places, on=[*HARDWARE, "versions"], how="left")
    short = rows["commit"].map(lambda commit: "-".join(part[:10] for part in str(commit).split("-")))
    seconds = rows["train_wall_s"].map(lambda value: f"{float(value):.0f}" if value else "")
    cells = rows.assign(**{"commit": short, "training, s": seconds})
    cells = cells[["made", "commit", "started", "ended", "training, s", "on"]]
    configs = {}
    for folder in made["made"]:
        file = results / folder.removesuffix("/episodes") / "config.yaml"
        if file.exists():  # seeds differ in nothing else
            configs.setdefault(folder.rpartition("/seed")[0] or folder, file.read_text(encoding="utf-8"))
    commits = sorted({commit for commit in made["commit"] if commit})
    return pages.page(
        "Provenance",
        pages.paragraph(
            f"{len(made)} data sets, world models and runs, by commits: {', '.join(commits) or 'unknown'}."
        ),
        "<h2>Hardware and versions</h2>",
        pages.table(places, last_wraps=True),
        "<h2>What was made</h2>",
        pages.paragraph(
            "Data sets tell their versions alone. Commands and simulators are in the scale's provenance.csv."
        ),
        pages.table(cells),
        "<h2>Settings</h2>",
        *(pages.folded(name, text) for name, text in sorted(configs.items())),
    )


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.report_pages", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="results/<scale>")
    parser.add_argument("--figures", type=Path, required=True, help="figures/<scale>")
    args = parser.parse_args()
    made, out = provenance(args.results), args.results / "report"
    out.mkdir(parents=True, exist_ok=True)
    written = {
        "missing": missing_page(args.results, args.figures),
        "costs": costs_page(args.results),
        "provenance": provenance_page(args.results, made),
    }
    for name, text in written.items():
        (out / f"{name}.html").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
