"""Stage `collect`: make a task's episodes by a named behaviour (`pwm.config.CollectConfig`).

python -m pwm.collect --config config.yaml --out EPISODES_FOLDER
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from tqdm import tqdm

from pwm import config, envs
from pwm.config import CollectConfig, DataConfig, LearnerConfig
from pwm.data.episodes import EpisodeWriter
from pwm.envs import TaskVectorEnv
from pwm.envs.tasks import Task, get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.runs import Run

if TYPE_CHECKING:
    from stable_baselines3 import SAC

NUM_ENVS = 20  # stepped together while a finished behaviour fills the data set
SEED_STRIDE = 10_000  # between the episode seeds of one policy and the next

# observations [N, O], where an episode begins [N] → actions [N, A]
Behaviour = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Perturbed:
    """A policy with action noise and bursts, so that the data covers what a new policy will try.

    Environment i acts with noise level `noise[i]`, white in one half of its episodes and slowly changing in the other.
    With a small probability per decision a burst begins: some steps of random actions or of one constant action.

    Args:
        policy: observations [N, O] → actions [N, A], or None for uniformly random actions.
        noise: standard deviation of the action noise per environment [N].
        settings: burst probability and lengths.
        action_dim: A.
        rng: of all the noise.
    """

    CORRELATION = 0.9  # of slowly changing noise, from one decision to the next

    def __init__(
        self,
        policy: Callable[[np.ndarray], np.ndarray] | None,
        noise: np.ndarray,
        settings: CollectConfig,
        action_dim: int,
        rng: np.random.Generator,
    ) -> None:
        self.policy, self.noise, self.settings, self.rng = policy, noise, settings, rng
        shape = (len(noise), action_dim)
        self.slow, self.burst_action = np.zeros(shape), np.zeros(shape)
        self.burst_left = np.zeros(len(noise), dtype=int)
        self.correlated, self.constant = np.zeros(len(noise), dtype=bool), np.zeros(len(noise), dtype=bool)

    def __call__(self, obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Actions [N, A] in [−1, 1]; `first` marks environments at an episode's start."""
        shape = self.slow.shape
        uniform = self.rng.uniform(-1.0, 1.0, shape)
        if self.policy is None:
            return uniform
        self.correlated = np.where(first, self.rng.random(len(first)) < 0.5, self.correlated)
        white = self.rng.standard_normal(shape)
        keep = np.where(first, 0.0, self.CORRELATION)[:, None]
        self.slow = keep * self.slow + np.sqrt(1.0 - keep**2) * white
        action = self.policy(obs) + self.noise[:, None] * np.where(self.correlated[:, None], self.slow, white)

        begins = (self.burst_left == 0) & (self.rng.random(len(first)) < self.settings.burst_probability)
        shortest, longest = self.settings.burst_length
        lengths = self.rng.integers(shortest, longest + 1, len(first))
        self.burst_left = np.where(begins, lengths, np.maximum(np.where(first, 0, self.burst_left - 1), 0))
        self.constant = np.where(begins, self.rng.random(len(first)) < 0.5, self.constant)
        self.burst_action = np.where((self.constant & ~begins)[:, None], self.burst_action, uniform)
        return np.clip(np.where((self.burst_left > 0)[:, None], self.burst_action, action), -1.0, 1.0)


def roll_out(env: TaskVectorEnv, behaviour: Behaviour, episodes: int, seed: int, writer: EpisodeWriter) -> None:
    """Append `episodes` whole episodes of a behaviour: the first ones of each environment, in equal numbers.

    Taking whatever ends first would prefer short episodes.

    Args:
        env: N environments of the task.
        behaviour: acts in all of them.
        episodes: how many to append.
        seed: environment i starts from seed + i.
        writer: of the data set.
    """
    obs, _ = env.reset(seed=seed)
    first = np.ones(env.num_envs, dtype=bool)
    tracks: list[list[tuple]] = [[] for _ in range(env.num_envs)]
    left = np.diff(np.linspace(0, episodes, env.num_envs + 1).round().astype(int))
    with tqdm(total=episodes, desc=f"{env.task.name} episodes", unit="episode", mininterval=2.0, leave=False) as bar:
        while left.any():
            action = behaviour(obs, first).astype(np.float32)
            following, reward, terminated, truncated, info = env.step(action)
            first = terminated | truncated
            for i in range(env.num_envs):
                tracks[i].append((obs[i], action[i], reward[i]))
                if first[i] and left[i]:
                    observations, actions, rewards = map(np.array, zip(*tracks[i], strict=True))
                    final = info["final_obs"][i : i + 1]
                    writer.add(np.concatenate([observations, final]), actions, rewards, bool(terminated[i]))
                    left[i] -= 1
                    bar.update()
                if first[i]:
                    tracks[i] = []
            obs = following


