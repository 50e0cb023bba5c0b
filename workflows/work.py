"""The jobs of a scale and what each has to do, from resolved configs alone: nothing is started, torch not imported.

Work is counted in units whose time a machine's finished jobs tell (`workflows.rates`):

    GFLOP                        matrix products of updates and of planning, forward and backward, by their shapes
    GFLOP of KIND, VERSION       those of model and policy updates and of searches, for which a GPU has times of its
                                 own; on a core (`on_core`) they are GFLOP as well
    model update, policy update,
    SAC update, PPO update       what an update costs beside its products
    search                       one of planning, for all environments of a job; nothing on a core but its products
    call                         one step of all environments of a job, with the policy's actions
    decision SIMULATOR           of one environment, by body or family of tasks
    gradient decision BODY       the same, with the simulator's gradients
    job, job of RULE             start and end of a process; the second where a rule does nothing else worth counting

Episodes count at full length. A policy's own products in acting are part of the call.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pwm import algorithms, config
from pwm.config import (
    CollectConfig,
    Config,
    ExtractConfig,
    ModelConfig,
    PretrainConfig,
    PWMLearner,
    RunConfig,
    SACSettings,
    WorldModelConfig,
)
from pwm.data.tdmpc2_files import OFFICIAL, official_set
from pwm.envs.tasks import get_task

Work = Counter[str]  # unit: how many of it
# By folder or file below results/<scale>: data/<task>, models/<path>, runs/<path>, gradients/<measurement>.
Configs = Mapping[str, Config]
GIGA = 1e9
PRODUCTS = "GFLOP of "
FORWARD, INPUT_GRADIENT, BACKWARD = 2, 2, 4  # FLOPs per multiply–add; backward: of weights and input
EPISODES_TOGETHER = 20  # environments in which the policies of a data set act (`pwm.collect.NUM_ENVS`)
WIDE_ACTION, MORE_ITERATIONS = 20, 2  # of planning (`pwm.planning`)


def products(kind: str, count: float, flops: float, settings: Any) -> Work:
    """`count` updates or searches with products of so many FLOPs each, in the precision and way of `settings`."""
    version = settings.precision + ", compiled" * settings.compile
    return Work({kind: count, f"{PRODUCTS}{kind}, {version}": count * flops / GIGA})


def on_core(work: Work) -> Work:
    """The same in units that a core's rates are of."""
    total = Work()
    for unit, amount in work.items():
        if unit != "search":
            total["GFLOP" if unit.startswith(PRODUCTS) else unit] += amount
    return total


def dense(*widths: int) -> int:
    """Multiply–adds of one row through an MLP of these widths: its weights, but for biases."""
    return sum(a * b for a, b in itertools.pairwise(widths))


