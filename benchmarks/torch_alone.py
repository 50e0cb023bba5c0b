"""Where only torch is installed: the settings' classes with their defaults, and without their checks.

They are pydantic's; `pwm.config` also reads YAML. Benchmarks need neither: they give the settings in Python.
"""

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, get_type_hints

NEEDED = ("pydantic", "yaml")


class BaseModel:
    """Settings by name, else by the class; the rest of pydantic's class is not there."""

    def __init__(self, **values: Any) -> None:
        for fill in vars(type(self)).values():
            if isinstance(fill, classmethod):  # what pydantic would run before it checks
                values = fill.__func__(type(self), values)
        for name in get_type_hints(type(self)):
            setattr(self, name, values[name] if name in values else getattr(type(self), name))


def use_stand_ins() -> None:
    """Let `pwm.config` be imported without pydantic and PyYAML, where one of them is missing."""
    if all(map(find_spec, NEEDED)):
        return
    pydantic, yaml, yaml_files = (ModuleType(name) for name in (*NEEDED, "pwm.yaml_files"))
    pydantic.BaseModel, pydantic.ConfigDict, pydantic.ValidationError = BaseModel, dict, ValueError
    pydantic.Field = lambda default=None, **_: default
    pydantic.model_validator = lambda mode: lambda check: check
    yaml_files.read_yaml = None
    sys.modules.update({module.__name__: module for module in (pydantic, yaml, yaml_files)})
