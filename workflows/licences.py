"""The licences of all locked packages, as their metadata tell: python -m workflows.licences --into docs/licences.md"""

import argparse
import re
from importlib import metadata
from pathlib import Path

from pwm.errors import UserError, exit_on_user_error
from workflows.readme import fill, numbers_table

LOCK = Path("requirements.lock")
COLUMNS = ("licence", "packages", "which")
UNNAMED = "named in no metadata"
EXPRESSION = r"[\w.+-]+( (AND|OR|WITH) [\w.+-]+)*"
# What packages write otherwise, by the identifiers of https://spdx.org/licenses as far as it tells.
SPDX = {
    "Apache-2.0": r"Apache",
    "MPL-2.0": r"MPL-2\.0|Mozilla Public License 2\.0",
    "MIT": r"\bMIT\b",
    "BSD-3-Clause": r"BSD[ -]3|3-Clause BSD",
    "BSD-2-Clause": r"BSD[ -]2|2-clause BSD",
    "BSD": r"BSD|Berkeley",
    "NCSA": r"NCSA",
    "GPL": r"General Public License",
    "PSF-2.0": r"Python Software Foundation",
    "Public domain": r"Public Domain",
}


def licence(package: str) -> str:
    """A package's licence: its SPDX expression; else what its classifiers, text or licence file are recognised as.

    Raises:
        UserError: the package is not installed.
    """
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"{package} is locked but not installed; make env installs it") from None
    about = distribution.metadata
    named = about.get("License-Expression") or about.get("License", "")
    if re.fullmatch(EXPRESSION, named) and named != "BSD":
        return named
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    files = [file for file in distribution.files or [] if re.match(r"(LICEN[CS]E|COPYING)\b", file.name)]
    for text in (named[:60], "\n".join(classifiers), *(file.read_text()[:200] for file in files[:1])):
        if found := [name for name, pattern in SPDX.items() if re.search(pattern, text)]:
            return ", ".join(name for name in found if name != "BSD" or not {"BSD-2-Clause", "BSD-3-Clause"} & {*found})
    return UNNAMED


def table(lock: Path) -> str:
    """Licences with their packages, the most frequent first, in Markdown."""
    by_licence: dict[str, list[str]] = {}
    for name in re.findall(r"^([\w.-]+)==", lock.read_text(encoding="utf-8"), flags=re.MULTILINE):
        by_licence.setdefault(licence(name), []).append(name)
    order = sorted(by_licence.items(), key=lambda item: (-len(item[1]), item[0]))
    return numbers_table(COLUMNS, [(name, str(len(packages)), ", ".join(packages)) for name, packages in order])


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.licences", description=__doc__.partition(":")[0])
    parser.add_argument("--into", type=Path, help="also put the table into this page, between its marks licences")
    args = parser.parse_args()
    text = table(LOCK)
    print(text)
    if args.into:
        args.into.write_text(fill(args.into.read_text(encoding="utf-8"), "licences", text), encoding="utf-8")


if __name__ == "__main__":
    main()
