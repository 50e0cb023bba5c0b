"""Drawing batches of windows: python -m benchmarks.sampling [--gigabytes 30 --folder FOLDER]

A data set is drawn from as it lies in the page cache, and with its pages dropped before every batch, as if it were far
larger than memory; or one of so many gigabytes is written, to be really larger, and drawn from as it comes. Set against
the world-model updates of `benchmarks.updates`.
"""

import argparse
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

EPISODES, LENGTH, SETS = 4000, 500, 2
DRAWS = 10


def make_set(folder: Path, seed: int, episodes: int) -> Episodes:
    """Random numbers as episodes."""
    rng, actions = np.random.default_rng(seed), ACTION_DIMS["single"][0]
    writer = EpisodeWriter(folder, "made-up", OBSERVATION_DIM, actions, LENGTH, episodes)
    obs, action = rng.normal(size=(LENGTH + 1, OBSERVATION_DIM)), rng.uniform(-1, 1, (LENGTH, actions))
    for _ in range(episodes):
        writer.add(obs, action, action[:, 0], terminated=False)
    writer.commit({"behaviour": "made up"}, seed)
    return Episodes.open(folder, verify=False)


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


def report(gigabytes: int | None = None, place: Path | None = None) -> str:
    """The table, in Markdown; `gigabytes` of episodes in `place`, where given."""
    rows, cpu = [], torch.device("cpu")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        bytes_each = 4 * LENGTH * (OBSERVATION_DIM + ACTION_DIMS["single"][0] + 2)
        episodes = EPISODES if gigabytes is None else round(gigabytes * 1e9 / bytes_each / SETS)
        sets = [make_set(Path(folder) / str(seed), seed, episodes) for seed in range(SETS)]
        states = {"in memory": lambda: None, "on disk": lambda: [drop_pages(one) for one in sets]}
        if gigabytes is not None:
            states = {f"{gigabytes} GB": lambda: None}
        for title, size, tasks, batch_size in (
            ("single-task, B 256", "single", "single", 256),
            ("5M multi-task, B 1024", "5", "multi", 1024),
        ):
            update = seconds({"ours": model_updates(size, tasks, batch_size, cpu)["float32"]}, cpu, rounds=3)["ours"]
            for one in sets if gigabytes is None else []:
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=int, help="size of the data, more than the memory")
    parser.add_argument("--folder", type=Path, help="where they are written for the time")
    args = parser.parse_args()
    print("\n" + report(args.gigabytes, args.folder))
