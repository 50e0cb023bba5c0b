"""The online learners whose replay and checkpoints go into data sets.

A learner is a settings class in `pwm.config.CollectConfig.learner` and an entry of `LEARNERS`. It acts in a `Recorder`,
which keeps its episodes, and goes on where a killed run left it.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from pwm import envs
from pwm.behaviours import Episode, Recorder
from pwm.config import PWMLearner, SACLearner
from pwm.envs.tasks import get_task
from pwm.errors import UserError
from pwm.extract import Finetuner, latent_policy, make_trainer
from pwm.online import OnlineEnvironment, online_update
from pwm.pretrain import build_model, make_model_trainer, to_device
from pwm.runs import Run


class Learnt(NamedTuple):
    """What a learner leaves behind."""

    policies: list[Callable[[np.ndarray], np.ndarray]]  # its checkpoints, observations [N, O] → actions [N, A]
    replay: list[Episode]  # the last episodes it finished, oldest first


def learn_sac(run: Run, settings: SACLearner, keep: int) -> Learnt:
    """Train SAC on the run's task; its replay is at most `keep` episodes."""
    from pwm.envs.sb3 import SB3VecEnv
    from pwm.sb3 import learn, make_sac

    recorder = Recorder(envs.make(run.config.task, settings.num_envs, run.config.seed), keep)
    env = SB3VecEnv(recorder)
    learner = make_sac(settings, env, run)
    marks = _marks(settings.env_steps, settings.checkpoints)
    kept: dict[str, list[dict]] = {"weights": []}

    def keep_checkpoints(steps: int) -> None:
        while len(kept["weights"]) < len(marks) and steps >= marks[len(kept["weights"])]:
            kept["weights"].append(copy.deepcopy(learner.policy.state_dict()))

    learn(learner, env, run, settings.env_steps, keep_checkpoints, kept)
    env.close()
    policies = [copy.deepcopy(learner.policy) for _ in kept["weights"]]
    for policy, weights in zip(policies, kept["weights"], strict=True):
        policy.load_state_dict(weights)
    acts = [lambda obs, p=policy: p.predict(obs, deterministic=True)[0] for policy in policies]
    return Learnt(acts, [episode for _, episode in recorder.finished])


def learn_pwm(run: Run, settings: PWMLearner, keep: int) -> Learnt:
    """Train PWM online on the run's task: random steps, then the world model on them, then both (paper, section 2)."""
    task, online, seed = get_task(run.config.task), settings.policy.online, run.config.seed
    model = build_model(settings.model, (task.name,)).to(run.device)
    recorder = Recorder(envs.make(task.name, online.num_envs, seed), keep)
    world = OnlineEnvironment(recorder, online.replay_capacity, seed, model)
    trainer = make_trainer(settings.policy, model, run.device)
    pretrainer = make_model_trainer(model, settings.model, (task.name,))
    draw = lambda size: world.replay.sample(size, settings.model.horizon)  # noqa: E731
    tuner = Finetuner(model, settings.model, (task.name,), online, lambda: draw(online.model_batch_size))
    parts = {"trainer": trainer, "pretrainer": pretrainer, "tuner": tuner.trainer, "world": world}
    weights: list[dict] = []  # of the model and the actor at every checkpoint
    pretrained = 0
    if state := run.load_state():
        for name, part in parts.items():
            part.restore(state[name])
        weights, pretrained = state["weights"], state["pretrained"]
    else:
        _act_at_random(world, settings.random_steps, seed)

    def save() -> None:
        rest = {"weights": weights, "pretrained": pretrained}
        run.save_state(lambda: {name: part.state() for name, part in parts.items()} | rest)

    for update in run.progress(settings.model.updates, pretrained):
        batch = to_device(draw(settings.model.batch_size), run.device)
        pretrained = update + 1
        run.watch(pretrained, pretrainer.update(batch, update / settings.model.updates))
        save()
    marks = _marks(settings.policy.updates, settings.checkpoints)
    for update in run.progress(settings.policy.updates, trainer.updates):
        run.watch(update + 1, online_update(trainer, tuner, world))
        while len(weights) < len(marks) and update + 1 >= marks[len(weights)]:
            weights.append(copy.deepcopy({"model": model.state_dict(), "actor": trainer.actor.state_dict()}))
        save()
    run.check()
    recorder.close()
    policies = []
    for checkpoint in weights:
        encoder, actor = copy.deepcopy(model), copy.deepcopy(trainer.actor)
        encoder.load_state_dict(checkpoint["model"])
        actor.load_state_dict(checkpoint["actor"])
        policies.append(latent_policy(encoder, actor, 0, task.action_dim))
    acts = [lambda obs, p=policy: p(obs, np.zeros(len(obs), bool)) for policy in policies]
    return Learnt(acts, [episode for _, episode in recorder.finished])


def _act_at_random(world: OnlineEnvironment, decisions: int, seed: int) -> None:
    """Fill the replay, and scale rewards by what was seen."""
    rng = np.random.default_rng(seed)
    shape = world.env.action_space.shape
    while world.env_steps < decisions:
        world(torch.from_numpy(rng.uniform(-1.0, 1.0, shape).astype(np.float32)))
    world.scale_rewards()


def _marks(total: int, checkpoints: int) -> np.ndarray:
    """When checkpoints are kept: at equal distances, the last one at the end."""
    return np.linspace(0, total, checkpoints + 1)[1:].round()


# Deviation D5: data of one learner of our own; the paper's come from the replays of hundreds of TD-MPC2 agents.
LEARNERS: dict[str, Callable[[Run, SACLearner | PWMLearner, int], Learnt]] = {"sac": learn_sac, "pwm": learn_pwm}


def train_learner(run: Run, keep: int) -> Learnt:
    """Train the learner of a data set's config (`DataConfig`).

    Raises:
        UserError: episodes are to be kept and it finished none.
    """
    settings = run.config.settings.learner
    learnt = LEARNERS[settings.algorithm](run, settings, keep)
    if keep and not learnt.replay:
        steps = "learner.env_steps" if settings.algorithm == "sac" else "learner.policy.updates"
        raise UserError(f"{run.config.task}: the learner ended no episode for the replay; raise {steps}")
    return learnt
