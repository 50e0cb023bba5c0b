"""Runs that break: by numbers, by a worker that hangs, by memory. Each says why; the others of a workflow finish."""

import importlib
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from project_copy import BIN, ROOT, copy_project, environment, snakemake
from support import TINY, TINY_POLICY, model_config, run_config, write_episodes
from test_parallel import assert_ends, launcher, members, picky

from pwm.collect import collect
from pwm.config import CollectConfig, DataConfig, dump
from pwm.data.episodes import Episodes, EpisodeWriter
from pwm.envs import parallel
from pwm.envs.parallel import ParallelVectorEnv
from pwm.envs.tasks import get_task
from pwm.extract import extract
from pwm.online import train_online
from pwm.pretrain import build_model, pretrain
from pwm.runs import Run, save_checkpoint
from workflows.report_pages import missing_runs

HUGE = 1e30  # as a learning rate
DIVERGED = r"(update|step) \d+: .* (is|are) .*: training diverged; .* is in .*|actions hold NaN: .* diverged"
GIB = 2**30


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


COMMANDS: dict[str, Callable[[ParallelVectorEnv, dict], object]] = {
    "advance": lambda env, state: env.step(np.zeros(env.action_space.shape)),
    "begin": lambda env, state: env.reset(),
    "seed": lambda env, state: env.reset(seed=3),
    "snapshot": lambda env, state: env._snapshot(),
    "revert": lambda env, state: env._revert(state),
}


def test_workers_that_hang(monkeypatch, faults, thorough):
    """Each of two workers, stopped before each of the commands."""
    monkeypatch.setattr(parallel, "ANSWER_TIME", 1)
    monkeypatch.setattr(parallel, "CLOSING_TIME", 0.5)
    with faults("hang") as tally:
        for command, worker in [*itertools.product(COMMANDS, range(2))][:: 1 if thorough else 5]:
            env = picky()
            env.reset()
            group, state = launcher(env), env._snapshot()
            os.kill(sorted(members(group) - {group})[worker], signal.SIGSTOP)
            with tally.fault(f"{command}, worker {worker}"):
                with pytest.raises(RuntimeError, match="number: a worker has not answered for 1 s"):
                    COMMANDS[command](env, state)
                assert_ends(group)


STALLED = {  # how the only thread of a command can come to wait for ever
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "thread": "queue.Queue().get()",
    "pipe": "ends = os.pipe(); os.read(ends[0], 1)",
    "file": "a, b = open('held', 'w'), open('held', 'w'); fcntl.flock(a, fcntl.LOCK_EX); fcntl.flock(b, fcntl.LOCK_EX)",
}
AT_WORK = {  # for longer than what hangs is given
    "waits for another run": "threading.Timer(3, os.kill, (int(Path('lock').read_text()), 9)).start();"
    " handle = hold(Path('lock'), 'this')",
    "busy": "while time.process_time() < 3: pass",
}
COMMAND = """
import fcntl, os, queue, threading, time
from pathlib import Path
from pwm import watchdog
from pwm.errors import exit_on_user_error
from pwm.locks import hold

watchdog.PROJECT = Path(__file__).parent

@exit_on_user_error
def main():
    {body}

main()
"""
HOLDER = """
import time
from pathlib import Path
from pwm.locks import hold
handle = hold(Path("lock"), "this")
print("held", flush=True)
time.sleep(3600)
"""


def test_stages_that_hang_in_their_own_process(tmp_path, faults):
    path = os.environ | {"PYTHONPATH": str(ROOT), "PWM_HANGING": "1"}

    def run(body: str) -> subprocess.CompletedProcess:
        (tmp_path / "command.py").write_text(COMMAND.format(body=body))
        return subprocess.run([sys.executable, "command.py"], env=path, capture_output=True, text=True)

    with faults("stalled") as tally:
        for name, body in STALLED.items():
            with tally.fault(name):
                done = run(body)
                assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
                assert re.match(r"error: no work for 1 s, in main \(.*command.py, line \d+\); start", done.stderr)
    with subprocess.Popen([sys.executable, "-c", HOLDER], env=path, stdout=subprocess.PIPE) as holder:
        try:
            holder.stdout.readline()
            for body in AT_WORK.values():
                done = run(body)
                assert done.returncode == 0 and "error" not in done.stderr, done.stderr
        finally:
            holder.kill()


