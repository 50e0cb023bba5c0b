"""Stage `collect`: make a task's episodes by a named behaviour (`pwm.config.CollectConfig`).

python -m pwm.collect --config config.yaml --out EPISODES_FOLDER
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import SAC
from torch import nn
from tqdm import tqdm

from pwm import config, envs
from pwm.config import CollectConfig, DataConfig
from pwm.data.episodes import EpisodeWriter
from pwm.envs.sb3 import SB3VecEnv
from pwm.envs.tasks import Task, get_task
from pwm.errors import exit_on_user_error
from pwm.runs import Run, default_device
from pwm.sb3 import learn

NUM_ENVS = 20  # stepped together while a finished behaviour fills the data set

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


def roll_out(task: Task, behaviour: Behaviour, episodes: int, num_envs: int, seed: int, writer: EpisodeWriter) -> None:
    """Append `episodes` whole episodes of a behaviour acting in `num_envs` environments, in the order they end."""
    env = envs.make(task.name, num_envs, seed)
    obs, _ = env.reset(seed=seed)
    first = np.ones(num_envs, dtype=bool)
    tracks: list[list[tuple]] = [[] for _ in range(num_envs)]
    left = episodes
    with tqdm(total=episodes, desc=f"{task.name} episodes", unit="episode", mininterval=2.0, leave=False) as bar:
        while left > 0:
            action = behaviour(obs, first).astype(np.float32)
            following, reward, terminated, truncated, info = env.step(action)
            first = terminated | truncated
            for i in range(num_envs):
                tracks[i].append((obs[i], action[i], reward[i]))
                if first[i] and left > 0:
                    observations, actions, rewards = map(np.array, zip(*tracks[i], strict=True))
                    final = info["final_obs"][i : i + 1]
                    writer.add(np.concatenate([observations, final]), actions, rewards, bool(terminated[i]))
                    left -= 1
                    bar.update()
                if first[i]:
                    tracks[i] = []
            obs = following
    env.close()


def train_learner(run: Run, task: Task, settings: CollectConfig) -> tuple[SAC, list[nn.Module]]:
    """Train SAC online on the task; returns it with copies of its policy at equal distances."""
    learner_config = settings.learner
    torch.set_num_threads(torch.get_num_threads())
    env = SB3VecEnv(envs.make(task.name, 1, run.config.seed))
    learner = SAC(
        "MlpPolicy",
        env,
        learning_rate=learner_config.learning_rate,
        batch_size=learner_config.batch_size,
        buffer_size=learner_config.env_steps,
        learning_starts=learner_config.random_steps,
        policy_kwargs={"net_arch": list(learner_config.units)},
        seed=run.config.seed,
        device=default_device(),
    )
    marks = [
        round(learner_config.env_steps * (k + 1) / learner_config.checkpoints)
        for k in range(learner_config.checkpoints)
    ]
    kept: dict[str, list[dict]] = {"actors": []}

    def keep_checkpoint(steps: int) -> None:
        if len(kept["actors"]) < len(marks) and steps >= marks[len(kept["actors"])]:
            kept["actors"].append(copy.deepcopy(learner.policy.state_dict()))

    learn(learner, env, run, learner_config.env_steps, keep_checkpoint, kept)
    env.close()
    policies = []
    for weights in kept["actors"]:
        policy = copy.deepcopy(learner.policy)
        policy.load_state_dict(weights)
        policies.append(policy)
    return learner, policies


def write_replay(learner: SAC, writer: EpisodeWriter, episodes: int) -> None:
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
    sizes = (task.name, task.observation_dim, task.action_dim, task.episode_length)
    rng = np.random.default_rng(seed)
    if settings.behaviour == "random":
        writer = EpisodeWriter(out, *sizes, settings.episodes)
        num_envs = min(NUM_ENVS, settings.episodes)
        acting = Perturbed(None, np.zeros(num_envs), settings, task.action_dim, rng)
        roll_out(task, acting, settings.episodes, num_envs, seed, writer)
    else:
        learner, policies = train_learner(run, task, settings)
        if settings.behaviour == "replay":
            whole = int(learner.replay_buffer.dones[: learner.replay_buffer.size()].sum())
            episodes = min(settings.episodes, whole)
            writer = EpisodeWriter(out, *sizes, episodes)
            write_replay(learner, writer, episodes)
        else:
            writer = EpisodeWriter(out, *sizes, settings.episodes)
            shares = np.diff(np.linspace(0, settings.episodes, len(policies) + 1).round().astype(int))
            for index, (policy, share) in enumerate(zip(policies, shares, strict=True)):
                num_envs = min(NUM_ENVS, int(share))
                noise = np.resize(np.array(settings.noise), num_envs)
                acting = Perturbed(
                    lambda obs, p=policy: p.predict(obs, deterministic=True)[0], noise, settings, task.action_dim, rng
                )
                roll_out(task, acting, int(share), num_envs, seed + 10_000 * (index + 1), writer)
    writer.commit(settings.model_dump(mode="json"), seed)
    run.discard_state()


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
