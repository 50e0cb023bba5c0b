"""stable-baselines3's learners made resumable: what collection by SAC and the baselines PPO and SAC share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from pwm.algorithms import Policy
from pwm.config import SACSettings
from pwm.envs.sb3 import SB3VecEnv
from pwm.evaluate import curve_point
from pwm.runs import EXPLODED, Run

BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def learner_state(learner: BaseAlgorithm, env: SB3VecEnv) -> dict[str, Any]:
    """Everything a learner needs to go on exactly between two rollouts, as tensors and plain data (no pickles)."""
    names, variables = learner._get_torch_save_params()
    state = {
        "modules": {name: _attribute(learner, name).state_dict() for name in names},
        "variables": {name: getattr(learner, name).detach() for name in variables},
        "num_timesteps": learner.num_timesteps,
        "n_updates": learner._n_updates,
        "last_obs": torch.from_numpy(learner._last_obs.copy()),
        "episode_starts": torch.from_numpy(learner._last_episode_starts.copy()),
        "env": {name: torch.from_numpy(value) for name, value in env.env.state().items()},
        "action_rng": learner.action_space.np_random.bit_generator.state,
    }
    normaliser = learner.get_vec_normalize_env()
    if normaliser is not None:
        moments = {name: getattr(normaliser, name) for name in ("obs_rms", "ret_rms")}
        state["moments"] = {n: [torch.as_tensor(m.mean), torch.as_tensor(m.var), m.count] for n, m in moments.items()}
        state["discounted_returns"] = torch.from_numpy(normaliser.returns.copy())
    buffer = getattr(learner, "replay_buffer", None)
    if buffer is not None:
        filled = buffer.size()
        state["buffer"] = {name: torch.from_numpy(getattr(buffer, name)[:filled].copy()) for name in BUFFER_ARRAYS}
        state["buffer_position"] = (buffer.pos, buffer.full)
    return state


def restore_learner(learner: BaseAlgorithm, env: SB3VecEnv, state: dict[str, Any]) -> None:
    """Go on from `learner_state` in a learner built the same way."""
    for name, values in state["modules"].items():
        _attribute(learner, name).load_state_dict(values)
    for name, value in state["variables"].items():
        getattr(learner, name).data.copy_(value)
    learner.num_timesteps, learner._n_updates = state["num_timesteps"], state["n_updates"]
    learner._last_obs = state["last_obs"].cpu().numpy()
    learner._last_episode_starts = state["episode_starts"].cpu().numpy()
    env.env.restore({name: value.cpu().numpy() for name, value in state["env"].items()})
    learner.action_space.np_random.bit_generator.state = state["action_rng"]
    if "moments" in state:
        normaliser = learner.get_vec_normalize_env()
        for name, (mean, var, count) in state["moments"].items():
            moments = getattr(normaliser, name)
            moments.mean, moments.var, moments.count = mean.cpu().numpy(), var.cpu().numpy(), count
        normaliser.returns = state["discounted_returns"].cpu().numpy()
    if "buffer" in state:
        buffer: ReplayBuffer = learner.replay_buffer
        for name, values in state["buffer"].items():
            getattr(buffer, name)[: len(values)] = values.cpu().numpy()
        buffer.pos, buffer.full = state["buffer_position"]


def check_weights(learner: BaseAlgorithm, run: Run) -> None:
    """Look through a learner's weights; its losses are not logged.

    Raises:
        FloatingPointError: one is not finite or exploded.
    """
    if not all((weight.abs() < EXPLODED).all() for weight in learner.policy.parameters()):
        where = f"step {learner.num_timesteps}: the policy's weights are beyond all measure"
        raise FloatingPointError(f"{where}: training diverged; the last good state is in {run.state_folder}")


def learn(
    learner: BaseAlgorithm, env: SB3VecEnv, run: Run, steps: int, between: Callable[[int], None], extra: dict
) -> None:
    """Train for `steps` environment steps in all, going on from the run's state if there is one.

    Args:
        learner: freshly built, seeded.
        env: the environment it was built with.
        run: keeps the state.
        steps: decisions, counted over all environments.
        between: called with the decisions so far before every rollout; may log, evaluate or keep checkpoints.
        extra: saved and restored with the learner, updated in place; what `between` remembers belongs in it.
    """
    state = run.load_state()
    if state:
        restore_learner(learner, env, state["learner"])
        extra.update(state["extra"])
    bar = run.bar(steps, learner.num_timesteps, "step")

    def state_of_learner() -> dict[str, Any]:
        check_weights(learner, run)
        return {"learner": learner_state(learner, env), "extra": extra}

    class BetweenRollouts(BaseCallback):
        """Saves and reports where the learner is in a consistent state."""

        def _on_rollout_start(self) -> None:
            bar.update(learner.num_timesteps - bar.n)
            between(learner.num_timesteps)
            run.save_state(state_of_learner)

        def _on_step(self) -> bool:
            return True

    with bar:
        remaining = steps - learner.num_timesteps
        try:
            if remaining > 0:
                learner.learn(remaining, callback=BetweenRollouts(), reset_num_timesteps=state is None)
        except ValueError:  # of torch's distributions, about their parameters
            check_weights(learner, run)
            raise
        bar.update(learner.num_timesteps - bar.n)
    check_weights(learner, run)
    between(learner.num_timesteps)


def make_sac(settings: SACSettings, env: SB3VecEnv, run: Run) -> SAC:
    """Soft actor-critic on `env`, seeded by the run, with a replay of all its steps."""
    return SAC(
        "MlpPolicy",
        env,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        buffer_size=settings.env_steps,
        learning_starts=settings.random_steps,
        gradient_steps=max(round(settings.num_envs * settings.updates_per_step), 1),
        policy_kwargs={"net_arch": list(settings.units)},
        seed=run.config.seed,
        device=run.device,
    )


def train_baseline(
    learner: BaseAlgorithm,
    env: SB3VecEnv,
    run: Run,
    steps: int,
    export: Callable[[], dict[str, torch.Tensor]],
    make_policy: Callable[[dict[str, torch.Tensor]], Policy],
) -> None:
    """Train as `learn` does, with the points of the learning curve on the way, and finish the run.

    Args:
        learner, env, run, steps: of `learn`.
        export: the tensors of the learner's deterministic policy.
        make_policy: that policy from its tensors.
    """
    points, progress = run.config.evaluation.curve_points, {"points": -1}

    def evaluate_when_due(done: int) -> None:
        due = min(done, steps) * points // steps
        if due > progress["points"]:
            progress["points"] = due
            with torch.random.fork_rng(devices=[]):  # a new network draws its first weights
                policy = make_policy(export())
            curve_point(run, policy, done, learner._n_updates)

    learn(learner, env, run, steps, evaluate_when_due, progress)
    run.finish(Path("policy"), export(), task=run.config.task)
    env.close()


def _attribute(learner: BaseAlgorithm, dotted: str) -> Any:
    value: Any = learner
    for name in dotted.split("."):
        value = getattr(value, name)
    return value
