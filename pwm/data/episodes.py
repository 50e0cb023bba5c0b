"""Episodes on disk: one folder per task, written once, opened as memory maps.

    obs.npy         [E, T + 1, O] float32      an episode of L steps has L + 1 observations
    action.npy      [E, T, A]     float32
    reward.npy      [E, T]        float32
    terminated.npy  [E, T]        float32      1 at the last step of an episode that the task ended, else 0
    length.npy      [E]           int64        L <= T; rows after an episode's end are zero
    meta.json       `Meta`: what the data is, how it was made, a checksum per file

E episodes of at most T decisions, O observation and A action dimensions.
"""

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, PositiveInt, ValidationError

from pwm.errors import UserError
from pwm.integrity import file_checksum, seal, unseal

FORMAT_VERSION = 1
FileName = Literal["obs.npy", "action.npy", "reward.npy", "terminated.npy", "length.npy"]
FILES: tuple[str, ...] = get_args(FileName)
META = "meta.json"
# The packages that decide what an episode holds.
PACKAGES = ("pwm", "numpy", "torch", "gymnasium", "mujoco", "dm_control", "metaworld")


class Statistics(BaseModel):
    """Of the undiscounted episode returns, and the population standard deviation of the reward over all steps."""

    model_config = ConfigDict(frozen=True, strict=True)

    return_mean: FiniteFloat
    return_min: FiniteFloat
    return_max: FiniteFloat
    reward_std: FiniteFloat
    success_mean: FiniteFloat | None = None  # share of episodes that ended in success; None where that is not known


class Meta(BaseModel):
    """`meta.json`. It holds no path: the names of the files belong to the format."""

    model_config = ConfigDict(frozen=True, strict=True)

    format_version: Literal[1]  # first, so that another version is reported as just that
    task: str
    episodes: PositiveInt
    episode_length: PositiveInt  # T, decisions
    observation_dim: PositiveInt
    action_dim: PositiveInt
    collector: JsonValue  # the behaviour that acted
    seed: int
    statistics: Statistics
    versions: dict[str, str]
    sha256: Annotated[dict[FileName, str], Field(min_length=len(FILES))]
    seal: str | None = None  # `pwm.integrity`; sets made before have none
    policy_returns: list[FiniteFloat] = []  # mean return of each learnt policy that acted, by itself: without noise


