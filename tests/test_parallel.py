"""Environments in worker processes: the same numbers as in one process, and clean ends."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pwm import envs
from pwm.envs.parallel import ParallelVectorEnv
from pwm.envs.vector import TaskVectorEnv
from pwm.errors import UserError

EPISODE = 5
NUM_ENVS = 5


class Picky(TaskVectorEnv):
    """A family of one number that sums the actions and cannot stand some of them."""

    def _seed(self, seeds: list[int]) -> None:
        self._sums = np.array(seeds, float)

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        return self._sums[indices, None]

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        for action in actions[:, 0]:
            if action == 1.0:
                raise UserError("the action is 1; give another")
            if action == 0.5:
                raise KeyError("half")
        self._sums += actions[:, 0]
        return self._sums[:, None], actions[:, 0], self._sums > 100

    def _success(self) -> np.ndarray:
        return self._sums > 2

    def _snapshot(self) -> dict[str, np.ndarray]:
        return {"sums": self._sums.copy()}

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        self._sums = state["sums"].copy()


PENDULUM = envs.get_task("pendulum-swingup")
NUMBER = replace(PENDULUM, name="number", observation_dim=1, action_dim=1)


def picky(workers: int = 2) -> ParallelVectorEnv:
    return ParallelVectorEnv(__name__, "Picky", NUMBER, NUM_ENVS, 0, workers)


def dmcontrol(task: str, workers: int, seed: int = 0) -> TaskVectorEnv:
    """A task with short episodes, in this process for 0 workers."""
    short = replace(envs.get_task(task), episode_length=EPISODE)
    if workers == 0:
        from pwm.envs.dmcontrol import DMControlVectorEnv  # not above: workers of the family here import this module

        return DMControlVectorEnv(short, NUM_ENVS, seed)
    return ParallelVectorEnv("pwm.envs.dmcontrol", "DMControlVectorEnv", short, NUM_ENVS, seed, workers)


def run(env: TaskVectorEnv, steps: slice) -> list[np.ndarray]:
    """All that comes of some of a fixed list of actions."""
    actions = np.random.default_rng(1).uniform(-1, 1, (20, *env.action_space.shape))[steps]
    outcomes = []
    for action in actions:
        *arrays, info = env.step(action)
        outcomes += [*arrays, info["final_obs"], info["success"]]
    return outcomes


def assert_same(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def members(group: int) -> set[int]:
    """Running processes of a process group; one that is dead but not yet collected does not run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text().split(" (", 1)
        except OSError:  # gone meanwhile
            continue
        state, _, its_group = rest.rsplit(") ", 1)[1].split()[:3]
        if int(its_group) == group and state != "Z":
            found.add(int(pid))
    return found


def launcher(env: ParallelVectorEnv) -> int:
    """The launcher's process, which leads the group of the workers."""
    return env._stop.peek()[2][0].pid


def assert_ends(group: int) -> None:
    """The group's processes end within seconds."""
    deadline = time.monotonic() + 10
    while members(group):
        assert time.monotonic() < deadline, f"still running: {members(group)}"
        time.sleep(0.02)


@pytest.mark.parametrize("task", ["pendulum-swingup", "reacher-easy"])
def test_workers_give_the_numbers_of_one_process(task: str) -> None:
    env, parallel = dmcontrol(task, 0, seed=7), dmcontrol(task, 2, seed=7)
    for seed in (None, 30, None):
        assert_same([env.reset(seed=seed)[0]], [parallel.reset(seed=seed)[0]])
        assert_same(run(env, slice(12)), run(parallel, slice(12)))


def test_a_snapshot_goes_on_in_any_number_of_workers() -> None:
    env = dmcontrol("reacher-easy", 3, seed=7)
    env.reset()
    run(env, slice(EPISODE + 3))
    state = env.state()
    expected = run(env, slice(EPISODE + 3, 20))
    for workers in (0, 2):
        other = dmcontrol("reacher-easy", workers, seed=50)
        assert_same([other.restore(state)], [state["observation"]])
        assert_same([other.state()[key] for key in state], list(state.values()))
        assert_same(run(other, slice(EPISODE + 3, 20)), expected)
    for key, value in state.items():
        assert len(value) == NUM_ENVS and value.dtype != object, key


