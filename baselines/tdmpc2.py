"""TD-MPC2: planning in a world model that has Q-functions and a policy prior (Hansen et al. 2024; paper, section 3).

Online, the model learns one task from what planning in it does. With a `world_model` setting nothing is learnt: the run
scores planning, or the policy prior alone, in the very pre-trained model that PWM extracts its policies from. Numbers
in the comments: 1 to 9, details of the TD-MPC2 paper (its appendix on hyper-parameters) and of its public code.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from pwm import config
from pwm.algorithms import Policy
from pwm.config import Config, Positive, Precision, PretrainConfig, Rate, RunConfig, WorldModelConfig
from pwm.envs.tasks import SUITES as ALL_SUITES
from pwm.envs.tasks import get_task
from pwm.errors import UserError

if TYPE_CHECKING:
    from pwm.matrix import Matrix, RunId
    from pwm.nn.world_model import WorldModel
    from pwm.online import OnlineEnvironment
    from pwm.planning import PriorActor
    from pwm.runs import Run

SUITES = tuple(ALL_SUITES)


class Planning(Config):
    """The search for an action. 1. Sizes of the paper; two more iterations for actions of 20 dimensions or more."""

    iterations: Positive = 6
    samples: Positive = 512
    elites: Positive = 64
    prior_samples: Positive = 24

    @model_validator(mode="after")
    def _check(self) -> "Planning":
        if max(self.elites, self.prior_samples) > self.samples:
            raise ValueError(f"elites and prior_samples must not exceed samples, {self.samples}")
        return self


class Settings(Config):
    """Hyper-parameters. Online alone: all from `network` on; those that `PretrainConfig` has, too, mean the same."""

    world_model: str | None = None  # which of the suite's; none: the run learns its own online
    planning: Planning | None = Planning()  # none: the policy prior acts
    horizon: Positive = 3  # of plans, and of the windows that the model learns from
    precision: Precision = "float32"
    compile: bool = False  # as for the world model, and of the search, too
    network: WorldModelConfig = WorldModelConfig(size="5")
    env_steps: Positive = 1_000_000  # decisions, over all environments
    num_envs: Positive = 1
    together: bool = False  # one job learns all of the scale's runs that say so, which keeps a GPU busy
    seed_steps: Positive | None = None  # random decisions before the first update; none: 5 episodes, at least 1000
    replay_capacity: Positive = 1_000_000
    batch_size: Positive = 256
    learning_rate: Rate = 3e-4
    encoder_lr_scale: Rate = 0.3  # 2. the encoder learns more slowly
    rho: Annotated[float, Field(gt=0, le=1)] = 0.5  # 3. weights of steps and terms; the value's is 0.1 everywhere
    consistency_coef: Rate = 20.0
    reward_coef: Rate = 0.1

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if not self.network.num_q:
            raise ValueError("network has no Q-functions; give it a num_q of at least 2")
        if self.network.standardise_obs:
            raise ValueError("network.standardise_obs needs a data set, which online training does not have")
        return self


def train(run: "Run") -> None:
    """Learn online; `updates` counts updates of the model, one a decision. Or score a pre-trained model: one point."""
    settings = config.validate(Settings, run.config.settings, "settings")
    (_learn if settings.world_model is None else _score)(run, settings)


def train_together(runs: "Sequence[Run]") -> None:
    """Learn several runs online in one process.

    Raises:
        UserError: as `check_together`.
    """
    from pwm.together import Together, learn

    check_together([run.config for run in runs])
    settings = config.validate(Settings, runs[0].config.settings, "settings")
    random_steps, search = random_decisions(runs[0], settings), settings.planning.model_dump()
    together = Together(runs, learning_config(settings), search, settings.num_envs, settings.replay_capacity)
    learn(together, settings.env_steps, random_steps)


def check_together(configs: Sequence[RunConfig]) -> None:
    """Refuse runs that one process cannot learn together.

    Raises:
        UserError: they are no online runs that plan, or their settings or the lengths of their episodes differ.
    """
    first, *others = configs
    for other in others:
        lengths = {get_task(one.task).episode_length for one in (first, other)}
        if other.settings != first.settings or len(lengths) > 1:
            what = "settings" if len(lengths) == 1 else "lengths of their episodes"
            raise UserError(f"{other.task} and {first.task}: the {what} differ; train them without together")
    settings = config.validate(Settings, first.settings, "settings")
    if settings.world_model is not None or settings.planning is None:
        raise UserError(f"{first.task}: only online runs that plan are trained together; set together to false")


def runs_together(matrix: "Matrix") -> list["RunId"]:
    """The runs of a scale whose settings say `together`; raises as `check_together`."""
    configs = {run: matrix.resolved(run) for run in matrix.runs() if run.algorithm == "tdmpc2"}
    together = [run for run, one in configs.items() if one.settings["together"]]
    if together:
        check_together([configs[run] for run in together])
    return together


def load_policy(folder: Path) -> Policy:
    """The policy of a finished run, without exploration; it repeats, since what planning draws is seeded by the run.

    Raises:
        UserError: a checkpoint is missing or damaged, or the pre-trained world model is another one than was scored.
    """
    from pwm.evaluate import load_trained
    from pwm.extract import fingerprint
    from pwm.pretrain import build_model, index_of, load_model
    from pwm.runs import default_device

    tensors, saved, run_config, settings = load_trained(folder, Settings)
    if settings.world_model is None:
        model = build_model(learning_config(settings), (run_config.task,))
        model.load_state_dict(tensors)
        return _policy(model.to(default_device()).eval(), 0, run_config, settings)
    source = folder / saved["world_model"]["folder"]
    model, model_config = load_model(source)
    if fingerprint(model) != saved["world_model"]["hash"]:
        raise UserError(f"{source}: not the world model that {folder.parent} was made with; run its rule again")
    return _policy(model, index_of(run_config.task, model_config, source), run_config, settings)


def learning_config(settings: Settings) -> PretrainConfig:
    """The model's training, as that of a pre-trained one. 4. Gradients clipped to 20, targets follow at 0.01, entropy
    weighs 1e-4, 5 Q-functions with dropout 0.01 over 101 bins: defaults of `PretrainConfig` and `WorldModelConfig`.
    """
    shared = ("batch_size", "horizon", "learning_rate", "encoder_lr_scale", "rho", "consistency_coef", "reward_coef")
    same = {name: getattr(settings, name) for name in (*shared, "precision", "compile")}
    return PretrainConfig(world_model=settings.network, final_lr=settings.learning_rate, **same)


def _actor(model: "WorldModel", run_config: RunConfig, settings: Settings) -> "PriorActor":
    """Planning, or the policy prior alone; with a generator of its own, so that an evaluation changes no training."""
    from pwm.model_learning import discount_factor
    from pwm.planning import Planner, PriorActor

    common = {"precision": settings.precision, "seed": run_config.seed}
    if settings.planning is None:
        return PriorActor(model, **common)
    discount = discount_factor(get_task(run_config.task).episode_length)  # 5. it follows the episode's length
    search = settings.planning.model_dump()
    return Planner(model, discount, settings.horizon, **search, **common, compile=settings.compile)


def _policy(model: "WorldModel", index: int, run_config: RunConfig, settings: Settings) -> Policy:
    """The policy of the model's task `index`. 6. In evaluation an elite is drawn by its weight, and no noise added."""
    import torch

    from pwm.extract import pad

    actor, action_dim = _actor(model, run_config, settings), get_task(run_config.task).action_dim

    @torch.no_grad()
    def policy(obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        padded, task = pad(model, obs, index)
        z, begins = model.encode(padded, task), torch.from_numpy(first).to(padded.device)
        return actor(z, task, begins)[:, :action_dim].cpu().numpy()

    return policy


def _score(run: "Run", settings: Settings) -> None:
    """One point of the learning curve; the checkpoint names the world model, which is large and stays where it is."""
    import torch

    from pwm.evaluate import curve_point
    from pwm.extract import fingerprint
    from pwm.pretrain import index_of, load_model

    if run.model is None:
        raise UserError(f"settings name the world model '{settings.world_model}'; give its folder with --model")
    model, model_config = load_model(run.model)
    index = index_of(run.config.task, model_config, run.model)
    if not model.config.num_q:
        raise UserError(f"{run.model}: the world model has no Q-functions; pre-train one with a num_q of at least 2")
    curve_point(run, _policy(model, index, run.config, settings), env_steps=0, updates=0)
    source = {"folder": os.path.relpath(run.model, run.out / "policy"), "hash": fingerprint(model)}
    run.finish(Path("policy"), {"none": torch.zeros(1)}, {"world_model": source}, task=run.config.task)


def _learn(run: "Run", settings: Settings) -> None:
    """Act and learn in turn."""
    from pwm import envs
    from pwm.evaluate import curve_point, curve_updates, episode_seed
    from pwm.online import OnlineEnvironment
    from pwm.pretrain import build_model, make_model_trainer, to_device

    task, random_steps = get_task(run.config.task), random_decisions(run, settings)
    objective = learning_config(settings)
    model = build_model(objective, (task.name,)).to(run.device).eval()
    trainer = make_model_trainer(model, objective, (task.name,))
    seed = episode_seed("training", run.config.seed)
    env = envs.make(task.name, settings.num_envs, seed)
    # Deviation D20: transitions can be drawn at once, and all windows are equally likely; TD-MPC2 stores episodes when
    # they end, and draws the episode first.
    world = OnlineEnvironment(env, settings.replay_capacity, seed, model)
    player = _Player(world, _actor(model, run.config, settings), random_steps)
    parts, done = {"trainer": trainer, "world": world, "player": player}, 0

    def point(**metrics: Any) -> None:
        curve_point(run, _policy(model, 0, run.config, settings), world.env_steps, done, **metrics)

    if state := run.load_state():
        for name, part in parts.items():
            part.restore(state[name])
        done = state["updates"]
    else:
        point()
    points = curve_updates(settings.env_steps, run.config.evaluation.curve_points)
    for update in run.progress(settings.env_steps, done):
        # 8. An update a decision; as many as there were random decisions come at once, before the model first acts.
        while world.env_steps < max(random_steps, update + 1):
            player.step()
        # Deviation D21: a termination ends the value's target, but plans do not foresee it: no head learns to predict
        # it, as in TD-MPC2's later code.
        batch = to_device(world.replay.sample(settings.batch_size, settings.horizon), run.device)
        metrics, done = trainer.update(batch, 0.0), update + 1
        run.watch(done, metrics)
        if done in points:
            point(**metrics)
        run.save_state(lambda: {name: part.state() for name, part in parts.items()} | {"updates": done})  # noqa: B023
    run.finish(Path("policy"), model.state_dict(), task=task.name)
    env.close()


def random_decisions(run: "Run", settings: Settings) -> int:
    """7. Uniformly random decisions that begin the replay: 5 episodes, at least 1000.

    Raises:
        UserError: they fill no window, or are more than the run has.
    """
    steps = settings.seed_steps or max(1000, 5 * get_task(run.config.task).episode_length)
    least = settings.num_envs * settings.horizon
    if not least <= steps <= settings.env_steps:
        raise UserError(f"settings: seed_steps is {steps}, env_steps {settings.env_steps}; give {least} to env_steps")
    return steps


class _Player:
    """Takes the decisions of training: random ones first, then the actor's with its noise."""

    def __init__(self, world: "OnlineEnvironment", actor: "PriorActor", random_steps: int) -> None:
        import torch

        self.world, self.actor, self.random_steps = world, actor, random_steps
        self.first = torch.ones_like(world.task, dtype=torch.bool)  # where an episode begins [B]

    def step(self) -> None:
        """One decision in every environment."""
        import torch

        world = self.world
        if world.env_steps < self.random_steps:
            action = 2.0 * torch.rand(world.env.action_space.shape) - 1.0
        else:
            action = self.actor(world.encode(), world.task, self.first, explore=True)  # 9. plans on the newest model
        self.first = world(action)[0].bool()

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly, but for the environments."""
        return {"actor": self.actor.state(), "first": self.first}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.actor.restore(state["actor"])
        self.first = state["first"]
