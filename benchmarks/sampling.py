"""Drawing batches of windows: python -m benchmarks.sampling

A data set is drawn from as it lies in the page cache, and with its pages dropped before every batch, as if it were far
larger than memory. Set against the world-model updates of `benchmarks.updates`.
"""

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.timing import table
from benchmarks.updates import ACTION_DIMS, OBSERVATION_DIM, model_updates, seconds
from pwm.data.episodes import Episodes, EpisodeWriter
from pwm.data.windows import Ahead, WindowSampler

EPISODES, LENGTH = 4000, 500  # 256 MB a task
DRAWS = 10


def make_set(folder: Path, seed: int) -> Episodes:
    """Random numbers as episodes."""
    rng, actions = np.random.default_rng(seed), ACTION_DIMS["single"][0]
    writer = EpisodeWriter(folder, "made-up", OBSERVATION_DIM, actions, LENGTH, EPISODES)
    obs, action = rng.normal(size=(LENGTH + 1, OBSERVATION_DIM)), rng.uniform(-1, 1, (LENGTH, actions))
    for _ in range(EPISODES):
        writer.add(obs, action, action[:, 0], terminated=False)
    writer.commit({"behaviour": "made up"}, seed)
    return Episodes.open(folder)


def drop_pages(data: Episodes) -> None:
    """Let the operating system forget what it holds of the data set's files."""
    for array in (data.obs, data.action, data.reward, data.terminated):
        array._mmap.madvise(mmap.MADV_DONTNEED)
        with Path(array.filename).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(data: Episodes) -> None:
    """Have the operating system hold all of the data set's files."""
    for array in (data.obs, data.action, data.reward, data.terminated):
        array.sum()


def wait(sampler: WindowSampler | Ahead, before: Callable[[], None], busy: float) -> float:
    """Median seconds until a batch is there, `before` not counted, after `busy` seconds of computing."""
    taken, matrix = [], torch.rand(512, 512)
    for _ in range(DRAWS):
        before()
        until = time.perf_counter() + busy
        while time.perf_counter() < until:
            matrix @ matrix
        began = time.perf_counter()
        sampler.sample()
        taken.append(time.perf_counter() - began)
    return median(taken)


def report() -> str:
    """The table, in Markdown."""
    rows, cpu = [], torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        sets = [make_set(Path(folder) / str(seed), seed) for seed in range(2)]
        states = {"in memory": lambda: None, "on disk": lambda: [drop_pages(one) for one in sets]}
        for title, size, tasks, batch_size in (
            ("single-task, B 256", "single", "single", 256),
            ("5M multi-task, B 1024", "5", "multi", 1024),
        ):
            update = seconds({"ours": model_updates(size, tasks, batch_size, cpu)["float32"]}, cpu, rounds=3)["ours"]
            for one in sets:
                read_whole(one)
            for state, before in states.items():
                sampler = WindowSampler(sets, batch_size, horizon=16, seed=0)
                draw = wait(sampler, before, busy=0.0)
                waited = wait(Ahead(sampler), before, busy=min(update, 1.0))
                times = [f"{1000 * took:.1f}" for took in (update, draw, waited)]
                rows.append([title, state, *times, f"{waited / update:.1%}"])
                print(" · ".join(rows[-1]), flush=True)
    about = f"Medians of {DRAWS} batches of windows of 16 steps; threads: {torch.get_num_threads()}."
    header = ["batch", "data", "update, ms", "draw, ms", "wait when drawn ahead, ms", "of the update"]
    return f"{about}\n\n{table(header, rows)}"


if __name__ == "__main__":
    print("\n" + report())