@dataclass(frozen=True)
class Networks:
    """Multiply–adds of a row through each part of a world model (`pwm.nn.world_model.WorldModel`)."""

    encoder: int
    dynamics: int
    reward: int
    prior: int
    q: int  # one Q-function
    num_q: int

    @classmethod
    def of(cls, model: WorldModelConfig, tasks: tuple[str, ...]) -> "Networks":
        """Of a model of these tasks."""
        obs = max(get_task(task).observation_dim for task in tasks)
        action = max(get_task(task).action_dim for task in tasks)
        embedding, bins = (model.task_dim if len(tasks) > 1 else 0), max(model.reward_bins, 1)
        joint = model.latent_dim + embedding + action
        return cls(
            encoder=dense(obs + embedding, *model.encoder, model.latent_dim),
            dynamics=dense(joint, *model.units, model.latent_dim),
            reward=dense(joint, *model.units, bins),
            prior=dense(model.latent_dim + embedding, *model.units, 2 * action) if model.num_q else 0,
            q=dense(joint, *model.units, bins) if model.num_q else 0,
            num_q=model.num_q,
        )

    @property
    def weights(self) -> int:
        """Of the whole model, target Q-functions included."""
        return self.encoder + self.dynamics + self.reward + self.prior + 2 * self.num_q * self.q

    def update(self, batch: int, horizon: int, with_value: bool) -> float:
        """FLOPs of an update on windows (`pwm.model_learning.ModelTrainer.update`)."""
        rows, learnt = batch * horizon, FORWARD + BACKWARD
        flops = FORWARD * self.encoder * rows + learnt * self.encoder * batch
        flops += learnt * (self.dynamics + self.reward) * rows
        if with_value:
            flops += FORWARD * (self.prior + 2 * self.q) * rows + learnt * self.num_q * self.q * rows
            prior_rows = rows + batch
            flops += (learnt * self.prior + (FORWARD + INPUT_GRADIENT) * 2 * self.q) * prior_rows
        return flops

    def plan(self, planning: Mapping[str, int], horizon: int, action_dim: int) -> float:
        """FLOPs of one planned decision (`pwm.planning.Planner`)."""
        iterations = planning["iterations"] + MORE_ITERATIONS * (action_dim >= WIDE_ACTION)
        sequence = horizon * (self.reward + self.dynamics) + self.prior + 2 * self.q
        proposal = horizon * self.prior + (horizon - 1) * self.dynamics
        return FORWARD * (
            self.encoder + iterations * planning["samples"] * sequence + planning["prior_samples"] * proposal
        )


def simulator(task: str) -> str:
    """What simulates a task, for the cost of a decision: the locomotion body, else the family."""
    known = get_task(task)
    return known.body or known.family


def acting(task: str, decisions: float, num_envs: int, kind: str = "decision") -> Work:
    """So many decisions, taken `num_envs` at a time."""
    return Work({"call": decisions / num_envs, f"{kind} {simulator(task)}": decisions})


def episodes(task: str, count: int, num_envs: int) -> Work:
    """Whole episodes."""
    length = get_task(task).episode_length
    return acting(task, count * length, min(count, num_envs))


def scaled(work: Work, factor: float) -> Work:
    """So many times the work."""
    return Work({unit: factor * amount for unit, amount in work.items()})


def collected(settings: CollectConfig, task: str) -> Work:
    """Of a data set that is made here."""
    mixture, learner = settings.mixture, settings.learner
    acted = mixture.random + mixture.expert + mixture.checkpoints
    work = episodes(task, acted, EPISODES_TOGETHER) if acted else Work()
    if mixture.replay or mixture.checkpoints:
        work += sac(learner, task) if learner.algorithm == "sac" else pwm_learner(learner, task)
        if mixture.checkpoints:  # each of them once more by itself
            work += scaled(episodes(task, EPISODES_TOGETHER, EPISODES_TOGETHER), learner.checkpoints)
    return work


def pwm_learner(learner: PWMLearner, task: str) -> Work:
    """Of PWM online as a data set's learner."""
    work = acting(task, learner.random_steps, learner.policy.online.num_envs) + pretraining(learner.model, (task,))
    return work + extraction(learner.policy, learner.model, (task,), task)


def pretraining(settings: PretrainConfig, tasks: tuple[str, ...]) -> Work:
    """Of a world model."""
    networks = Networks.of(settings.world_model, tasks)
    flops = networks.update(settings.batch_size, settings.horizon, networks.num_q > 0)
    return products("model update", settings.updates, flops, settings)


