"""How files tell that they are damaged.

A JSON file holds a checksum of its own content; other files have theirs in the JSON file that describes them, or in the
list `checksums.json` beside them.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SEAL, MARK, LIST = "seal", "sha256:", "checksums.json"


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(content: dict[str, Any]) -> str:
    """The text of a JSON file: `content`, and its checksum as the last entry."""
    return json.dumps(content | {SEAL: _checksum(content)}, indent=2)


def unseal(text: str | bytes) -> dict[str, Any]:
    """The content of such a file. One without a checksum is taken as it is: files made before have none.

    Raises:
        ValueError: it is no JSON mapping, or not what was sealed.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    # Known by its value as well: a damaged key would turn the check off.
    seals = {key: value for key, value in content.items() if key == SEAL or str(value).startswith(MARK)}
    content = {key: value for key, value in content.items() if key not in seals}
    if seals and seals != {SEAL: _checksum(content)}:
        raise ValueError("checksum differs")
    return content


def list_checksums(files: Iterable[Path]) -> str:
    """The text of a `checksums.json` for files that lie beside it."""
    return seal({file.name: file_checksum(file) for file in files})


def check_listed(path: Path) -> None:
    """Compare a file with the list beside it, where there is one that has it.

    Raises:
        ValueError: it is not what was listed, or the list is damaged.
        OSError: one of them cannot be read.
    """
    listed = path.with_name(LIST)
    if listed.exists() and unseal(listed.read_bytes()).get(path.name, file_checksum(path)) != file_checksum(path):
        raise ValueError(f"it is not the file that {listed} lists")


def _checksum(content: dict[str, Any]) -> str:
    return MARK + hashlib.sha256(json.dumps(content).encode()).hexdigest()
