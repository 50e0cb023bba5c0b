"""Stage `collect`: make a task's episodes, a mixture of behaviours (`pwm.config.CollectConfig`).

python -m pwm.collect --config config.yaml --out EPISODES_FOLDER
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pwm import config, envs
from pwm.behaviours import Perturbed, roll_out
from pwm.config import DataConfig
from pwm.data.episodes import EpisodeWriter
from pwm.envs.tasks import Task, get_task
from pwm.errors import UserError, exit_on_user_error
from pwm.evaluate import episode_seed, evaluate
from pwm.runs import Run

NUM_ENVS = 20  # stepped together while a finished policy fills the data set
SEED_STRIDE = 10_000  # between the episode seeds of one policy and the next

# A policy, or None for random actions, and how many episodes it acts in.
Share = tuple[Callable[[np.ndarray], np.ndarray] | None, int]


def collect(run: Run, out: Path) -> None:
    """Make the data set of `run.config` in the folder `out`: the replay first, then each policy's share.

    A killed learner goes on where it was; a kill while its finished policies act repeats only their acting.
    """
    task, settings = get_task(run.config.task), run.config.settings
    if settings.tdmpc2:
        raise UserError(f"{task.name}: its episodes are TD-MPC2's; run python -m pwm.data.tdmpc2_format import")
    mixture = settings.mixture
    shares: list[Share] = [(None, mixture.random)]
    if mixture.expert:
        shares.append((_expert(task), mixture.expert))
    replay, alone = [], []
    if mixture.replay or mixture.checkpoints:
        from pwm.learners import train_learner

        policies, replay = train_learner(run, mixture.replay)
        each = np.diff(np.linspace(0, mixture.checkpoints, len(policies) + 1).round().astype(int))
        shares += zip(policies, each.tolist(), strict=True)
        alone = [_mean_return(policy, run.config) for policy in policies if mixture.checkpoints]
    shares = [(policy, episodes) for policy, episodes in shares if episodes]
    total = len(replay) + sum(episodes for _, episodes in shares)
    writer = EpisodeWriter(out, task.name, task.observation_dim, task.action_dim, task.episode_length, total)
    for episode in replay:
        writer.add(*episode)
    if shares:
        _roll_out_shares(run.config, task, shares, writer)
    writer.commit(settings.model_dump(mode="json"), run.config.seed, alone)
    run.discard_state()


def _mean_return(policy: Callable[[np.ndarray], np.ndarray], data_config: DataConfig) -> float:
    """Of a learnt policy without noise and bursts: what a policy extracted from the data is measured against."""
    seed = episode_seed("final", data_config.seed)
    return float(evaluate(lambda obs, first: policy(obs), data_config.task, NUM_ENVS, seed).returns.mean())


def _expert(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    """The task's scripted policy.

    Raises:
        UserError: it has none.
    """
    if task.family != "metaworld":
        raise UserError(f"{task.name} has no scripted expert; set mixture.expert to 0")
    from pwm.envs.metaworld import scripted_expert

    return scripted_expert(task.name)


def _roll_out_shares(data_config: DataConfig, task: Task, shares: list[Share], writer: EpisodeWriter) -> None:
    """Append every policy's share of episodes, with noise and bursts."""
    settings, seed = data_config.settings, data_config.seed
    rng = np.random.default_rng(seed)
    env = envs.make(task.name, min(NUM_ENVS, sum(episodes for _, episodes in shares)), seed)
    noise = np.resize(np.array(settings.noise), env.num_envs)
    for index, (policy, episodes) in enumerate(shares, start=1):
        behaviour = Perturbed(policy, noise, settings, task.action_dim, rng)
        roll_out(env, behaviour, episodes, seed + SEED_STRIDE * index, writer)
    env.close()


@exit_on_user_error
def main() -> None:
    """The stage's command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.collect", description="Make a task's episodes.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    data_config = config.load(DataConfig, args.config)
    get_task(data_config.task)  # refused before anything is written
    collect(Run(args.out, data_config), args.out)


if __name__ == "__main__":
    main()