def diverging_runs(folder: Path) -> dict[str, Callable[[], object]]:
    """Stages with a learning rate or observations beyond all measure, each working in `folder/<name>`."""
    data = Episodes.open(write_episodes(folder / "data", "hopper"))
    task = get_task("hopper")
    writer = EpisodeWriter(folder / "wild", "hopper", task.observation_dim, task.action_dim, task.episode_length, 1)
    writer.add(np.full((10, task.observation_dim), 3e38), np.zeros((9, task.action_dim)), np.zeros(9), False)
    writer.commit({}, 0)
    wild = Episodes.open(folder / "wild")
    model = model_config("hopper")

    def run(name: str, config, work) -> Callable[[], object]:
        return lambda: work(Run(folder / name, config, save_every=0.0))

    def policy(name: str, work, **settings) -> Callable[[], object]:
        fresh = build_model(model.settings, model.tasks).eval()
        config = run_config("hopper", **settings)
        return run(name, config, lambda run: work(run, fresh, model, data))

    online = {"num_envs": 3, "model_updates": 1, "model_batch_size": 8}
    learner = {
        "algorithm": "pwm",
        "model": {"world_model": TINY, "updates": 6, "batch_size": 4, "horizon": 3, "learning_rate": HUGE},
        "policy": {"updates": 20, "horizon": 4, **TINY_POLICY, "online": {"num_envs": 3, "model_batch_size": 4}},
        "random_steps": 30,
        "checkpoints": 2,
    }
    settings = CollectConfig(mixture={"replay": 4, "checkpoints": 4}, learner=learner)
    collection = DataConfig(scale="test", task="hopper", seed=1, settings=settings)
    baselines = {
        "ppo": {"env_steps": 256, "num_envs": 4, "n_steps": 8, "batch_size": 32, "units": [16]},
        "sac": {"env_steps": 200, "num_envs": 4, "random_steps": 20, "batch_size": 16, "units": [16]},
    }
    library = {
        name: run(
            name,
            run_config("hopper", algorithm=name, **settings, learning_rate=HUGE),
            importlib.import_module(f"baselines.{name}").train,
        )
        for name, settings in baselines.items()
    }
    return library | {
        "model": run("model", model_config("hopper", learning_rate=HUGE), lambda run: pretrain(run, [data])),
        "model with bins": run(
            "model with bins", model_config("hopper", bins=11, learning_rate=HUGE), lambda run: pretrain(run, [data])
        ),
        "wild data": run("wild data", model_config("hopper"), lambda run: pretrain(run, [wild])),
        "actor": policy("actor", extract, actor_lr=HUGE),
        "critic": policy("critic", extract, critic_lr=HUGE),
        "finetuned": policy("finetuned", extract, finetune={"model_lr": HUGE, "model_batch_size": 4}),
        "online": policy("online", train_online, actor_lr=HUGE, online=online),
        "online model": policy("online model", train_online, online=online | {"model_lr": HUGE}),
        "learner": run("learner", collection, lambda run: collect(run, folder / "learner")),
    }


def test_divergence(tmp_path, faults):
    with faults("diverging") as tally:
        for name, work in diverging_runs(tmp_path).items():
            with tally.fault(name):
                with pytest.raises(FloatingPointError, match=DIVERGED):
                    work()
                assert not (tmp_path / name).exists()
                states = [path for path in tmp_path.rglob("*.pt") if name in path.parts]
                for state in states:  # the last good one, where there was one
                    tensors = _tensors(torch.load(state, weights_only=True)["state"])
                    assert all(tensor.isfinite().all() for tensor in tensors)


def _tensors(state) -> list[torch.Tensor]:
    """All tensors of floating-point numbers in nested containers."""
    if isinstance(state, torch.Tensor):
        return [state] if state.is_floating_point() else []
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for part in parts for tensor in _tensors(part)]


def limited(limit: int) -> Callable[[], None]:
    """For a new process: no more address space than that."""
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def greedy_stages(folder: Path) -> dict[str, list[str]]:
    """Commands that need some 100 GiB, one for each stage; their output is `folder/out`."""
    data = write_episodes(folder / "data", "hopper")
    model, wide = model_config("hopper"), 150_000
    weights = build_model(model.settings, model.tasks).state_dict()
    save_checkpoint(folder / "model", weights, {"config": model.model_dump(mode="json")})
    learner = {"algorithm": "sac", "env_steps": 10**9}
    units = {"env_steps": 100, "units": [wide, wide]}
    configs = {
        "collect": DataConfig(
            scale="test", task="hopper", seed=1, settings=CollectConfig(mixture={"replay": 4}, learner=learner)
        ),
        "episodes": DataConfig(scale="test", task="hopper", seed=1, settings=CollectConfig(mixture={"random": 10**7})),
        "pretrain": model_config("hopper", batch_size=10**9),
        "extract": run_config("hopper", actor_units=(wide, wide)),
        "ppo": run_config("hopper", algorithm="ppo", **units),
        "sac": run_config("hopper", algorithm="sac", **units),
    }
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(dump(config), encoding="utf-8")
    given = {
        "collect": ["pwm.collect"],
        "pretrain": ["pwm.pretrain", "--data", data],
        "extract": ["pwm.extract", "--model", folder / "model", "--data", data],
        "ppo": ["baselines"],
        "sac": ["baselines"],
    }
    return {
        name: [*map(str, words), "--config", f"{name}.yaml", "--out", f"{folder}/out"] for name, words in given.items()
    }


