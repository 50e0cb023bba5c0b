"""Environments: ours against plain loops over the same simulators, in decisions per second.

python -m benchmarks.environments
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import geometric_mean
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np

from benchmarks.timing import rates, table
from pwm import envs
from pwm.envs.locomotion import BODIES, CONTROL_FREQUENCY, build_model
from pwm.envs.tasks import DMCONTROL, LOCOMOTION, get_task
from pwm.envs.vector import thread_count

NUM_ENVS = 64
METAWORLD = ("mw-reach", "mw-push", "mw-door-open", "mw-hammer", "mw-assembly")


def stepper(env: envs.TaskVectorEnv) -> Callable[[], int]:
    """Steps all environments once with random actions."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def step() -> int:
        env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        return env.num_envs

    return step


def mean_episode_length(task: str) -> int:
    """Of a uniformly random policy, so that the raw loop steps through the same states as the environments."""
    env, ended, decisions = envs.make(task, NUM_ENVS), 0, 0
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    while ended < NUM_ENVS and decisions < 1000 * NUM_ENVS:
        _, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        decisions += NUM_ENVS
        ended += int((terminated | truncated).sum())
    env.close()
    return decisions // max(1, ended)


class Physics(NamedTuple):
    """A task's simulation alone."""

    model: mujoco.MjModel
    substeps: int  # time steps a decision
    start: Callable[[mujoco.MjData, np.random.Generator], None]  # after a reset


def physics(task: str) -> Physics:
    """Of a locomotion body in its start poses, or of another task in its model's own pose."""
    family, repeat, nothing = get_task(task).family, get_task(task).action_repeat, lambda data, rng: None
    if family == "locomotion":
        body, model = BODIES[task], build_model(task)

        def start(data: mujoco.MjData, rng: np.random.Generator) -> None:
            data.qpos[:], data.qvel[:] = body.start(model, rng)

        return Physics(model, round(1.0 / (CONTROL_FREQUENCY * model.opt.timestep)), start)
    if family == "dmcontrol":
        from pwm.envs.dmcontrol import load

        env = load(task, seed=0)
        model = env.physics.model.ptr
        return Physics(model, round(env.control_timestep() / model.opt.timestep) * repeat, nothing)
    env = make_metaworld(task)
    return Physics(env.model, env.frame_skip * repeat, nothing)


def raw_loop(task: str, share: int, episode_length: int, connection: Connection) -> None:
    """A process of its own that steps `share` simulations by `mj_step`, on command; nothing is observed or rewarded."""
    model, substeps, start = physics(task)
    rng, data = np.random.default_rng(0), [mujoco.MjData(model) for _ in range(share)]
    low, high = np.where(model.actuator_ctrllimited[:, None], model.actuator_ctrlrange, (-1.0, 1.0)).T
    elapsed = 0
    while connection.recv():
        controls = rng.uniform(low, high, (share, model.nu))
        for one, control in zip(data, controls, strict=True):
            if elapsed % episode_length == 0:
                mujoco.mj_resetData(model, one)
                start(one, rng)
            one.ctrl[:] = control
            mujoco.mj_step(model, one, substeps)
        elapsed += 1
        connection.send(share)


class RawLoops:
    """`raw_loop` on every core, one round of all simulations a call."""

    def __init__(self, task: str) -> None:
        context = multiprocessing.get_context("spawn")
        cores, ends_early = thread_count(), get_task(task).family == "locomotion"
        length = mean_episode_length(task) if ends_early else get_task(task).episode_length
        self.connections, self.processes = [], []
        for _ in range(cores):
            ours, theirs = context.Pipe()
            arguments = (task, NUM_ENVS // cores, length, theirs)
            process = context.Process(target=raw_loop, args=arguments, daemon=True)
            process.start()
            self.connections.append(ours)
            self.processes.append(process)

    def __call__(self) -> int:
        for connection in self.connections:
            connection.send(True)
        return sum(connection.recv() for connection in self.connections)

    def close(self) -> None:
        """End the processes."""
        for connection, process in zip(self.connections, self.processes, strict=True):
            connection.send(False)
            process.join()


def plain_dmcontrol(name: str) -> Callable[[], int]:
    """One environment of dm_control, an observation flattened per decision."""
    from pwm.envs.dmcontrol import load

    env, task, rng = load(name, seed=0), get_task(name), np.random.default_rng(0)
    spec = env.action_spec()
    elapsed = 0

    def step() -> int:
        nonlocal elapsed
        if elapsed % task.episode_length == 0:
            env.reset()
        elapsed += 1
        action = rng.uniform(spec.minimum, spec.maximum)
        reward = 0.0
        for _ in range(task.action_repeat):
            time_step = env.step(action)
            reward += time_step.reward
        np.concatenate([np.ravel(value) for value in time_step.observation.values()])
        return 1

    return step


def make_metaworld(name: str) -> gymnasium.Env:
    """The bare environment, with a new goal every episode."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{name.removeprefix('mw-')}-v3-goal-observable"](seed=0)
    env._freeze_rand_vec = False
    return env


def plain_metaworld(name: str) -> Callable[[], int]:
    """One environment of Meta-World."""
    env, task, rng, elapsed = make_metaworld(name), get_task(name), np.random.default_rng(0), 0

    def step() -> int:
        nonlocal elapsed
        if elapsed % task.episode_length == 0:
            env.reset()
        elapsed += 1
        action = rng.uniform(-1, 1, 4)
        for _ in range(task.action_repeat):
            env.step(action)
        return 1

    return step


def rows_of(names: tuple[str, ...], plain: Callable[[str], Callable[[], int]] | None) -> list[list[str]]:
    """Decisions per second of a plain environment, of ours and of the physics alone on all cores, and ours as ratios.

    Args:
        names: of the tasks.
        plain: makes the plain environment; None: there is none.
    """
    rows: list[list[str]] = []
    ratios: dict[str, list[float]] = {"plain": [], "physics": []}
    for name in names:
        raw, env = RawLoops(name), envs.make(name, NUM_ENVS)
        rivals = {"ours": stepper(env), "physics": raw} | ({"plain": plain(name)} if plain else {})
        found = rates(rivals)
        env.close()
        raw.close()
        row = [name, *(f"{found[key]:,.0f}" if key in found else "" for key in ("plain", "ours", "physics"))]
        for key, seen in ratios.items():
            if key in found:
                seen.append(found["ours"] / found[key])
            row.append(f"{seen[-1]:.2f}" if seen else "")
        rows.append(row)
        print(" · ".join(row), flush=True)
    means = [f"{geometric_mean(seen):.2f}" if seen else "" for seen in ratios.values()]
    return [*rows, ["geometric mean", "", "", "", *means]]


def report() -> str:
    """The three families' tables, in Markdown."""
    header = ["task", "one plain environment", "ours", "physics alone", "ours / plain", "ours / physics"]
    tables = {
        "Locomotion": rows_of(tuple(task.name for task in LOCOMOTION), None),
        "DMControl": rows_of(tuple(task.name for task in DMCONTROL), plain_dmcontrol),
        "Meta-World": rows_of(METAWORLD, plain_metaworld),
    }
    about = f"Decisions per second; {NUM_ENVS} environments, threads: {thread_count()}."
    return "\n\n".join([about, *(f"{title}\n\n{table(header, rows)}" for title, rows in tables.items())])


if __name__ == "__main__":
    print("\n" + report())