@pytest.mark.parametrize(
    ("task", "num_envs", "threads", "workers"),
    [
        ("pendulum-swingup", 3, "1", 0),
        ("pendulum-swingup", 1, "4", 0),
        ("pendulum-swingup", 3, "2", 2),
        ("pendulum-swingup", 2, "8", 2),
        ("hopper", 3, "2", 0),
    ],
)
def test_make_starts_a_worker_for_each_thread(
    task: str, num_envs: int, threads: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    env = envs.make(task, num_envs)
    assert isinstance(env, ParallelVectorEnv) == bool(workers)
    if workers:
        assert len(members(launcher(env))) == 1 + workers
    env.close()


def test_errors_reach_the_caller() -> None:
    env = picky()
    env.reset()
    with pytest.raises(UserError, match=r"^the action is 1; give another$"):
        env.step(np.full((NUM_ENVS, 1), 1.0))
    with pytest.raises(RuntimeError, match="KeyError: 'half'") as broken:
        env.step(np.array([[0], [0], [0], [0.5], [0]]))
    assert "_advance" in str(broken.value)  # where in the worker it happened
    before = env.reset()[0]  # and the workers are ready for the next command
    np.testing.assert_allclose(env.step(np.full((NUM_ENVS, 1), 0.25))[0], before + 0.25)


def test_success_and_termination_are_each_environments_own() -> None:
    env = picky()
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(np.zeros((NUM_ENVS, 1)))
    assert info["success"].tolist() == [False, False, False, True, True]  # sums 0 to 4
    env.reset(seed=98)
    assert env.step(np.zeros((NUM_ENVS, 1)))[2].tolist() == [False, False, False, True, True]
    assert not terminated.any()


def test_wrong_seed_is_refused_in_the_familys_words() -> None:
    with pytest.raises(UserError, match=r"seed is -1; choose one from 0 to 4294967290"):
        ParallelVectorEnv(__name__, "Picky", NUMBER, NUM_ENVS, -1, 2)


def test_a_dead_worker_is_noticed() -> None:
    env = picky()
    env.reset()
    group = launcher(env)
    os.kill(max(members(group) - {group}), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="number: a worker has ended"):
            env.step(np.zeros((NUM_ENVS, 1)))
    assert members(group) == set()


def test_an_interrupt_closes_rather_than_mixing_up_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    env = picky()
    env.reset()
    group = launcher(env)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(env._pipes[1], "recv", interrupt)
    with pytest.raises(KeyboardInterrupt):
        env.step(np.zeros((NUM_ENVS, 1)))
    assert members(group) == set()
    with pytest.raises(RuntimeError, match="a worker has ended"):
        env.step(np.zeros((NUM_ENVS, 1)))


@pytest.mark.parametrize("how", ["close", "del"])
def test_processes_end_with_the_environment(how: str) -> None:
    env = picky()
    group = launcher(env)
    assert len(members(group)) == 3
    if how == "close":
        env.close()
        env.close()
    else:
        del env
    assert members(group) == set()


# A script as a user may write it: threads of its own, no guard around its main part, environments never closed.
SCRIPT = """
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
from test_parallel import launcher, picky
env = picky()
env.reset()
print(launcher(env), flush=True)
"""
STEP_FOR_EVER = "while True: env.step(env.action_space.sample() * 0.1)"


def start_script(folder: Path, ending: str) -> tuple[subprocess.Popen, int]:
    """Run the script in a process group of its own; it and the group of its workers."""
    path = folder / "script.py"
    path.write_text(SCRIPT + ending)
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    script = subprocess.Popen(
        [sys.executable, path],
        env={**os.environ, "PYTHONPATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    return script, int(script.stdout.readline())


def test_workers_end_with_the_script_however_it_ends(tmp_path: Path) -> None:
    script, group = start_script(tmp_path, "")
    assert script.communicate(timeout=30)[1] == "" and script.returncode == 0
    assert_ends(group)

    script, group = start_script(tmp_path, STEP_FOR_EVER)
    assert len(members(group)) == 3
    script.kill()
    script.communicate()
    assert_ends(group)

    script, group = start_script(tmp_path, STEP_FOR_EVER)
    os.killpg(script.pid, signal.SIGINT)  # Ctrl-C reaches the whole group of the script
    errors = script.communicate(timeout=30)[1]
    assert script.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    assert_ends(group)
