"""Stage `evaluate`: score a trained policy, the same way for every algorithm.

python -m pwm.evaluate --run RUN_FOLDER --episodes 10
"""

import argparse
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from pwm import algorithms, config, envs, runs
from pwm.algorithms import Policy
from pwm.config import AnyConfig, RunConfig
from pwm.envs.tasks import RETURN_UNIT, get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.integrity import seal

# First episode seeds by purpose; run k's start 1000 k later, so that no two runs or purposes share an episode.
FIRST_SEED = {"training": 0, "final": 1_000_000, "curve": 2_000_000}


def episode_seed(purpose: str, run_seed: int) -> int:
    """Seed of the first environment of a run, whose seed is below `MOST_SEEDS`, for a purpose of `FIRST_SEED`."""
    return FIRST_SEED[purpose] + 1000 * run_seed


@dataclass(frozen=True)
class Evaluation:
    """Episodes of one policy. Arrays [E] unless said."""

    returns: np.ndarray  # undiscounted sum of rewards
    lengths: np.ndarray  # decisions
    success_last: np.ndarray  # success at the episode's last step
    success_any: np.ndarray  # success at any step
    terminated: np.ndarray  # whether it ended by the task's own rule, as by a fall
    speeds: np.ndarray  # mean velocity forward, m/s; NaN where the task has none
    first_obs: np.ndarray  # [E, O]
    rewards: np.ndarray  # [T, E], zero after an episode's end

    def score(self, rule: str) -> float:
        """The task's score by its rule (`Task.score`; paper, section 4)."""
        if rule == "success":
            return float(self.success_last.mean())
        return float(self.returns.mean()) / RETURN_UNIT[rule]

    def speed(self) -> float | None:
        """Of all decisions, so that what falls at once counts little; None where the task has none."""
        return None if np.isnan(self.speeds).any() else float(np.average(self.speeds, weights=self.lengths))


def rollout(task: str, episodes: int, seed: int) -> Generator[tuple[np.ndarray, np.ndarray], np.ndarray, Evaluation]:
    """One episode in each of `episodes` environments: gives what a policy reads, and takes its actions [E, A].

    Args:
        task: task name.
        episodes: number of episodes, E.
        seed: episode i starts from seed + i.
    """
    env = envs.make(task, num_envs=episodes, seed=seed)
    obs, _ = env.reset(seed=seed)
    first_obs, rewards = obs, []
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=int)
    last, anywhere = np.zeros(episodes, dtype=bool), np.zeros(episodes, dtype=bool)
    ended, distances = np.zeros(episodes, dtype=bool), np.zeros(episodes)  # in m/s · decisions
    alive, first = np.ones(episodes, dtype=bool), np.ones(episodes, dtype=bool)
    while alive.any():
        obs, reward, terminated, truncated, info = env.step((yield obs, first))
        returns[alive] += reward[alive]
        rewards.append(np.where(alive, reward, 0.0))
        lengths[alive] += 1
        last[alive] = info["success"][alive]
        anywhere[alive] |= info["success"][alive]
        ended |= alive & terminated
        distances[alive] += info["speed"][alive]
        first = terminated | truncated
        alive &= ~first
    env.close()
    return Evaluation(returns, lengths, last, anywhere, ended, distances / lengths, first_obs, np.stack(rewards))


def evaluate(policy: Policy, task: str, episodes: int, seed: int) -> Evaluation:
    """`rollout` with a deterministic policy."""
    steps, total = rollout(task, episodes, seed), get_task(task).episode_length
    given = next(steps)
    with tqdm(desc=f"{task} evaluation", total=total, unit="step", mininterval=2.0, leave=False) as bar:
        while True:
            try:
                given = steps.send(policy(*given))
            except StopIteration as end:
                return end.value
            bar.update()


def curve_point(
    run: runs.Run,
    policy: Policy,
    env_steps: int,
    updates: int,
    measure: Callable[[Evaluation], dict[str, float]] | None = None,
    **metrics: Any,
) -> None:
    """Evaluate during training and log it. Not counted as training time.

    Args:
        run: a run whose config is a `RunConfig`.
        policy: the policy as it stands.
        env_steps: environment steps (decisions) taken so far by the algorithm itself.
        updates: policy updates so far.
        measure: further columns, made from the evaluation's episodes.
        metrics: losses and the like.
    """
    run.check()
    with run.pause():
        result = evaluate(policy, *curve_episodes(run.config))
    log_point(run, result, env_steps, updates, **(measure(result) if measure else {}), **metrics)