def train_learner(run: Run, task: Task, settings: LearnerConfig) -> tuple["SAC", list[nn.Module]]:
    """Train SAC online on the task; returns it with copies of its policy at equal distances, the last at the end."""
    # Deviation D5: data of our own learner; the paper's come from hundreds of TD-MPC2 agents' replays.
    from stable_baselines3 import SAC

    from pwm.envs.sb3 import SB3VecEnv
    from pwm.sb3 import learn

    env = SB3VecEnv(envs.make(task.name, 1, run.config.seed))
    learner = SAC(
        "MlpPolicy",
        env,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        buffer_size=settings.env_steps,
        learning_starts=settings.random_steps,
        policy_kwargs={"net_arch": list(settings.units)},
        seed=run.config.seed,
        device=run.device,
    )
    marks = np.linspace(0, settings.env_steps, settings.checkpoints + 1)[1:].round()
    kept: dict[str, list[dict]] = {"weights": []}

    def keep_checkpoint(steps: int) -> None:
        if len(kept["weights"]) < len(marks) and steps >= marks[len(kept["weights"])]:
            kept["weights"].append(copy.deepcopy(learner.policy.state_dict()))

    learn(learner, env, run, settings.env_steps, keep_checkpoint, kept)
    env.close()
    policies = [copy.deepcopy(learner.policy) for _ in kept["weights"]]
    for policy, weights in zip(policies, kept["weights"], strict=True):
        policy.load_state_dict(weights)
    return learner, policies


def write_replay(learner: "SAC", writer: EpisodeWriter, episodes: int) -> None:
    """Append the last `episodes` whole episodes of the learner's replay, oldest first."""
    buffer = learner.replay_buffer
    size = buffer.size()
    ends = np.flatnonzero(buffer.dones[:size, 0])
    starts = np.concatenate([[0], ends[:-1] + 1])
    for start, end in list(zip(starts, ends, strict=True))[-episodes:]:
        steps = slice(start, end + 1)
        obs = np.concatenate([buffer.observations[steps, 0], buffer.next_observations[end : end + 1, 0]])
        terminated = bool(buffer.dones[end, 0]) and not bool(buffer.timeouts[end, 0])
        writer.add(obs, buffer.actions[steps, 0], buffer.rewards[steps, 0], terminated)


def collect(run: Run, out: Path) -> None:
    """Make the data set of `run.config` in the folder `out`."""
    task, settings, seed = get_task(run.config.task), run.config.settings, run.config.seed
    policies: list[nn.Module | None] = [None]
    episodes = settings.episodes
    if settings.behaviour != "random":
        learner, policies = train_learner(run, task, settings.learner)
    if settings.behaviour == "replay":
        finished = int(learner.replay_buffer.dones[: learner.replay_buffer.size()].sum())
        if not finished:
            raise UserError(f"{task.name}: learner.env_steps {settings.learner.env_steps} ends no episode; raise it")
        episodes = min(episodes, finished)
    sizes = (task.observation_dim, task.action_dim, task.episode_length)
    writer = EpisodeWriter(out, task.name, *sizes, episodes)
    if settings.behaviour == "replay":
        write_replay(learner, writer, episodes)
    else:
        perturb_and_roll_out(policies, task, settings, seed, writer)
    writer.commit(settings.model_dump(mode="json"), seed)
    run.discard_state()


def perturb_and_roll_out(
    policies: list[nn.Module | None], task: Task, settings: CollectConfig, seed: int, writer: EpisodeWriter
) -> None:
    """Append `settings.episodes` episodes, shared evenly among the policies; None acts at random."""
    rng = np.random.default_rng(seed)
    env = envs.make(task.name, min(NUM_ENVS, settings.episodes), seed)
    noise = np.resize(np.array(settings.noise), env.num_envs)
    shares = np.diff(np.linspace(0, settings.episodes, len(policies) + 1).round().astype(int))
    for index, (policy, share) in enumerate(zip(policies, shares, strict=True)):
        act = None if policy is None else lambda obs, p=policy: p.predict(obs, deterministic=True)[0]
        behaviour = Perturbed(act, noise, settings, task.action_dim, rng)
        roll_out(env, behaviour, int(share), seed + SEED_STRIDE * (index + 1), writer)
    env.close()


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.collect", description="Make a task's episodes.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data_config = config.load(DataConfig, args.config)
    collect(Run(args.out, data_config), args.out)


if __name__ == "__main__":
    main()
