"""Licences by what metadata say, and the page of them."""

import re
from importlib import metadata

import pytest
from project_copy import ROOT
from support import refusal

from workflows import licences


class Distribution:
    """An installed package with so much metadata, and maybe a licence file."""

    def __init__(self, about: dict[str, object], text: str) -> None:
        self.metadata, self.files = About(about), [File(text)] if text else None


class About(dict):
    """Metadata, in which one key may have several values."""

    def get_all(self, key: str) -> list[str] | None:
        return dict.get(self, key)


class File:
    """A licence file."""

    name = "LICENSE.txt"

    def __init__(self, text: str) -> None:
        self.read_text = lambda: text


@pytest.mark.parametrize(
    ("about", "text", "expected"),
    [
        ({"License-Expression": "MIT AND PSF-2.0", "License": "other"}, "", "MIT AND PSF-2.0"),
        ({"License": "BSD-3-Clause"}, "", "BSD-3-Clause"),
        ({"License": "Apache License, Version 2.0"}, "", "Apache-2.0"),
        ({"License": "BSD 3-Clause License\n\nCopyright"}, "", "BSD-3-Clause"),
        ({"License": "BSD", "Classifier": ["License :: OSI Approved :: BSD License"]}, "", "BSD"),
        ({"License": "", "Classifier": ["Topic :: Permitting", "License :: OSI Approved :: MIT License"]}, "", "MIT"),
        ({}, "The MIT License\n\nPermission", "MIT"),
        ({}, "", licences.UNNAMED),
    ],
)
def test_a_licence_is_recognised(monkeypatch, about, text, expected):
    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution(about, text))
    assert licences.licence("x") == expected


def test_a_package_that_is_not_installed_is_named():
    refusal(lambda: licences.licence("no-such-package-at-all"), "no-such-package-at-all", "make env")


def test_the_page_is_current():
    """Every locked package stands on it, with the licence that is installed."""
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- licences -->\n\n(.*?)\n\n<!-- end -->", page, flags=re.DOTALL)[1]
    assert shown == licences.table(ROOT / "requirements.lock")
    assert licences.UNNAMED not in shown