def extraction(settings: ExtractConfig, model: PretrainConfig, tasks: tuple[str, ...], task: str) -> Work:
    """Of PWM's policy updates, with those of the world model beside them (`pwm.agent`, `pwm.extract`, `pwm.online`)."""
    networks, own = Networks.of(model.world_model, tasks), settings.finetune or settings.online
    action = max(get_task(name).action_dim for name in tasks)
    actor = dense(model.world_model.latent_dim, *settings.actor_units, action)
    critic = settings.critics * dense(model.world_model.latent_dim, *settings.critic_units, 1)
    online = settings.online
    batch = online.num_envs if online else settings.batch_size
    rows, learnt, through = batch * settings.horizon, FORWARD + BACKWARD, FORWARD + INPUT_GRADIENT
    flops = learnt * actor * rows + through * (networks.dynamics + networks.reward) * rows
    # Without episodes' ends only the last value carries a gradient.
    flops += through * critic * rows if online else FORWARD * critic * rows + INPUT_GRADIENT * critic * batch
    flops += settings.critic_passes * learnt * critic * rows
    flops += FORWARD * networks.encoder * (rows + batch if online else batch)
    work = products("policy update", settings.updates, flops, settings)
    if own:
        flops = networks.update(own.model_batch_size, model.horizon, with_value=False)
        work += products("model update", settings.updates * own.model_updates, flops, model)
    return work + (acting(task, settings.updates * rows, batch) if online else Work())


def sac(settings: SACSettings, task: str) -> Work:
    """Of stable-baselines3's SAC: two critics, an actor."""
    known, updates = get_task(task), max(settings.env_steps - settings.random_steps, 0) * settings.updates_per_step
    actor = dense(known.observation_dim, *settings.units, 2 * known.action_dim)
    critics = 2 * dense(known.observation_dim + known.action_dim, *settings.units, 1)
    learnt = FORWARD + BACKWARD
    flops = (FORWARD + learnt) * actor + (FORWARD + learnt + FORWARD + INPUT_GRADIENT) * critics
    work = Work({"SAC update": updates, "GFLOP": updates * settings.batch_size * flops / GIGA})
    return work + acting(task, settings.env_steps, settings.num_envs)


def ppo(settings: Any, task: str) -> Work:
    """Of stable-baselines3's PPO: actor and critic of the same widths."""
    known, samples = get_task(task), settings.env_steps * settings.n_epochs
    networks = dense(known.observation_dim, *settings.units, known.action_dim)
    networks += dense(known.observation_dim, *settings.units, 1)
    flops = (FORWARD + BACKWARD) * networks * samples
    work = Work({"PPO update": samples / settings.batch_size, "GFLOP": flops / GIGA})
    return work + acting(task, settings.env_steps, settings.num_envs)


def shac(settings: Any, task: str) -> Work:
    """Of SHAC (`baselines.shac`)."""
    known, rows = get_task(task), settings.epochs * settings.horizon * settings.num_envs
    actor = dense(known.observation_dim, *settings.actor_units, known.action_dim)
    critic = settings.critics * dense(known.observation_dim, *settings.critic_units, 1)
    learnt, through = FORWARD + BACKWARD, FORWARD + INPUT_GRADIENT
    flops = (through * actor + learnt * actor + through * critic + settings.critic_passes * learnt * critic) * rows
    work = Work({"policy update": settings.epochs, "GFLOP": flops / GIGA})
    return work + acting(task, rows, settings.num_envs, "gradient decision")


def tdmpc2(settings: Any, task: str) -> Work:
    """Of TD-MPC2 that learns online; nothing is learnt in a pre-trained world model."""
    if settings.world_model is not None:
        return Work()
    networks = Networks.of(settings.network, (task,))
    flops = networks.update(settings.batch_size, settings.horizon, with_value=True)
    return (
        products("model update", settings.env_steps, flops, settings)
        + acting(task, settings.env_steps, settings.num_envs)
        + planned(settings, networks, task, settings.env_steps, settings.num_envs)
    )


def planned(settings: Any, networks: Networks, task: str, decisions: float, num_envs: int) -> Work:
    """What TD-MPC2's decisions, `num_envs` at a time, cost beside the environment's part."""
    if settings.planning is None:
        return Work()
    flops = num_envs * networks.plan(settings.planning.model_dump(), settings.horizon, get_task(task).action_dim)
    return products("search", decisions / num_envs, flops, settings)


BASELINES: dict[str, Callable[[Any, str], Work]] = {"ppo": ppo, "sac": sac, "shac": shac, "tdmpc2": tdmpc2}


