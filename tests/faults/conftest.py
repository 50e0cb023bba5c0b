"""Counts of all faults, and the page that they make."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from faults import KINDS, Tally, table

from workflows.readme import fill

FOLDER = Path(__file__).resolve().parent
TALLIES = pytest.StashKey[dict[str, Tally]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, help="try all faults, not a few, and fill this page with the counts")


def pytest_configure(config: pytest.Config) -> None:
    """No file in part: a kind's faults are all in one file, and its row would have the counts of some of them."""
    picked = config.getoption("keyword", "") or any("::" in arg for arg in config.args)
    if config.getoption("reliability", None) is not None and picked:
        raise pytest.UsageError("--reliability counts whole files; give tests/faults, or files of it without ::, -k")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("faults")


@pytest.fixture(scope="session")
def thorough(pytestconfig: pytest.Config) -> bool:
    """Whether all faults are tried, not a few."""
    return pytestconfig.getoption("reliability", None) is not None


@pytest.fixture
def faults(pytestconfig: pytest.Config) -> Callable[[str], AbstractContextManager[Tally]]:
    """Opens the tally of a kind; when it closes, the test fails if a fault was lost."""

    @contextmanager
    def open_tally(kind: str) -> Iterator[Tally]:
        assert kind in KINDS
        tally = pytestconfig.stash.setdefault(TALLIES, {}).setdefault(kind, Tally())
        before = len(tally.lost)
        yield tally
        lost = tally.lost[before:]
        assert tally.tried and not lost, f"{len(lost)} lost:\n" + "\n".join(lost[:20])

    return open_tally


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    page = session.config.getoption("reliability", None)
    if page is not None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):  # it came to its end
        text = page.read_text(encoding="utf-8")
        whole = [Path(arg).resolve() for arg in session.config.args] == [FOLDER]
        rows = table(session.config.stash.get(TALLIES, {}), "" if whole else text)
        page.write_text(fill(text, "faults", rows), encoding="utf-8")
