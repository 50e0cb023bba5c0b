"""Known vulnerabilities of the locked packages: python -m workflows.vulnerabilities --database FOLDER

The folder is a copy of https://github.com/pypa/advisory-database, so that no service on the network is asked. The exit
code is 1 if a locked version is affected.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pwm.errors import UserError, exit_on_user_error
from pwm.yaml_files import read_yaml
from workflows.licences import LOCK
from workflows.readme import fill, numbers_table

COLUMNS = ("advisory", "package", "locked", "mended in")


def locked(lock: Path) -> dict[str, Version]:
    """The locked versions, by the packages' canonical names."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


def in_range(version: Version, events: Iterable[Mapping[str, str]]) -> bool:
    """Whether a version lies between where a vulnerability came in and where it was mended.

    Events as in https://ossf.github.io/osv-schema: `fixed` is the first version without, `last_affected` the last with.
    """
    inside = False
    for at, kind in sorted((Version(str(at)), kind) for event in events for kind, at in event.items()):
        if at <= version:
            inside = kind == "introduced" or (kind == "last_affected" and at == version)
    return inside


def findings(advisory: Mapping[str, Any], versions: Mapping[str, Version]) -> list[tuple[str, ...]]:
    """Rows of what an advisory says of the locked `versions`; none where it is withdrawn or they are not affected."""
    rows = []
    for affected in [] if "withdrawn" in advisory else advisory["affected"]:
        name = canonicalize_name(affected["package"]["name"])
        version = versions.get(name)
        ranges = [one["events"] for one in affected.get("ranges", []) if one["type"] == "ECOSYSTEM"]
        listed = version and str(version) in map(str, affected.get("versions", []))
        if version and (listed or any(in_range(version, events) for events in ranges)):
            mended = [str(event["fixed"]) for events in ranges for event in events if "fixed" in event]
            rows.append((str(advisory["id"]), name, str(version), ", ".join(mended) or "none"))
    return rows


def audit(database: Path, versions: Mapping[str, Version]) -> tuple[list[tuple[str, ...]], str]:
    """What is affected, and one line on what that rests on.

    Raises:
        UserError: the folder is no such database, or an advisory cannot be read.
    """
    files = sorted((database / "vulns").glob("*/*.yaml"))
    if not files:
        raise UserError(f"{database}: no vulns/PACKAGE/ID.yaml; give a copy of github.com/pypa/advisory-database")
    dates = [re.search(r"^published: \W?(\d{4}-\d\d-\d\d)", text, re.M) for text in map(Path.read_text, files)]
    concerned = [file for file in files if canonicalize_name(file.parent.name) in versions]
    rows = []
    for file in concerned:
        try:
            rows += findings(read_yaml(file), versions)
        except (KeyError, TypeError, AttributeError, InvalidVersion) as error:
            raise UserError(f"{file}: not an advisory ({error!r}); take a fresh copy of the database") from None
    newest = max((date[1] for date in dates if date), default="no date")
    packages = len({file.parent.name for file in concerned})
    told = f"{len(files)} advisories, the newest of {newest}; {len(concerned)} are on {packages} of the {len(versions)}"
    return rows, f"{told} locked packages, {len(rows)} on a version that is locked."


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.vulnerabilities", description=__doc__.partition(":")[0])
    parser.add_argument("--database", type=Path, required=True, help="a copy of github.com/pypa/advisory-database")
    parser.add_argument("--into", type=Path, help="also put what is found into this page, between marks of this name")
    args = parser.parse_args()
    rows, text = audit(args.database, locked(LOCK))
    if rows:
        text += f"\n\n{numbers_table(COLUMNS, rows)}"
    print(text)
    if args.into:
        args.into.write_text(fill(args.into.read_text(encoding="utf-8"), "vulnerabilities", text), encoding="utf-8")
    sys.exit(1 if rows else 0)


if __name__ == "__main__":
    main()