def training(run: RunConfig, model: ModelConfig | None) -> Work:
    """Of a run, the points of its learning curve included; a baseline that is not known here is counted in jobs."""
    settings = config.validate(algorithms.settings_class(run.algorithm), run.settings, "settings")
    if run.algorithm == "pwm":
        work = extraction(settings, model.settings, model.tasks, run.task)
    elif run.algorithm in BASELINES:
        work = BASELINES[run.algorithm](settings, run.task)
    else:
        work = Work({f"job of {run.algorithm}": 1})
    points = run.evaluation.curve_points + 1 if "GFLOP" in on_core(work) else 1
    return work + scaled(evaluation(run, model, run.evaluation.curve_episodes), points)


def evaluation(run: RunConfig, model: ModelConfig | None, count: int) -> Work:
    """Of `count` episodes of a run's policy, which plans them where it is TD-MPC2's."""
    work = episodes(run.task, count, count)
    if run.algorithm == "tdmpc2":
        settings = config.validate(algorithms.settings_class("tdmpc2"), run.settings, "settings")
        network, tasks = (model.settings.world_model, model.tasks) if model else (settings.network, (run.task,))
        decisions = count * get_task(run.task).episode_length
        work += planned(settings, Networks.of(network, tasks), run.task, decisions, count)
    return work


def model_of(run: RunConfig, configs: Configs) -> ModelConfig | None:
    """The world model that a run starts from, if any; its seeds differ in nothing that counts here."""
    if (variant := run.settings.get("world_model")) is None:
        return None
    own = f"models/{run.suite}/{variant}/{run.task}/seed0"
    return configs[own if own in configs else f"models/{run.suite}/{variant}/all/seed0"]


def runs_together(configs: Configs) -> list[str]:
    """The runs whose models learn in the job `tdmpc2_together`, by their places."""
    runs = {name: one.settings for name, one in configs.items() if name.startswith("runs/")}
    return [name for name, settings in runs.items() if settings.get("together")]


def stacked(runs: Sequence[Work]) -> Work:
    """Of the job in which they learn together: every update and every search is one for all of them."""
    total = sum(runs, Work())
    for kind in ("model update", "search"):
        total[kind] /= len(runs)
    return total


def of_job(name: str, configs: Configs, final_episodes: int) -> Work:
    """The work of a job.

    Args:
        name: its benchmark file below results/<scale>/benchmarks, without suffix: the rule, then the wildcards.
        configs: of the scale.
        final_episodes: of a run's evaluation.
    """
    rule, *path = name.split("/")
    work = Work({"job": 1})
    match rule:
        case "collect":
            return work + collected(configs[f"data/{path[0]}"].settings, path[0])
        case "import":
            tasks = [key.removeprefix("data/") for key in configs if key.startswith("data/")]
            official = [
                task for task in tasks if official_set(task) == path[0] and configs[f"data/{task}"].settings.tdmpc2
            ]
            return work + Work({"imported episode": OFFICIAL[path[0]].episodes * len(official)})
        case "pretrain":
            model = configs[f"models/{'/'.join(path)}"]
            return work + pretraining(model.settings, model.tasks)
        case "evaluate":
            run = configs[f"runs/{'/'.join(path)}"]
            return work + evaluation(run, model_of(run, configs), final_episodes)
        case "ball_wall" | "gradients":
            own = configs[f"gradients/{'gradient_quality' if rule == 'gradients' else rule}"]
            return work + Work({f"{rule} update": own.seeds * own.updates})
        case "tdmpc2_together":
            return work + stacked([training(configs[name], None) for name in runs_together(configs)])
        case "collate" | "plot" | "tabulate" | "film_strip":
            return Work({f"job of {rule}": 1})
    algorithm = "pwm" if rule == "extract" else rule
    suite, task, variant, seed = path
    run = configs[f"runs/{suite}/{task}/{algorithm}/{variant}/{seed}"]
    return work + training(run, model_of(run, configs))
