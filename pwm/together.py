"""TD-MPC2's online runs of several tasks and seeds in one process, for a GPU: see `pwm.stacked`.

All have the same settings. Each is what it would be alone, but for what is drawn at random and for deviation D29.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pwm import envs
from pwm.config import PretrainConfig
from pwm.data.batch import Batch
from pwm.envs.tasks import get_task
from pwm.evaluate import Evaluation, curve_episodes, curve_updates, episode_seed, log_point, rollout
from pwm.model_learning import discount_factor
from pwm.nn.world_model import WorldModel
from pwm.online import OnlineEnvironment
from pwm.pretrain import build_model
from pwm.runs import CHECK_EVERY, Run, seed_everything
from pwm.stacked import Stack, StackPlanner, StackTrainer, padded, unpadded

ALIGNED = 8  # widths that are multiples of it are what a GPU multiplies fast in bfloat16


class Together:
    """R runs: a stack of models with its trainer and planner, and each run's environments and replay.

    Args:
        runs: the runs, each of one task; their episodes are of the same length.
        objective: what the models learn.
        search: the sizes of `Planner`'s search.
        num_envs: environments of each run, B.
        replay_capacity: transitions of each run.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        objective: PretrainConfig,
        search: dict[str, int],
        num_envs: int,
        replay_capacity: int,
    ) -> None:
        self.runs, self.objective, self.search, self.device = runs, objective, search, runs[0].device
        self.tasks = [get_task(run.config.task) for run in runs]
        self.models = []
        for run, task in zip(runs, self.tasks, strict=True):
            seed_everything(run.config.seed)
            self.models.append(build_model(objective, (task.name,)).to(self.device).eval())
        with ThreadPoolExecutor(len(runs)) as threads:  # their processes start at the same time
            self.worlds = [*threads.map(lambda *of: self._world(*of, num_envs, replay_capacity), runs, self.models)]
        widths = ([getattr(task, name) for task in self.tasks] for name in ("observation_dim", "action_dim"))
        self.observation_dim, self.action_dim = (-(-max(width) // ALIGNED) * ALIGNED for width in widths)
        wide = [padded(model, self.observation_dim, self.action_dim) for model in self.models]
        self.stack, self.wide = Stack(wide, objective.compile), wide[0]
        self.discount = discount_factor(self.tasks[0].episode_length)
        self.trainer = StackTrainer(self.stack, objective, self.discount)
        self.planner = self.evaluator = self.make_planner()
        if runs[0].config.evaluation.curve_episodes != num_envs:
            self.evaluator = self.make_planner()  # another number of environments is compiled anew
        self.first = np.ones((len(runs), num_envs), bool)

    def _world(self, run: Run, model: WorldModel, num_envs: int, replay_capacity: int) -> OnlineEnvironment:
        seed = episode_seed("training", run.config.seed)
        env = envs.make(run.config.task, num_envs, seed, apart=True)
        return OnlineEnvironment(env, replay_capacity, seed, model)

    def make_planner(self) -> StackPlanner:
        """A search that has planned nothing yet."""
        computed = {"precision": self.objective.precision, "compile": self.objective.compile}
        return StackPlanner(self.stack, self.discount, self.objective.horizon, **self.search, **computed)

    @property
    def env_steps(self) -> int:
        """Decisions so far of each run."""
        return self.worlds[0].env_steps

    def decide(self) -> Callable[[], np.ndarray]:
        """Begin to plan for all environments; what is returned waits for the actions [R, B, A]."""
        obs = self.to_device(widened([torch.from_numpy(world.obs) for world in self.worlds], self.observation_dim))
        return _leaving(self.planner(obs, self.to_device(torch.from_numpy(self.first)), explore=True))

    def act(self, actions: np.ndarray) -> None:
        """Take a decision in all environments, at the same time."""
        own = [action[:, : task.action_dim] for action, task in zip(actions, self.tasks, strict=True)]
        for world, action in zip(self.worlds, own, strict=True):
            world.env.begin(action)
        self.first = np.stack([world.step(action)[0] for world, action in zip(self.worlds, own, strict=True)])

    def draw(self) -> Batch:
        """A batch of each replay, [R, ...]."""
        sizes = self.objective.batch_size, self.objective.horizon
        batches = [world.replay.sample(*sizes) for world in self.worlds]
        obs, action, *rest = zip(*batches, strict=True)
        parts = widened(obs, self.observation_dim), widened(action, self.action_dim), *map(torch.stack, rest)
        return Batch(*map(self.to_device, parts))

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor there, without waiting for it."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def evaluate(self) -> list[Evaluation]:
        """Every run's episodes for a point of its learning curve, a decision of all at a time; disturbs no training."""
        planner, results = self.evaluator, [None] * len(self.runs)
        before, planner.mean = planner.mean, None
        episodes = [rollout(*curve_episodes(run.config)) for run in self.runs]
        obs, first = map(list, zip(*map(next, episodes), strict=True))
        bar = tqdm(desc="evaluation", unit="step", mininterval=2.0, leave=False)
        with bar, torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            while None in results:
                seen = widened([*map(torch.from_numpy, obs)], self.observation_dim)
                given = seen, torch.from_numpy(np.stack(first))
                actions = planner(*map(self.to_device, given)).cpu().numpy()
                for r in (r for r, result in enumerate(results) if result is None):
                    try:
                        obs[r], first[r] = episodes[r].send(actions[r, :, : self.tasks[r].action_dim])
                    except StopIteration as end:
                        results[r] = end.value
                bar.update()
        planner.mean = before
        return results

    def check(self, updates: int, metrics: dict[str, Tensor]) -> None:
        """Look at every run's metrics.

        Raises:
            FloatingPointError: one is not finite, or beyond all bounds; names the run, and the state of all.
        """
        for r, run in enumerate(self.runs):
            try:
                run.watch(updates, {name: value[r] for name, value in metrics.items()})
                run.check()
            except FloatingPointError as error:
                reason = f"{run.out}: {str(error).partition(';')[0]}"
                state = self.runs[0].state_folder
                raise FloatingPointError(f"{reason}; the last good state of all runs is in {state}") from None

    def point(self, updates: int, metrics: dict[str, Tensor]) -> None:
        """Log a point of every run's learning curve."""
        self.check(updates, metrics)
        with contextlib.ExitStack() as pauses:
            for run in self.runs:
                pauses.enter_context(run.pause())
            results = self.evaluate()
        for r, (run, result) in enumerate(zip(self.runs, results, strict=True)):
            log_point(run, result, self.env_steps, updates, **{name: value[r] for name, value in metrics.items()})

    def finish(self) -> None:
        """Finish every run with its own model; last the first, which holds the state of all."""
        names = [str(run.out) for run in self.runs]
        for r, (run, model) in reversed([*enumerate(zip(self.runs, self.models, strict=True))]):
            unpadded(self.stack.take(r, self.wide), model)
            run.finish(Path("policy"), model.state_dict(), task=run.config.task, together=names)
            self.worlds[r].env.close()

    def state(self, updates: int, metrics: dict[str, Tensor]) -> dict[str, Any]:
        """Everything needed to go on exactly, if no run has diverged."""
        self.check(updates, metrics)
        return {
            "updates": updates,
            "trainer": self.trainer.state(),
            "worlds": [world.state() for world in self.worlds],
            "mean": self.planner.mean,
            "first": torch.from_numpy(self.first),
            "rows": [run.rows for run in self.runs],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.trainer.restore(state["trainer"])
        self.planner.mean, self.first = state["mean"], state["first"].cpu().numpy()
        for run, world, rows, of_world in zip(self.runs, self.worlds, state["rows"], state["worlds"], strict=True):
            world.restore(of_world)
            run.go_on(rows, self.runs[0].wall_time)


def learn(all_runs: Together, env_steps: int, random_steps: int) -> None:
    """Act and learn in turn, in all runs at once.

    Args:
        all_runs: the runs.
        env_steps: decisions, and updates, of each.
        random_steps: how many decisions are random, and come before the first update.
    """
    lead, done, metrics = all_runs.runs[0], 0, {}
    if state := lead.load_state():
        all_runs.restore(state)
        done = state["updates"]
    else:
        seed_everything(lead.config.seed)
        all_runs.point(done, metrics)
    points = curve_updates(env_steps, lead.config.evaluation.curve_points)
    while all_runs.env_steps < random_steps:
        actions = 2.0 * torch.rand(*all_runs.first.shape, all_runs.action_dim) - 1.0
        all_runs.act(actions.numpy())
    for update in lead.progress(env_steps, done):
        # Deviation D29: the update is made while the environments step, and learns from the decisions before; a run
        # alone learns from the newest one, too.
        acts = all_runs.env_steps < update + 1
        actions = all_runs.decide() if acts else None
        metrics, done = all_runs.trainer.update(all_runs.draw(), 0.0), update + 1
        if acts:
            all_runs.act(actions())
        if done % CHECK_EVERY == 0:
            all_runs.check(done, metrics)
        if done in points:
            all_runs.point(done, metrics)
        lead.save_state(lambda: all_runs.state(done, metrics))  # noqa: B023
    all_runs.finish()


def widened(parts: Sequence[Tensor], width: int) -> Tensor:
    """Tensors [..., w] of the R runs as one [R, ..., width], zero beyond each one's own w."""
    whole = torch.zeros(len(parts), *parts[0].shape[:-1], width)
    for own, part in zip(whole, parts, strict=True):
        own[..., : part.shape[-1]] = part
    return whole


def _leaving(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy a tensor to the host; what is returned waits for it, and not for what a GPU is told to do later."""
    if not tensor.is_cuda:
        return tensor.numpy
    host = torch.empty(tensor.shape, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def wait() -> np.ndarray:
        event.synchronize()
        return host.numpy()

    return wait
