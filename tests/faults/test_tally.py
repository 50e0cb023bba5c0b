"""The counts themselves: a fault that is not survived is counted and fails its test; the page has what was counted."""

import re

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
