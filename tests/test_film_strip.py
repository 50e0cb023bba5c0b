"""Film strips: the hulls, the projection and a strip of a run."""

import sys

import mujoco
import numpy as np
import pytest
from support import run_config

from baselines import random
from pwm import config
from pwm.runs import Run
from workflows import film_strip
from workflows.film_strip import camera, convex_hull, record, surface

SHAPES = """
<mujoco><worldbody>
  <geom type="sphere" size="0.3"/> <geom type="capsule" size="0.1 0.5"/> <geom type="box" size="1 2 3"/>
  <geom type="ellipsoid" size="1 2 3"/> <geom type="cylinder" size="0.5 2"/> <geom type="plane" size="1 1 1"/>
</worldbody></mujoco>
"""


def test_hull_of_a_square_with_points_inside() -> None:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    inside = np.random.default_rng(0).uniform(0.01, 0.99, (50, 2))
    hull = convex_hull(np.concatenate([inside, corners, corners]))
    assert {tuple(corner) for corner in hull} == {tuple(corner) for corner in corners}
    x, y = hull.T
    area = 0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1))  # the shoelace formula, positive counter-clockwise
    assert area == pytest.approx(1.0)


def test_surfaces_reach_as_far_as_mujocos_shapes() -> None:
    model = mujoco.MjModel.from_xml_string(SHAPES)
    reach = [0.3, 0.6, 14**0.5, 3.0, (0.5**2 + 2**2) ** 0.5]  # of the farthest point, by each shape's formula
    for geom, farthest in enumerate(reach):
        points = surface(model, geom)
        assert np.linalg.norm(points, axis=1).max() == pytest.approx(farthest)
        np.testing.assert_allclose(points.min(axis=0), -points.max(axis=0), atol=1e-9)
    assert surface(model, len(reach)) is None


def test_camera_is_a_rotation_that_keeps_up_up() -> None:
    view = camera()
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    right, up, _ = view @ [0, 0, 1]
    assert right == 0 and up > 0.9


def test_record_sees_what_the_environment_does() -> None:
    model, poses, total = record(lambda obs, first: np.ones((1, 3), np.float32), "hopper", seed=3)
    assert model.nq == 6
    assert len(poses) < 1000  # full torque throws it over
    for _, control in poses[1:]:
        np.testing.assert_array_equal(control, 1.0)
    assert not np.array_equal(poses[0][0], poses[1][0])
    assert np.isfinite(total)


def test_a_strip_of_a_finished_run(tmp_path, monkeypatch, capsys) -> None:
    run = run_config("hopper", "random")
    (tmp_path / "config.yaml").write_text(config.dump(run))
    random.train(Run(tmp_path, run))
    for folder, refused in ((tmp_path, False), (tmp_path / "none", True)):
        monkeypatch.setattr(sys, "argv", ["film_strip", "--run", str(folder), "--out", str(tmp_path / "strip.png")])
        if not refused:
            film_strip.main()
            assert (tmp_path / "strip.png").read_bytes().startswith(b"\x89PNG")
            continue
        with pytest.raises(SystemExit) as ended:
            film_strip.main()
        told = capsys.readouterr().err.splitlines()[-1]
        assert ended.value.code == 2 and "config.yaml" in told
