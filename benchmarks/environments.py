"""Environments: ours against plain loops over the same simulators, in decisions per second.

python -m benchmarks.environments
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import geometric_mean

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
    step = stepper(env)
    while ended < NUM_ENVS and decisions < 1000 * NUM_ENVS:
        decisions += step()
        ended += int((env._elapsed == 0).sum())
    env.close()
    return decisions // max(1, ended)


def raw_loop(task: str, share: int, episode_length: int, connection: Connection) -> None:
    """A process of its own that steps `share` bodies by `mj_step`, on command; nothing is observed or rewarded."""
    body, model = BODIES[task], build_model(task)
    substeps = round(1.0 / (CONTROL_FREQUENCY * model.opt.timestep))
    rng, data = np.random.default_rng(0), [mujoco.MjData(model) for _ in range(share)]
    low, high = model.actuator_ctrlrange.T
    elapsed = 0
    while connection.recv():
        controls = rng.uniform(low, high, (share, model.nu))
        for one, control in zip(data, controls, strict=True):
            if elapsed % episode_length == 0:
                mujoco.mj_resetData(model, one)
                one.qpos[:], one.qvel[:] = body.start(model, rng)
            one.ctrl[:] = control
            mujoco.mj_step(model, one, substeps)
        elapsed += 1
        connection.send(share)


class RawLoops:
    """`raw_loop` on every core, one round of all bodies a call."""

    def __init__(self, task: str) -> None:
        context = multiprocessing.get_context("spawn")
        cores, length = thread_count(), mean_episode_length(task)
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


def plain_metaworld(name: str) -> Callable[[], int]:
    """One environment of Meta-World."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

    key = f"{name.removeprefix('mw-')}-v3-goal-observable"
    env = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[key](seed=0)
    env._freeze_rand_vec = False
    task, rng, elapsed = get_task(name), np.random.default_rng(0), 0

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


def rows_of(names: tuple[str, ...], plain: Callable[[str], Callable[[], int]]) -> list[list[str]]:
    """Rates of a plain loop, of ours and their ratio per task, and the geometric mean of the ratios."""
    rows, ratios = [], []
    for name in names:
        rival, env = plain(name), envs.make(name, NUM_ENVS)
        found = rates({"plain": rival, "ours": stepper(env)})
        env.close()
        if isinstance(rival, RawLoops):
            rival.close()
        ratios.append(found["ours"] / found["plain"])
        rows.append([name, f"{found['plain']:,.0f}", f"{found['ours']:,.0f}", f"{ratios[-1]:.2f}"])
        print(f"{name}: {ratios[-1]:.2f}", flush=True)
    return [*rows, ["geometric mean", "", "", f"{geometric_mean(ratios):.2f}"]]


def main() -> None:
    """Print the three families' tables."""
    locomotion = rows_of(tuple(task.name for task in LOCOMOTION), RawLoops)
    dmcontrol = rows_of(tuple(task.name for task in DMCONTROL), plain_dmcontrol)
    metaworld = rows_of(METAWORLD, plain_metaworld)
    about = f"{NUM_ENVS} environments, {thread_count()} threads; decisions per second"
    for title, plain, rows in (
        ("Locomotion", "mj_step on all cores", locomotion),
        ("DMControl", "one plain environment", dmcontrol),
        ("Meta-World", "one plain environment", metaworld),
    ):
        print(f"\n{title} ({about})\n\n" + table(["task", plain, "ours", "ratio"], rows))


if __name__ == "__main__":
    main()
