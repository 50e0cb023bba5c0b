"""A film strip of a run's policy: the body at equal distances in time, drawn without any graphics driver.

python -m workflows.film_strip --run RUN_FOLDER --out FILE.png

Every geom of MuJoCo's shapes is convex, so its picture under a parallel projection is the convex hull of its projected
points; tendons are lines, red where a muscle pulls.
"""

import argparse
from pathlib import Path

import mujoco
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from pwm import algorithms, config, envs
from pwm.algorithms import Policy
from pwm.config import RunConfig
from pwm.errors import UserError, exit_on_user_error
from pwm.evaluate import episode_seed
from pwm.runs import seed_everything
from workflows.figures.style import GREY, new_figure
from workflows.results import name_of

FRAMES = 10
STRIDE = 5  # decisions between two of the close poses
AZIMUTH, ELEVATION = np.deg2rad([-65.0, 15.0])  # of the camera about the vertical, and above the ground
MARGIN = 1.05  # of a frame, in units of what it has to show


def record(policy: Policy, task: str, seed: int) -> tuple[mujoco.MjModel, list[tuple[np.ndarray, np.ndarray]], float]:
    """The first episode of a policy, short of its last decision, after which the next episode begins.

    Returns:
        The simulator's model, positions `[nq]` and controls `[nu]` after every decision (the start first), the return.
    """
    env = envs.make(task, 1, seed)
    obs, _ = env.reset(seed=seed)
    first, poses, total = np.ones(1, bool), [env.scene()[1:]], 0.0
    for _ in range(env.task.episode_length - 1):
        obs, reward, first, _, _ = env.step(policy(obs, first))
        total += float(reward[0])
        if first[0]:
            break
        poses.append(env.scene()[1:])
    model = env.scene()[0]
    env.close()
    return model, poses, total


def camera() -> np.ndarray:
    """Rows: right, up and away from the viewer, in the world's frame `[3, 3]`."""
    ca, sa, ce, se = np.cos(AZIMUTH), np.sin(AZIMUTH), np.cos(ELEVATION), np.sin(ELEVATION)
    towards = np.array([ce * ca, ce * sa, se])  # from the scene to the camera
    right = np.array([-sa, ca, 0.0])
    return np.stack([right, np.cross(towards, right), -towards])