def test_memory(tmp_path, faults, thorough):
    stages = greedy_stages(tmp_path)
    with faults("memory") as tally:
        for name in stages if thorough else ["pretrain"]:
            with tally.fault(name):
                done = subprocess.run(
                    [sys.executable, "-m", *stages[name]],
                    cwd=tmp_path,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    preexec_fn=limited(16 * GIB),
                    capture_output=True,
                    text=True,
                )
                last = done.stderr.splitlines()[-1]
                assert done.returncode == 1 and last.startswith("error: no memory left ("), done.stderr[-2000:]
                assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


TINY_SCALE = """
episodes: 2
evaluation: {curve_points: 1, curve_episodes: 1}
resources: {evaluate: {threads: 2}}
suites:
  locomotion:
    tasks: {hopper: {}}
    seeds: 1
    collect: {mixture: {random: 2}}
    world_models:
      default: &tiny
        updates: 4
        batch_size: 8
        horizon: 4
        world_model: {encoder: [16], units: [16], latent_dim: 16}
      diverges: {<<: *tiny, learning_rate: 1e30}
    algorithms:
      pwm:
        default: &policy {updates: 4, batch_size: 8, horizon: 4, actor_units: [16], critic_units: [16]}
        diverges: {<<: *policy, world_model: diverges}
      ppo:
        default: &ppo {env_steps: 256, num_envs: 4, n_steps: 8, batch_size: 32, n_epochs: 1, units: [16]}
        diverges: {<<: *ppo, learning_rate: 1e30}
        greedy: {<<: *ppo, units: [150000, 150000]}
      sac: {default: {env_steps: 100, units: [16]}}
  mt30:
    tasks: {cup-catch: {}, reacher-easy: {}}
    seeds: 1
    algorithms: {random: {default: {}}}
"""
HANG = """    def advance(self) -> None:
        import time
        time.sleep(3600 if self._env.task.name == "cup-catch" else 0)
"""
STALL = """def train(run: "Run") -> None:
    import threading
    threading.Event().wait()
"""
EDITS = [  # of the copy's code
    ("pwm/envs/parallel.py", "ANSWER_TIME = 600", "ANSWER_TIME = 10"),
    ("pwm/envs/parallel.py", "    def advance(self) -> None:\n", HANG),
    ("baselines/sac.py", 'def train(run: "Run") -> None:\n', STALL),
]
SCORED = {("hopper", "pwm", "default"), ("hopper", "ppo", "default"), ("reacher-easy", "random", "default")}
WHY = {  # of the runs that are lost: the log that tells, and what it says
    ("hopper", "pwm", "diverges"): ("models/locomotion/diverges/hopper/seed0/log.txt", "training diverged"),
    ("hopper", "ppo", "diverges"): ("runs/locomotion/hopper/ppo/diverges/seed0/log.txt", "training diverged"),
    ("hopper", "ppo", "greedy"): ("runs/locomotion/hopper/ppo/greedy/seed0/log.txt", "no memory left"),
    ("hopper", "sac", "default"): ("runs/locomotion/hopper/sac/default/seed0/log.txt", "no work for 60 s, in train ("),
    ("cup-catch", "random", "default"): (
        "logs/evaluate/mt30/cup-catch/random/default/seed0.log",
        "cup-catch: a worker has not answered for 10 s",
    ),
}


def test_jobs_fail_alone(tmp_path, faults, thorough):
    """A world model and a run diverge, a run wants all memory, one hangs, and so does an evaluation's worker."""
    if not thorough:
        pytest.skip("takes a workflow of a minute; make faults runs it")
    copy_project(tmp_path)
    (tmp_path / "workflows" / "config" / "broken.yaml").write_text(TINY_SCALE)
    for file, old, new in EDITS:
        text = (tmp_path / file).read_text()
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new))
    results = tmp_path / "results" / "broken"
    words = ("--config", "scale=broken")
    command = [str(BIN / "snakemake"), "--cores", "2", *words, "--", "results/broken/scores.csv"]
    first = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment() | {"PWM_HANGING": "60"},
        preexec_fn=limited(16 * GIB),
        capture_output=True,
        text=True,
    )
    assert first.returncode == 1 and not (results / "scores.csv").exists()
    partial = snakemake(tmp_path, *words, "partial=true", "--", "results/broken/scores.csv")
    assert partial.returncode == 0, partial.stderr
    keys = ["task", "algorithm", "variant"]
    scored = {*pd.read_csv(results / "scores.csv")[keys].itertuples(index=False, name=None)}
    missing, expected = missing_runs(results)
    lost = {*missing[keys].itertuples(index=False, name=None)}
    with faults("alone") as tally:
        for run, (log, message) in WHY.items():
            with tally.fault(str(run)):
                assert run in lost and run not in scored and expected == len(SCORED) + len(WHY)
                assert message in (results / log).read_text()
                assert "/".join(run) in (results / "logs" / "collate.log").read_text()
        with tally.fault("the others"):
            assert scored == SCORED
