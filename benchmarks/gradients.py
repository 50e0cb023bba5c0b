"""Gradients of the locomotion suite: decisions per second, forward alone and forward with backward.

python -m benchmarks.gradients
"""

import os
from collections.abc import Callable

import torch

from benchmarks.environments import NUM_ENVS, stepper
from benchmarks.timing import rates, table
from pwm import envs
from pwm.envs.differentiable import make_differentiable
from pwm.envs.vector import thread_count

WINDOW = 32  # decisions between gradients, as SHAC has them
DEMANDED = {"hopper": 2200, "ant": 2000, "anymal": 1000, "humanoid": 450, "snu-humanoid": 100}  # a second and core


def windows(task: str, threads: int) -> Callable[[], int]:
    """Takes a window of random actions in all environments, and the gradient of its rewards."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the environment when it is made
    env = make_differentiable(task, NUM_ENVS)
    del os.environ["OMP_NUM_THREADS"]
    os.environ.update({"OMP_NUM_THREADS": before} if before else {})
    env.reset(seed=0)

    def work() -> int:
        env.begin_window()
        actions = (2 * torch.rand(WINDOW, NUM_ENVS, env.task.action_dim) - 1).requires_grad_()
        sum(env.advance(action).reward.sum() for action in actions).backward()
        return WINDOW * NUM_ENVS

    return work


def row_of(task: str, demanded: int) -> list[str]:
    """Decisions per second on one core, what is demanded of them, and how much faster all cores are."""
    cores = thread_count()
    rivals = {"forward": stepper(envs.make(task, NUM_ENVS)), "one": windows(task, 1)}
    if cores > 1:
        rivals["all"] = windows(task, cores)
    found = rates(rivals)
    numbers = (found["forward"] / cores, found["one"], demanded)
    row = [task, *(f"{number:,.0f}" for number in numbers), f"{found['all'] / found['one']:.2f}" if cores > 1 else ""]
    print(" · ".join(row), flush=True)
    return row


def report() -> str:
    """The table, in Markdown."""
    header = ["task", "forward, a core", "with backward, one core", "at least", "all cores / one"]
    about = f"Decisions per second; {NUM_ENVS} environments, windows of {WINDOW} decisions; threads: {thread_count()}."
    return f"{about}\n\n{table(header, [row_of(*item) for item in DEMANDED.items()])}"


if __name__ == "__main__":
    print("\n" + report())