def surface(model: mujoco.MjModel, geom: int) -> np.ndarray | None:
    """Points of the geom's frame whose convex hull is the geom `[P, 3]`; None for what has no end (planes)."""
    kind, size = mujoco.mjtGeom(model.geom_type[geom]), model.geom_size[geom]
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    polar = np.linspace(0, np.pi, 9)[:, None]
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)  # [24, 3]
    sphere = (np.sin(polar)[..., None] * ring + np.cos(polar)[..., None] * np.array([0, 0, 1])).reshape(-1, 3)
    along = np.array([0, 0, size[1]])
    match kind:
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            return sphere * size[0]
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            return np.concatenate([sphere * size[0] + along, sphere * size[0] - along])
        case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            return sphere * size
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            return np.concatenate([size[0] * ring + along, size[0] * ring - along])
        case mujoco.mjtGeom.mjGEOM_BOX:
            return np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T * size
        case mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            begin = model.mesh_vertadr[mesh]
            return model.mesh_vert[begin : begin + model.mesh_vertnum[mesh]]
    return None


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Corners of the hull of points in the plane `[P, 2]`, in order (Andrew's monotone chain)."""
    ordered = np.unique(points.round(6), axis=0)
    halves = []
    for sequence in (ordered, ordered[::-1]):
        half: list[np.ndarray] = []
        for point in sequence:
            while len(half) > 1 and _turn(half[-2], half[-1], point) <= 0:
                half.pop()
            half.append(point)
        halves += half[:-1]
    return np.array(halves)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def draw_scene(axes: Axes, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Draw a scene's visible geoms, far ones first, then its tendons."""
    view = camera()
    drawn = []
    for geom in range(model.ngeom):
        points = surface(model, geom)
        colour = model.geom_rgba[geom] if model.geom_matid[geom] < 0 else model.mat_rgba[model.geom_matid[geom]]
        if points is None or colour[3] == 0 or model.geom_group[geom] > 2:
            continue
        seen = (points @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]) @ view.T
        drawn.append((seen[:, 2].mean(), convex_hull(seen[:, :2]), colour))
    for depth, outline, colour in sorted(drawn, key=lambda item: -item[0]):
        edge = 0.45 * np.array(to_rgb(colour[:3]))
        axes.add_patch(Polygon(outline, facecolor=colour, edgecolor=edge, linewidth=0.3, zorder=2 - 1e-3 * depth))
    for tendon in range(model.ntendon):
        begin, count = data.ten_wrapadr[tendon], data.ten_wrapnum[tendon]
        if not count:  # it has no path: it is a joint's stop
            continue
        path = data.wrap_xpos.reshape(-1, 3)[begin : begin + count] @ view.T
        pull = float(data.ctrl[tendon]) if model.nu == model.ntendon else 0.0
        axes.plot(*path[:, :2].T, color=(0.35 + 0.6 * pull, 0.15, 0.25), linewidth=0.25 + 0.4 * pull, zorder=4)


def strip(model: mujoco.MjModel, poses: list[tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """The figure: the whole episode in `FRAMES` poses, and as many from its middle, `STRIDE` decisions apart.

    Each pose stands in the middle of its frame; the step and the way gone are written below.

    Args:
        model: of the simulator.
        poses: positions and controls after every decision.
        title: of the figure.
    """
    data = mujoco.MjData(model)
    figure = new_figure(2.1)
    figure.suptitle(title, fontsize=7, x=0.01, ha="left")
    last = len(poses) - 1
    middle = max(0, (last - STRIDE * FRAMES) // 2)
    whole = np.linspace(0, last, FRAMES).round().astype(int)
    chosen = np.stack([whole, np.minimum(middle + STRIDE * np.arange(FRAMES), last)])
    extent, start = 0.0, 0.0
    for axes, index in zip(figure.subplots(2, FRAMES).flat, chosen.flat, strict=True):
        data.qpos[:], data.ctrl[:] = poses[index]
        mujoco.mj_fwdPosition(model, data)
        centre = data.subtree_com[0].copy()
        if index == 0:
            start = centre[0]
            own = model.geom_bodyid > 0
            reach = np.linalg.norm(data.geom_xpos[own] - centre, axis=1) + model.geom_rbound[own]
            extent = MARGIN * reach.max()
        draw_scene(axes, model, data)
        right, up = camera()[:2] @ centre
        ground = camera()[1] @ (centre * [1, 1, 0])
        axes.axhline(ground, color=GREY, linewidth=0.4, zorder=0)
        axes.set(xlim=(right - extent, right + extent), ylim=(up - extent, up + extent), aspect="equal")
        axes.axis("off")
        words = f"step {index}\n{centre[0] - start:+.1f} m"
        axes.text(0.5, 0.0, words, transform=axes.transAxes, ha="center", va="top", size=5.5, color=GREY)
    return figure


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.film_strip", description="Draw a film strip of a policy."
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    args = parser.parse_args()
    if not (args.run / "config.yaml").exists():
        raise UserError(f"{args.run}: no config.yaml there; give the folder of a finished run")
    run = config.load(RunConfig, args.run / "config.yaml")
    seed = episode_seed("final", run.seed)
    seed_everything(seed)
    policy = algorithms.load_policy(run.algorithm, args.run / "policy")
    model, poses, total = record(policy, run.task, seed)
    title = f"{run.task}, {name_of(run.algorithm, run.variant)}, seed {run.seed}, {run.scale} scale: return {total:.0f}"
    figure = strip(model, poses, title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=200)


if __name__ == "__main__":
    main()
