"""What dm_control spends most on in Python, made fast: the same numbers bit for bit."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from dm_control.mujoco import Physics
from dm_control.mujoco.index import FieldIndexer
from dm_control.utils import rewards

FEW = 4  # values of an array that are treated one by one
_general_tolerance = rewards.tolerance


@contextmanager
def fast_rewards() -> Iterator[None]:
    """Give the suite's tasks, which look `rewards.tolerance` up by name, the one of this module."""
    rewards.tolerance = tolerance
    try:
        yield
    finally:
        rewards.tolerance = _general_tolerance


def tolerance(
    x: Any,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """dm_control's `rewards.tolerance` of a number or a few, in Python's arithmetic; of anything else, its own."""
    lower, upper = bounds
    scale = _scale(sigmoid, value_at_margin)
    if scale is not None and lower <= upper and margin >= 0:
        if isinstance(x, float):
            return _value(float(x), lower, upper, margin, sigmoid, scale, _power)
        if isinstance(x, np.ndarray) and x.dtype == np.float64 and x.ndim == 1 and x.size <= FEW:
            return np.array([_value(v, lower, upper, margin, sigmoid, scale, _product) for v in x.tolist()])
    return _general_tolerance(x, bounds, margin, sigmoid, value_at_margin)


@functools.cache
def _scale(sigmoid: str, value_at_margin: float) -> float | None:
    """What stretches the distance of one margin to where a sigmoid has `value_at_margin`; None: not treated here."""
    if sigmoid == "gaussian" and 0 < value_at_margin < 1:
        return float(np.sqrt(-2 * np.log(value_at_margin)))
    if sigmoid == "linear" and 0 <= value_at_margin < 1:
        return 1.0 - value_at_margin
    if sigmoid == "quadratic" and 0 <= value_at_margin < 1:
        return float(np.sqrt(1 - value_at_margin))
    return None


def _value(
    x: float,
    lower: float,
    upper: float,
    margin: float,
    sigmoid: str,
    scale: float,
    square: Callable[[float], float],
) -> float:
    if lower <= x <= upper:
        return 1.0
    if margin == 0:
        return 0.0
    distance = (lower - x if x < lower else x - upper) / margin * scale
    if sigmoid == "gaussian":
        return float(np.exp(-0.5 * square(distance)))
    if not abs(distance) < 1:
        return 0.0
    return 1 - (distance if sigmoid == "linear" else square(distance))


def _power(x: float) -> float:
    return float(np.float64(x) ** 2)  # as NumPy squares a scalar; at times the product is one bit off


def _product(x: float) -> float:
    return x * x  # as NumPy squares an array


class _CachedIndexer(FieldIndexer):
    """A named array of MuJoCo's that looks a name up once."""

    __slots__ = ("_numbers",)

    def __init__(self, indexer: FieldIndexer) -> None:
        self._field_name, self._field, self._axes = indexer._field_name, indexer._field, indexer._axes
        self._numbers: dict[Any, Any] = {}

    def __getitem__(self, key: Any) -> Any:
        known = key if type(key) is str else _hashable(key)
        try:
            return self._field[self._numbers[known]]
        except KeyError:
            self._numbers[known] = _as_arrays(self._convert_key(key))
            return self._field[self._numbers[known]]
        except TypeError:  # an array as key
            return super().__getitem__(key)


def _hashable(key: Any) -> Any:
    if type(key) is tuple:
        return tuple([part if type(part) is str else _hashable(part) for part in key])
    if type(key) is list:
        return (list, *key)
    if type(key) is slice:
        return (slice, key.start, key.stop, key.step)
    return key


def _as_arrays(key: Any) -> Any:
    if type(key) is tuple:
        return tuple(_as_arrays(part) for part in key)
    return np.array(key) if type(key) is list else key


def cache_names(physics: Physics) -> None:
    """Have `physics.named` look every name up once."""
    for struct in physics.named:
        for field, indexer in struct._asdict().items():
            setattr(type(struct), field, _CachedIndexer(indexer))  # a class of this physics alone
