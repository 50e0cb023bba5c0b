"""Locked versions against advisories: ranges by the versions in and out of them, and a database of this test's own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from project_copy import ROOT
from support import refusal

from workflows import vulnerabilities


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        ([{"introduced": "0"}, {"fixed": "2.10"}], ["0.1", "2.9", "2.10rc1"], ["2.10", "3"]),
        ([{"introduced": "1.2"}, {"last_affected": "1.10"}], ["1.2", "1.10"], ["1.1", "1.11"]),
        ([{"introduced": "1"}], ["1", "99"], ["0.9"]),
        (
            [{"fixed": "4"}, {"introduced": "3"}, {"introduced": "1"}, {"fixed": "2"}],
            ["1.5", "3"],
            ["0", "2", "2.5", "4"],
        ),
    ],
)
def test_ranges(events, inside, outside):
    assert [version for version in inside + outside if vulnerabilities.in_range(Version(version), events)] == inside


def affected(name: str, *events: dict[str, str], kind: str = "ECOSYSTEM", versions: tuple[str, ...] = ()) -> dict:
    """What an advisory tells of a package."""
    ranges = [{"type": kind, "events": list(events)}] if events else []
    return {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges, "versions": list(versions)}


ALL = {"introduced": "0"}
ADVISORIES = {  # by id: the package, the advisory, and whether the locked version is affected
    "open": ("PyYAML", {"affected": [affected("PyYAML", ALL)]}, True),
    "mended": ("PyYAML", {"affected": [affected("PyYAML", ALL, {"fixed": "5.4"})]}, False),
    "later": ("numpy", {"affected": [affected("numpy", ALL, {"fixed": "99"})]}, True),
    "listed": ("numpy", {"affected": [affected("NumPy", versions=("2.3.4", "2.3.5"))]}, True),
    "not-listed": ("numpy", {"affected": [affected("numpy", versions=("2.3.4", "2.3.50"))]}, False),
    "commits": ("numpy", {"affected": [affected("numpy", {"introduced": "0"}, kind="GIT")]}, False),
    "withdrawn": ("numpy", {"affected": [affected("numpy", ALL)], "withdrawn": "2024-01-01T00:00:00Z"}, False),
    "another": ("unheard-of", {"affected": [affected("unheard-of", ALL)]}, False),
    "two": ("numpy", {"affected": [affected("unheard-of", ALL), affected("numpy", {"introduced": "3"})]}, False),
}
VERSIONS = {"numpy": Version("2.3.5"), "pyyaml": Version("6.0.3"), "torch": Version("2.13.0")}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The advisories above, each published a year after the one before."""
    for year, (name, (package, advisory, _)) in enumerate(ADVISORIES.items(), 2016):
        file = tmp_path / "vulns" / package / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({"id": name, "published": f"{year}-05-26T18:15:00Z"} | advisory))
    return tmp_path


def test_what_is_affected(database):
    rows, told = vulnerabilities.audit(database, VERSIONS)
    assert {row[0] for row in rows} == {name for name, (_, _, found) in ADVISORIES.items() if found}
    assert ("later", "numpy", "2.3.5", "99") in rows and ("open", "pyyaml", "6.0.3", "none") in rows
    assert told == (
        "9 advisories, the newest of 2024-05-26; 8 are on 2 of the 3 locked packages, 3 on a version that is locked."
    )


def test_what_cannot_be_read_is_named(database, tmp_path):
    refusal(lambda: vulnerabilities.audit(tmp_path / "vulns", VERSIONS), "vulns", "advisory-database")
    file = database / "vulns" / "torch" / "odd.yaml"
    file.parent.mkdir()
    for advisory in ({}, {"affected": [affected("torch", {"introduced": "one"})]}, {"affected": [1]}, {"affected": 1}):
        file.write_text(yaml.safe_dump({"id": "odd"} | advisory))
        refusal(lambda: vulnerabilities.audit(database, VERSIONS), "odd.yaml", "not an advisory")


def test_the_command(database, tmp_path):
    """By the real lock: the page is filled, and code 1 says that something is affected."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- vulnerabilities -->\nold\n<!-- end -->\n")
    command = [sys.executable, "-m", "workflows.vulnerabilities", "--database", str(database), "--into", str(page)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and "| open | pyyaml | " in found.stdout, found.stderr
    assert page.read_text() == f"before\n<!-- vulnerabilities -->\n\n{found.stdout.strip()}\n\n<!-- end -->\n"
    for name in ("open", "later", "listed"):
        next((database / "vulns").rglob(f"{name}.yaml")).unlink()
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_the_page_is_of_this_lock():
    count = len(vulnerabilities.locked(ROOT / "requirements.lock"))
    page = (ROOT / "docs/licences.md").read_text()
    assert f"of the {count} locked packages, 0 on a version that is locked" in page
