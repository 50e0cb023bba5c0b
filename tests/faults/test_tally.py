"""The counts themselves: a fault that is not survived is counted and fails its test; the page has what was counted."""

import re
import subprocess
import sys

import numpy as np
import pytest
from faults import DAMAGES, KINDS, Tally, damaged, table
from project_copy import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def test_what_is_lost_is_counted():
    tally = Tally()
    for error in (None, ValueError("why"), AssertionError, SystemExit(1)):
        with tally.fault("it"):
            if error:
                raise error
    with tally.fault("nothing raised"), pytest.raises(KeyError):
        pass
    assert tally.tried == 5 and len(tally.lost) == 4
    assert tally.lost[0] == "it: ValueError: why"


def test_a_lost_fault_fails_its_test(faults, monkeypatch):
    monkeypatch.setitem(KINDS, "this", ("what", "survival"))
    with pytest.raises(AssertionError, match=r"1 lost:\s+it: ValueError: why"), faults("this") as tally:
        with tally.fault("it"):
            raise ValueError("why")
        assert "| what | survival | 1 | 0 | 1 |" in table({"this": tally})
    with pytest.raises(AssertionError), faults("this") as tally:
        tally.tried = 0


def test_a_row_is_kept_where_its_file_was_not_run():
    tallies = dict.fromkeys(KINDS, Tally())
    before = table(tallies)
    assert "not tried" not in before
    tally = Tally()
    tally.tried = 7
    rows = table({"data": tally}, before).splitlines()
    assert rows[2].endswith("| 7 | 7 | 0 |") and rows[3:] == before.splitlines()[3:]
    assert table({"data": tally}).count("not tried") == len(KINDS) - 1


@pytest.mark.parametrize("words", [["-k", "damage"], ["::test_damage_is_damage"]])
def test_a_file_is_counted_whole(tmp_path, words):
    """Of kinds of which some faults were tried only, no row is written."""
    page = tmp_path / "page.md"
    page.write_text(text := PAGE.read_text())
    file, words = "tests/faults/test_tally.py", list(words)
    file += words.pop() if words[0].startswith("::") else ""
    command = [sys.executable, "-m", "pytest", file, *words, "--reliability", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4 and "counts whole files" in done.stderr and page.read_text() == text


def test_damage_is_damage(tmp_path):
    """Of each kind, every time; and the file is whole again afterwards."""
    file, rng = tmp_path / "file", np.random.default_rng(0)
    whole = rng.bytes(50)
    file.write_bytes(whole)
    for _ in damaged(file, 40, rng):
        assert file.read_bytes() != whole
    assert file.read_bytes() == whole
    assert len(DAMAGES["cut"](whole, rng)) < 50
    spoilt = DAMAGES["flip"](whole, rng)
    assert sum((a ^ b).bit_count() for a, b in zip(whole, spoilt, strict=True)) == 1


def test_the_page_has_every_kind_and_nothing_lost(thorough):
    """`make faults` wrote it; a kind that was renamed or added since is not in it yet."""
    if thorough:
        pytest.skip("the page is being made")
    rows = re.findall(r"^\| (.+) \| (.+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE.read_text(), flags=re.MULTILINE)
    assert [tuple(row[:2]) for row in rows] == list(KINDS.values())
    for _, _, tried, survived, lost in rows:
        assert int(tried) == int(survived) > 0 == int(lost)