@dataclass(frozen=True, eq=False)
class Episodes:
    """A data set, its arrays memory-mapped read-only; shapes as at the top of this module."""

    folder: Path
    meta: Meta
    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    length: np.ndarray

    @classmethod
    def open(
        cls,
        folder: str | Path,
        verify: bool = True,
        *,
        expected_task: str | None = None,
        observation_dim: int | None = None,
        action_dim: int | None = None,
    ) -> Self:
        """Open the data set in `folder`; `verify` reads every file once to compare its checksum.

        Raises `UserError` where the set is absent or damaged, or is not of the expected task or sizes.
        Nothing is ever deleted.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no data set; run the collect rule to make it")
        meta = _read_meta(folder)
        expected = {"task": expected_task, "observation_dim": observation_dim, "action_dim": action_dim}
        for key, value in expected.items():
            if value is not None and getattr(meta, key) != value:
                raise UserError(
                    f"{folder / META}: {key} is {getattr(meta, key)!r}, expected {value!r}; "
                    f"name the folder of the right task or run the collect rule again"
                )
        shapes = _shapes(meta.episodes, meta.episode_length, meta.observation_dim, meta.action_dim)
        arrays = {Path(name).stem: _open_array(folder / name, shape) for name, shape in shapes.items()}
        length = arrays["length"]
        if length.min() < 0 or length.max() > meta.episode_length:
            raise _damaged(folder / "length.npy", f"lengths outside 0 to {meta.episode_length}")
        if verify:
            for name, digest in meta.sha256.items():
                if _sha256(folder / name) != digest:
                    raise _damaged(folder / name, "checksum differs")
        return cls(folder=folder, meta=meta, **arrays)

    def returns(self) -> np.ndarray:
        """Undiscounted return of every episode, `[E]` float64."""
        valid = np.arange(self.meta.episode_length) < np.asarray(self.length)[:, None]
        return np.sum(self.reward, axis=1, dtype=np.float64, where=valid)


class EpisodeWriter:
    """Writes a data set of exactly `episodes` episodes, one at a time, and shows it complete or not at all.

    The files grow in the sibling folder `<name>.tmp`; `commit` renames it. A killed writer leaves only that folder,
    which the next writer of the same set replaces. One writer at a time for a set.
    """

    def __init__(
        self, folder: str | Path, task: str, observation_dim: int, action_dim: int, episode_length: int, episodes: int
    ) -> None:
        if min(observation_dim, action_dim, episode_length, episodes) < 1:
            raise ValueError("observation_dim, action_dim, episode_length and episodes must be at least 1")
        self._folder = Path(folder).resolve()
        self._staging = self._folder.with_name(f"{self._folder.name}.tmp")
        self._task = task
        self._observation_dim, self._action_dim = observation_dim, action_dim
        self._episode_length, self._episodes = episode_length, episodes
        self._count = 0
        self._success: list[bool | None] = []
        shapes = _shapes(episodes, episode_length, observation_dim, action_dim)
        try:
            if self._folder.exists() and not {path.name for path in self._folder.iterdir()} <= {*FILES, META}:
                raise UserError(f"{self._folder}: holds other files than a data set; name another folder")
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            if self._staging.exists():
                shutil.rmtree(self._staging)
            # Asked first: reserving more than there is would fill the disk before it fails.
            check_room(self._folder, room(episodes, episode_length, observation_dim, action_dim))
            self._staging.mkdir()
            self._arrays = {name: _create_array(self._staging / name, shape) for name, shape in shapes.items()}
        except OSError as error:
            shutil.rmtree(self._staging, ignore_errors=True)
            reason = f"cannot be written: {error.strerror}"
            raise UserError(f"{self._folder}: {reason}; mend that or name another") from error

    def add(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, terminated: bool, success: bool | None = None
    ) -> None:
        """Append an episode of 1 <= L <= T steps: obs `[L + 1, O]`, action `[L, A]`, reward `[L]`.

        `terminated`: the task ended the episode at its last step, against a limit of time; `success`: it ended in
        success, None where that is not known. Raises `ValueError` on a wrong shape, a value that is not finite in
        float32, or more episodes than announced.
        """
        if self._count == self._episodes:
            raise ValueError(f"{self._folder}: already holds the {self._episodes} episodes announced")
        if not 1 <= (steps := len(reward)) <= self._episode_length:
            raise ValueError(f"an episode has 1 to {self._episode_length} steps, not {steps}")
        rows = {
            "obs.npy": _finite("obs", obs, (steps + 1, self._observation_dim)),
            "action.npy": _finite("action", action, (steps, self._action_dim)),
            "reward.npy": _finite("reward", reward, (steps,)),
        }
        for name, values in rows.items():
            self._arrays[name][self._count, : len(values)] = values
        self._arrays["terminated.npy"][self._count, steps - 1] = float(terminated)
        self._arrays["length.npy"][self._count] = steps
        self._success.append(success)
        self._count += 1

    def commit(self, collector: JsonValue, seed: int, policy_returns: Sequence[float] = ()) -> None:
        """Make the set durable and show it under its name; one that stood there goes once this one is complete.

        `collector`: a JSON value describing the behaviour that acted; `policy_returns`: as in `Meta`.
        Raises `ValueError` where episodes are missing.
        """
        if self._count != self._episodes:
            raise ValueError(f"{self._folder}: {self._count} of the {self._episodes} episodes announced were added")
        for name, array in self._arrays.items():
            array.flush()
            _fsync(self._staging / name)
        meta = Meta(
            format_version=FORMAT_VERSION,
            task=self._task,
            episodes=self._episodes,
            episode_length=self._episode_length,
            observation_dim=self._observation_dim,
            action_dim=self._action_dim,
            collector=collector,
            seed=seed,
            statistics=self._statistics(),
            versions=_versions(),
            sha256={name: _sha256(self._staging / name) for name in FILES},
            policy_returns=list(policy_returns),
        )
        (self._staging / META).write_text(seal(meta.model_dump(exclude={"seal"})), encoding="utf-8")
        _fsync(self._staging / META)
        _fsync(self._staging)
        # A kill between the two renames loses no byte: the old set lies in `.old.tmp`, the new one in `.tmp`.
        old = self._folder.with_name(f"{self._folder.name}.old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(old)
        self._staging.rename(self._folder)
        _fsync(self._folder.parent)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing of a set that is not committed."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _statistics(self) -> Statistics:
        reward, length = self._arrays["reward.npy"], self._arrays["length.npy"]
        returns = reward.sum(axis=1, dtype=np.float64)  # rows after the end are zero
        valid = np.arange(self._episode_length) < np.asarray(length)[:, None]
        return Statistics(
            return_mean=float(returns.mean()),
            return_min=float(returns.min()),
            return_max=float(returns.max()),
            reward_std=float(np.std(reward, dtype=np.float64, where=valid)),
            success_mean=None if None in self._success else float(np.mean(self._success)),
        )


def room(episodes: int, episode_length: int, observation_dim: int, action_dim: int) -> int:
    """Bytes that a data set takes on disk, but for a few kB."""
    shapes = _shapes(episodes, episode_length, observation_dim, action_dim)
    return sum(math.prod(shape) * _dtype(name).itemsize for name, shape in shapes.items())


def check_room(folder: Path, needed: int) -> None:
    """Raise `UserError` where `needed` bytes are not free on the disk of `folder`, whose parent exists."""
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"{folder}: takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            f"make room there or take fewer episodes"
        )


def _shapes(episodes: int, episode_length: int, observation_dim: int, action_dim: int) -> dict[str, tuple[int, ...]]:
    return {
        "obs.npy": (episodes, episode_length + 1, observation_dim),
        "action.npy": (episodes, episode_length, action_dim),
        "reward.npy": (episodes, episode_length),
        "terminated.npy": (episodes, episode_length),
        "length.npy": (episodes,),
    }


def _dtype(name: str) -> np.dtype:
    return np.dtype(np.int64 if name == "length.npy" else np.float32)


def _create_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=_dtype(path.name), shape=shape)
    # A store into a hole of a map on a full disk kills the process without a word; here it is still an `OSError`.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _open_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    try:
        # Reads the header as a literal and refuses arrays of objects: nothing is ever unpickled.
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise _damaged(path, "the file is missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; mend its permissions or disk") from error
    except Exception as error:  # on a damaged header numpy lets the errors of `ast` and `tokenize` through
        raise _damaged(path, f"truncated or no plain array ({' '.join(str(error).split())[:80]})") from error
    if array.shape != shape or array.dtype != _dtype(path.name) or not array.flags.c_contiguous:
        found = f"{array.dtype} {list(array.shape)}{'' if array.flags.c_contiguous else ' in column order'}"
        raise _damaged(path, f"holds {found}, {META} promises {_dtype(path.name)} {list(shape)}")
    return array


def _read_meta(folder: Path) -> Meta:
    path = folder / META
    try:
        content = path.read_bytes()
        meta = Meta.model_validate_json(content)
        unseal(content)
        return meta
    except FileNotFoundError:
        raise _damaged(path, "the file is missing") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; mend its permissions or disk") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "whole file"
        reason = f"not data format version {FORMAT_VERSION}, {where}: {first['msg']}"
        raise _damaged(path, " ".join(reason.split())) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged: {reason}; delete the folder {path.parent} and run the collect rule again")


def _finite(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values, dtype=np.float32)
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}, expected {shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    return values


def _sha256(path: Path) -> str:
    try:
        return file_checksum(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; mend its permissions or disk") from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # another suite's simulator
    return versions