def curve_episodes(settings: RunConfig) -> tuple[str, int, int]:
    """Task, number and first seed of the episodes that a point of the learning curve is made of."""
    return settings.task, settings.evaluation.curve_episodes, episode_seed("curve", settings.seed)


def log_point(run: runs.Run, result: Evaluation, env_steps: int, updates: int, **metrics: Any) -> None:
    """Log one row of the learning curve and print one line; the arguments are those of `curve_point`."""
    settings: RunConfig = run.config
    row = {"env_steps": env_steps, "updates": updates, "wall_time_s": 0.0}
    row |= {"return": result.returns.mean(), "success": result.success_last.mean()}
    run.log(row | metrics)
    returns = f"return {result.returns.mean():.1f} ± {result.returns.std():.1f}"
    who = f"{settings.task} {settings.algorithm}/{settings.variant} seed {settings.seed}"
    # On a line of its own, not behind the progress bar.
    tqdm.write(f"{who}: update {updates}, {env_steps} env steps, {run.wall_time:.0f} s, {returns}", file=sys.stderr)


def curve_updates(total: int, points: int) -> set[int]:
    """The updates after which the learning curve has a point: equally spaced, the last included."""
    return {round(total * k / points) for k in range(1, points + 1)}


def load_trained(
    folder: Path, settings: type[AnyConfig]
) -> tuple[dict[str, Tensor], dict[str, Any], RunConfig, AnyConfig]:
    """A finished run's `policy/` folder: tensors, config.json, the run's config, and its settings as that class.

    Raises:
        UserError: a file is missing, damaged or of another format, or the settings are not of that class.
    """
    tensors, saved = runs.load_checkpoint(folder)
    run_config = config.validate(RunConfig, saved["config"], str(folder / "config.json"))
    return tensors, saved, run_config, config.validate(settings, run_config.settings, str(folder / "config.json"))


def evaluate_run(folder: Path, episodes: int) -> dict[str, Any]:
    """Score the policy of a finished run over `episodes` episodes: the content of eval.json."""
    run_config = config.load(RunConfig, folder / "config.yaml")
    algorithms.check(run_config.algorithm, run_config.suite)
    began = time.time()
    trained_by = runs.saved_config(folder / "policy").get("config", {})
    runs.check_same_config(run_config, trained_by, folder / "policy" / "config.json")
    policy = algorithms.load_policy(run_config.algorithm, folder / "policy")
    seed = episode_seed("final", run_config.seed)
    runs.seed_everything(seed)
    result = evaluate(policy, run_config.task, episodes, seed)
    rule = get_task(run_config.task).score
    return {
        "score": result.score(rule),
        "score_rule": rule,
        "simulator": envs.simulator(run_config.task),
        "return_mean": float(result.returns.mean()),
        "return_std": float(result.returns.std()),
        "success_last": float(result.success_last.mean()),
        "success_any": float(result.success_any.mean()),
        "terminated": int(result.terminated.sum()),
        "speed": result.speed(),
        "episodes": episodes,
        "first_episode_seed": seed,
        "returns": result.returns.tolist(),
        "lengths": result.lengths.tolist(),
        "eval_wall_s": round(time.time() - began, 2),
    }


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.evaluate", description="Score the policy of a finished run.")
    parser.add_argument("--run", type=Path, required=True, help="run folder with config.yaml and policy/")
    parser.add_argument("--episodes", type=int, default=10)
    args = parser.parse_args()
    folder = args.run
    if args.episodes < 1:
        raise UserError(f"--episodes is {args.episodes}; ask for at least 1")
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder}: no config.yaml there; give the folder of a finished run")
    scores = evaluate_run(folder, args.episodes)
    runs.write_atomically(folder / "eval.json", seal(scores))
    print(
        f"{folder}: return {scores['return_mean']:.1f} ± {scores['return_std']:.1f} over {scores['episodes']} episodes"
    )


if __name__ == "__main__":
    main()
