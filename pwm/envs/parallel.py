"""Environments whose steps are bound by Python, shared out over worker processes."""

import importlib
import itertools
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pwm.envs.tasks import Task
from pwm.envs.vector import TaskVectorEnv
from pwm.errors import UserError

CLOSING_TIME = 5.0  # s, after which workers that were told to end are killed
ANSWER_TIME = 600  # s, after which a worker that has not answered is taken to hang
LAUNCHER = "from pwm.envs.parallel import launch; launch()"


class ParallelVectorEnv(TaskVectorEnv):
    """N environments of a family in W worker processes, with the numbers that the family's class gives in one.

    Each worker holds a contiguous part of the environments as an environment of that class. What changes with every
    step lies in memory shared by all; commands and the rest travel through pipes. A launcher process imports the
    family's module once and forks the workers from it, so that neither the threads of this process nor its main module
    matter to them. They end with `close`, with the environment, or with this process however it ends, since each of
    these closes their pipes.
    """

    def __init__(self, module: str, name: str, task: Task, num_envs: int, seed: int, workers: int) -> None:
        """Start `workers` processes for the family whose class is `name` in `module`."""
        bounds = [num_envs * w // workers for w in range(workers + 1)]
        self._parts = [slice(*ends) for ends in itertools.pairwise(bounds)]
        self._shared, launcher, self._pipes = _start(module, name, task, num_envs, workers)
        self._stop = weakref.finalize(self, _stop, launcher, self._pipes)
        self._begun = False
        self.task = task  # errors name it
        self._ask("build", [(task, num_envs, part) for part in self._parts])
        super().__init__(task, num_envs, seed)

    def close_extras(self, **kwargs: object) -> None:
        """End the processes."""
        self._stop()

    def scene(self) -> tuple[Any, np.ndarray, np.ndarray]:
        return self._ask("scene", [(), *[None] * (len(self._parts) - 1)])[0]

    def _seed(self, seeds: list[int]) -> None:
        self._ask("seed", [(seeds[part],) for part in self._parts])

    def _begin(self, indices: np.ndarray) -> np.ndarray:
        local = [indices[(indices >= part.start) & (indices < part.stop)] - part.start for part in self._parts]
        self._ask("begin", [(part,) if part.size else None for part in local])
        return self._shared["observation"][indices]

    def begin(self, actions: np.ndarray) -> None:
        self._order(self._checked_actions(actions))

    def _order(self, actions: np.ndarray) -> None:
        self._shared["action"][:] = actions
        self._shared["elapsed"][:] = self._elapsed
        self._tell("advance", [()] * len(self._parts))
        self._begun = True

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self._begun:
            self._order(actions)
        self._begun = False
        self._hear(self._pipes)
        shared = self._shared
        return shared["observation"].copy(), shared["reward"].copy(), shared["terminated"].copy()

    def _success(self) -> np.ndarray:
        return self._shared["success"].copy()

    def _snapshot(self) -> dict[str, np.ndarray]:
        parts = self._ask("snapshot", [()] * len(self._parts))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _revert(self, state: dict[str, np.ndarray]) -> None:
        self._shared["elapsed"][:] = self._elapsed
        self._ask("revert", [({key: value[part] for key, value in state.items()},) for part in self._parts])

    def _ask(self, command: str, arguments: list[tuple | None]) -> list[Any]:
        """Have every worker whose arguments are not None carry out a command; their answers.

        Raises:
            Exception: as `_hear`.
        """
        return self._hear(self._tell(command, arguments))

    def _tell(self, command: str, arguments: list[tuple | None]) -> list[Connection]:
        """Have workers begin with a command; the pipes through which they will answer."""
        asked = [(pipe, given) for pipe, given in zip(self._pipes, arguments, strict=True) if given is not None]
        with self._whole():
            for pipe, given in asked:
                pipe.send((command, given))
        return [pipe for pipe, _ in asked]

    def _hear(self, pipes: list[Connection]) -> list[Any]:
        """The workers' answers.

        Raises:
            Exception: the first that a worker met, after all have answered.
            RuntimeError: a worker has ended, or hangs.
        """
        with self._whole():
            answers = [pipe.recv() for pipe in pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is said inside is said as a whole, or the workers end."""
        try:
            yield
        except BaseException as error:  # also an interrupt: later answers would be taken for those to other questions
            self.close()
            if isinstance(error, BlockingIOError):
                raise RuntimeError(f"{self.task.name}: a worker has not answered for {ANSWER_TIME} s") from error
            if isinstance(error, EOFError | OSError):
                raise RuntimeError(f"{self.task.name}: a worker has ended; make the environment anew") from error
            raise


class _Part:
    """A worker's end: an environment of the family's class, driven by commands, and its part of the shared memory."""

    def __init__(self, family: type[TaskVectorEnv], memory: mmap.mmap) -> None:
        self._family = family
        self._memory = memory

    def build(self, task: Task, num_envs: int, part: slice) -> None:
        self._shared = {key: value[part] for key, value in _arrays(task, num_envs, self._memory).items()}
        self._env = self._family(task, part.stop - part.start, seed=0)  # the other end's constructor seeds it
        self._env._elapsed = self._shared["elapsed"]

    def scene(self) -> tuple[Any, np.ndarray, np.ndarray]:
        return self._env.scene()

    def seed(self, seeds: list[int]) -> None:
        self._env._seed(seeds)

    def begin(self, indices: np.ndarray) -> None:
        self._shared["observation"][indices] = self._env._begin(indices)

    def advance(self) -> None:
        observation, reward, terminated = self._env._advance(self._shared["action"].copy())
        self._shared["observation"][:] = observation
        self._shared["reward"][:] = reward
        self._shared["terminated"][:] = terminated
        self._shared["success"][:] = self._env._success()

    def snapshot(self) -> dict[str, np.ndarray]:
        return self._env._snapshot()

    def revert(self, state: dict[str, np.ndarray]) -> None:
        self._env._revert(state)


def launch() -> None:
    """Main of the launcher: import the family's module, fork a worker for each pipe, wait for them."""
    module, name, memory, *pipes = sys.argv[1:]
    family = getattr(importlib.import_module(module), name)
    part = _Part(family, mmap.mmap(int(memory), 0))
    for w, pipe in enumerate(pipes):
        if os.fork() == 0:
            for other in pipes[w + 1 :]:
                os.close(int(other))  # held open here, it would hide that worker's end from the parent
            _serve(Connection(int(pipe)), part)
            os._exit(0)
        os.close(int(pipe))
    for _ in pipes:
        os.wait()


def _serve(pipe: Connection, part: _Part) -> None:
    """Carry out commands until the other end is closed."""
    while True:
        try:
            command, given = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = getattr(part, command)(*given)
        except Exception as error:
            answer = _portable(error)
        try:
            pipe.send(answer)
        except OSError:
            return


def _portable(error: Exception) -> Exception:
    """What crosses the pipe: a user's mistake as it is, anything else as an error that holds the worker's traceback."""
    return error if isinstance(error, UserError) else RuntimeError(f"in a worker process:\n{traceback.format_exc()}")


def _layout(task: Task, num_envs: int) -> np.dtype:
    """The arrays that the processes share, one after the other."""
    action, observation = (num_envs, task.action_dim), (num_envs, task.observation_dim)
    numbers = [("elapsed", "i8", (num_envs,)), ("action", "f4", action), ("observation", "f4", observation)]
    flags = [(name, "?", (num_envs,)) for name in ("terminated", "success")]
    return np.dtype([*numbers, ("reward", "f4", (num_envs,)), *flags])


def _arrays(task: Task, num_envs: int, memory: mmap.mmap) -> dict[str, np.ndarray]:
    """The arrays of `_layout` in the shared memory, each with a leading dimension N."""
    layout = _layout(task, num_envs)
    return {key: np.ndarray((), layout, memory)[key] for key in layout.names}


def _start(
    module: str, name: str, task: Task, num_envs: int, workers: int
) -> tuple[dict[str, np.ndarray], subprocess.Popen, list[Connection]]:
    """Start the launcher; the shared arrays, its process and our ends of the workers' pipes."""
    memory = os.memfd_create("pwm")
    os.ftruncate(memory, _layout(task, num_envs).itemsize)
    ours, theirs = zip(*[Pipe() for _ in range(workers)], strict=True)
    handles = [memory, *(pipe.fileno() for pipe in theirs)]
    launcher = subprocess.Popen(
        [sys.executable, "-P", "-c", LAUNCHER, module, name, *map(str, handles)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        pass_fds=handles,
        process_group=0,  # a terminal's Ctrl-C is for the parent alone
    )
    for pipe in theirs:
        pipe.close()
    for pipe in ours:
        with socket.socket(fileno=os.dup(pipe.fileno())) as end:  # a limit of the system's costs a step nothing
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ANSWER_TIME, 0))
    shared = _arrays(task, num_envs, mmap.mmap(memory, 0))
    os.close(memory)
    return shared, launcher, list(ours)


def _stop(launcher: subprocess.Popen, pipes: list[Connection]) -> None:
    """Close the pipes, at which the workers end, and see that they do."""
    for pipe in pipes:
        pipe.close()
    try:
        launcher.wait(CLOSING_TIME)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
