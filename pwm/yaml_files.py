"""Settings as plain data: read from YAML files, and laid over each other."""

import re
from pathlib import Path
from typing import Any

import yaml

from pwm.errors import UserError

LARGEST = 1_000_000  # entries of a file


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 3e-4 as a number, as YAML 1.2 does, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what `<<` names in its place, each key once: merges of merges would multiply them."""
        super().flatten_mapping(node)
        node.value = list({(key.tag, str(key.value)): (key, value) for key, value in node.value}.values())


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file is missing, is not YAML or holds no mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); check that it is a text file you may read") from None
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:  # the third for !!timestamp soon
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML ({reason}); mend the file") from None
    if _size(data, {}) > LARGEST:
        raise UserError(f"{path}: its aliases stand for more than {LARGEST} entries; mend the file")
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a mapping of settings, not {type(data).__name__}; mend the file")
    return data


def _size(data: Any, sizes: dict[int, int]) -> int:
    """Entries when every alias is written out, of which few lines may mean billions; too many where one holds itself.

    `sizes` are of what was looked at before, by `id`.
    """
    if not isinstance(data, dict | list):
        return 1
    if id(data) not in sizes:
        sizes[id(data)] = LARGEST
        parts = data.values() if isinstance(data, dict) else data
        sizes[id(data)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(data)]


def merge(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping; later ones win."""
    merged = dict(base)
    for change in changes:
        for key, value in change.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
