"""Muscles for a MuJoCo body, from a table with one row per muscle of the right side."""

import csv
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from pwm.errors import UserError

COLUMNS = ["name", "peak_force_N", "optimal_length_m", "slack_length_m", "path"]
# Deviation D12: in dflex a muscle pulls with activation × 0.36 × peak force at any length and speed. Here it has
# MuJoCo's curves, whose damping makes long time steps stable, and its whole peak force.
# The curves, in units of optimal fibre length and peak force (after Zajac 1989 and Thelen 2003): active force from 0.5
# to 1.6, passive force a half at 1.3 and rising; none when it shortens by 10 a second, at most 1.4 when stretched.
SHORTEST, LONGEST, MAX_SPEED, PASSIVE, ECCENTRIC = 0.5, 1.6, 10.0, 1.0, 1.4
LENGTHS = (0.0, 2.0)  # fibre lengths that an actuator's length range stands for


@dataclass(frozen=True)
class Muscle:
    """A row of the table: N, m, and the bodies without their side with points in their frames, origin first."""

    name: str
    peak_force: float
    optimal_length: float
    slack_length: float
    path: tuple[tuple[str, tuple[float, float, float]], ...]


def read_muscles(path: Path) -> list[Muscle]:
    """The muscles of the right side. Lines that begin with `#` are comments.

    Raises:
        UserError: the columns or a row are not as they should be.
    """
    with path.open(newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        if rows.fieldnames != COLUMNS:
            raise UserError(f"{path.name}: the columns are {rows.fieldnames}; make them {COLUMNS}")
        return [_parse(row, path.name) for row in rows]


def _parse(row: dict[str, str], file: str) -> Muscle:
    try:
        sizes = [float(row[column]) for column in COLUMNS[1:4]]
        points = [point.split() for point in row["path"].split(">")]
        muscle = Muscle(row["name"], *sizes, tuple((body, (float(x), float(y), float(z))) for body, x, y, z in points))
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"{file}: muscle {row['name']!r}: give three numbers and a path like 'pelvis 0 0 0.1 > femur 0 0 -0.1'"
        ) from None
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        raise UserError(f"{file}: muscle {row['name']!r}: force and lengths are {sizes}; make them positive")
    if len({body for body, _ in muscle.path}) < 2:
        raise UserError(f"{file}: muscle {row['name']!r}: its path stays on one body; lead it over a joint")
    return muscle


def add_muscles(spec: mujoco.MjSpec, path: Path) -> None:
    """Attach the muscles of a table to both sides of a body: first all of the right, then all of the left.

    Each is a tendon that runs straight between its points, and an actuator whose control in [0, 1] is its activation.
    A body without a side, such as the pelvis, is looked up by its name, others as `femur_r` and `femur_l`; y points
    left, so that the left side is the right one with y reversed. A fibre is what a tendon of constant length leaves of
    the path: MuJoCo's normalised length is (path length - slack length) / optimal length.

    Raises:
        UserError: a row is not as it should be, or names a body that is not there.
    """
    muscles = read_muscles(path)
    for side, mirror in (("r", 1.0), ("l", -1.0)):
        for muscle in muscles:
            _attach(spec, muscle, side, mirror, path.name)


def _attach(spec: mujoco.MjSpec, muscle: Muscle, side: str, mirror: float, file: str) -> None:
    name = f"{muscle.name}_{side}"
    tendon = spec.add_tendon(name=name)
    for k, (body_name, (x, y, z)) in enumerate(muscle.path):
        body = spec.body(f"{body_name}_{side}") or spec.body(body_name)
        if body is None:
            raise UserError(f"{file}: muscle {muscle.name!r} is attached to {body_name!r}; name a body of the model")
        site = body.add_site(name=f"{name}_{k}", pos=[x, mirror * y, z])
        tendon.wrap_site(site.name)
    span = muscle.optimal_length * np.array(LENGTHS)
    curves = [*LENGTHS, muscle.peak_force, 1.0, SHORTEST, LONGEST, MAX_SPEED, PASSIVE, ECCENTRIC, 0.0]
    spec.add_actuator(
        name=name,
        trntype=mujoco.mjtTrn.mjTRN_TENDON,
        target=name,
        lengthrange=muscle.slack_length + span,
        ctrllimited=True,
        ctrlrange=[0.0, 1.0],
        gaintype=mujoco.mjtGain.mjGAIN_MUSCLE,
        gainprm=curves,
        biastype=mujoco.mjtBias.mjBIAS_MUSCLE,
        biasprm=curves,
    )
