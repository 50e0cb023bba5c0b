"""Every setting of the project: frozen, validated dataclasses that hold the only defaults.

The defaults are the paper's (section 2). A scale's YAML file says only what it changes.
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pwm.errors import UserError
from pwm.yaml_files import read_yaml

Count = Annotated[int, Field(ge=0)]
MOST_SEEDS = 1000  # `pwm.evaluate.episode_seed` keeps that many runs apart
Seed = Annotated[int, Field(ge=0, lt=MOST_SEEDS)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# Of the matrix products: bfloat16 is faster where the hardware has it; weights and all else stay float32.
Precision = Literal["float32", "bfloat16"]
Units = Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]

# Widths of the world model by size: millions of parameters as TD-MPC2 counts them, with its Q-functions (not their
# targets), policy prior and task embeddings. "19" is TD-MPC2's; PWM and the MT30 checkpoint of that size take z of 512.
# "single" is PWM's single-task model of 1.5M, which has none of the three.
MODEL_SIZES: dict[str, dict[str, Any]] = {
    "single": {"encoder": (256,), "units": (512, 512), "latent_dim": 512, "reward_bins": 0, "num_q": 0},
    "1": {"encoder": (256,), "units": (384, 384), "latent_dim": 128, "reward_bins": 101, "num_q": 2},
    "5": {"encoder": (256,), "units": (512, 512), "latent_dim": 512, "reward_bins": 101, "num_q": 5},
    "19": {"encoder": (1024,) * 2, "units": (1024, 1024), "latent_dim": 768, "reward_bins": 101, "num_q": 5},
    "48": {"encoder": (1792,) * 3, "units": (1792, 1792), "latent_dim": 768, "reward_bins": 101, "num_q": 5},
    "317": {"encoder": (4096,) * 4, "units": (4096, 4096), "latent_dim": 1376, "reward_bins": 101, "num_q": 8},
}


class Config(BaseModel):
    """Base of all settings: immutable; unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class WorldModelConfig(Config):
    """Architecture of the world model. `size` fills the widths from `MODEL_SIZES`; a width given beside it wins.

    The paper's ablation (C6) is `latent` and `layer_norm`: simnorm; none; spectral; linear with layer_norm: false,
    which is a plain MLP; each with either activation.
    """

    size: Literal["single", "1", "5", "19", "48", "317"] = "single"
    encoder: Units
    units: Units
    latent_dim: Positive
    reward_bins: Count  # 0: a scalar reward head. The Q-functions have as many
    reward_low: float = -10.0
    reward_high: float = 10.0
    # Last layer of encoder and dynamics: Linear + LayerNorm + SimNorm; like a hidden one; a Linear of spectral norm 1
    # + LayerNorm; Linear.
    latent: Literal["simnorm", "none", "spectral", "linear"] = "simnorm"
    simnorm_dim: Positive = 8
    standardise_obs: bool = False  # by mean and std of each task's data set; the paper: observations untouched
    layer_norm: bool = True  # in the hidden layers, and after the latent's where the above says so
    activation: Literal["mish", "relu"] = "mish"
    task_dim: Count = 96  # used only with several tasks
    num_q: Count  # TD-MPC2's Q-functions, and its policy prior with them; 0: neither
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.01  # in the Q-functions' first layer

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, data: Any) -> Any:
        return {**MODEL_SIZES.get(str(data.get("size", "single")), {}), **data} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> "WorldModelConfig":
        if self.latent == "simnorm" and self.latent_dim % self.simnorm_dim:
            raise ValueError(f"latent_dim {self.latent_dim} must be a multiple of simnorm_dim {self.simnorm_dim}")
        if self.reward_bins == 1 or self.reward_low >= self.reward_high:
            raise ValueError("reward_bins must be 0 or at least 2, and reward_low below reward_high")
        if self.num_q == 1 or (self.num_q and not self.reward_bins):
            raise ValueError("num_q must be 0 or at least 2, and 0 where reward_bins is 0")
        return self


class PretrainConfig(Config):
    """Training of a world model on episodes (paper, section 2)."""

    tasks: Literal["each", "all"] = "each"  # a model per task of the suite, or one for all of them
    world_model: WorldModelConfig = WorldModelConfig()
    updates: Positive = 50_000
    batch_size: Positive = 256
    horizon: Positive = 16
    rho: Annotated[float, Field(gt=0, le=1)] = 0.99  # weight of step t is rho^t
    consistency_coef: Rate = 1.0
    reward_coef: Rate = 1.0
    value_coef: Annotated[float, Field(ge=0)] = 0.1  # TD-MPC2's value term and policy prior, where it has Q-functions
    target_rate: Share = 0.01  # of the target Q-functions and of the scale of the prior's loss, per update
    entropy_coef: Annotated[float, Field(ge=0)] = 1e-4
    learning_rate: Rate = 3e-4
    final_lr: Rate = 3e-4  # reached linearly; constant in the paper
    encoder_lr_scale: Rate = 1.0  # 0.3 in TD-MPC2
    grad_norm: Rate = 20.0
    precision: Precision = "float32"
    compile: bool = False  # on a CPU fused layers, if there is a compiler; on a GPU the update as one CUDA graph
    piece: Positive | None = None  # decisions; windows stay within pieces of this length, as if episodes were cut

    @model_validator(mode="after")
    def _check(self) -> "PretrainConfig":
        if self.piece is not None and self.piece < self.horizon:
            raise ValueError(f"piece {self.piece} has no window of horizon {self.horizon}")
        if self.world_model.num_q and not self.value_coef:
            raise ValueError("value_coef 0 leaves the Q-functions untrained; give world_model num_q: 0")
        return self


class FinetuneConfig(Config):
    """World-model updates beside every policy update, on windows of the task's own data."""

    model_updates: Positive = 1
    model_batch_size: Positive = 512
    model_lr: Rate = 3e-4
    model_final_lr: Rate = 1e-5  # reached linearly


class OnlineConfig(FinetuneConfig):
    """Online single-task training: the windows come from a replay that fresh data flow into (paper, section 2)."""

    model_updates: Positive = 8
    model_batch_size: Positive = 256
    num_envs: Positive = 64
    replay_capacity: Positive = 1_000_000
    reencode: bool = False  # act from the encoded observation at every step; the paper: from the model's own latent

    @model_validator(mode="after")
    def _check(self) -> "OnlineConfig":
        if self.replay_capacity < self.num_envs:
            raise ValueError(f"replay_capacity {self.replay_capacity} must hold a step of num_envs {self.num_envs}")
        return self


class ExtractConfig(Config):
    """Extraction of a policy by first-order gradients through the world model (paper, section 2)."""

    world_model: str = "default"  # which of the suite's world models
    updates: Positive = 10_000
    batch_size: Positive = 512
    horizon: Positive = 16
    gamma: Share = 0.99
    td_lambda: Share = 0.95  # 0: one-step targets
    terminal_weight: Literal["gamma^H", "gamma^(H+1)"] = "gamma^H"  # of V(z_H); the latter is the public code's
    decode_reward: bool = False  # ascend rewards after symexp, in the task's units; the paper: as the head gives them
    standardise_latents: bool = False  # where actor and critic read them, by the data's; the paper: latents untouched
    actor_units: Units = (400, 200, 100)
    critic_units: Units = (400, 200)
    critics: Positive = 3
    actor_lr: Rate = 5e-4
    critic_lr: Rate = 5e-4
    final_lr: Rate = 1e-5  # both reach it linearly
    betas: tuple[Share, Share] = (0.7, 0.95)
    actor_grad_norm: Rate = 1.0
    critic_grad_norm: Rate = 100.0
    critic_passes: Positive = 8
    critic_minibatches: Positive = 4
    precision: Precision = "float32"
    compile: bool = False  # as above
    finetune: FinetuneConfig | None = None  # neither: from offline data, the world model frozen
    online: OnlineConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> "ExtractConfig":
        if self.finetune and self.online:
            raise ValueError("online training has model_updates of its own; remove finetune")
        return self


class SACSettings(Config):
    """Soft actor-critic by stable-baselines3."""

    env_steps: Positive = 20_000  # decisions, over all environments
    num_envs: Positive = 1
    updates_per_step: Rate = 1.0  # gradient steps a decision
    units: Units = (256, 256)
    batch_size: Positive = 256
    learning_rate: Rate = 1e-3
    random_steps: Positive = 1_000  # decisions before the first update


class SACLearner(SACSettings):
    """Soft actor-critic as the online learner whose replay and checkpoints go into a data set."""

    algorithm: Literal["sac"] = "sac"
    checkpoints: Positive = 6  # kept at equal distances, the last one at the end


class PWMLearner(Config):
    """PWM online as that learner; its world model is trained on random episodes of its own first."""

    algorithm: Literal["pwm"]
    model: PretrainConfig = PretrainConfig()
    policy: ExtractConfig = ExtractConfig(online=OnlineConfig())
    random_steps: Positive = 10_000  # decisions, over all environments, before the first update
    checkpoints: Positive = 6  # as above

    @model_validator(mode="after")
    def _check(self) -> "PWMLearner":
        if self.policy.online is None or self.policy.horizon < self.model.horizon:
            raise ValueError("policy must have an online block and at least the model's horizon")
        if self.model.world_model.standardise_obs or self.policy.standardise_latents:
            raise ValueError("standardise_obs and standardise_latents need a data set, which a learner does not have")
        if self.random_steps < self.policy.online.num_envs * self.model.horizon:
            raise ValueError(f"random_steps {self.random_steps} fill no window of horizon {self.model.horizon}")
        return self


class Mixture(Config):
    """Episodes of a data set by the behaviour that acts in them.

    random: uniform actions. expert: the task's scripted policy. replay: the learner's own last episodes, fewer where it
    made fewer. checkpoints: the learner's checkpoints in turn. Experts and checkpoints act with noise and bursts.
    """

    random: Count = 0
    expert: Count = 0
    replay: Count = 0
    checkpoints: Count = 0


class CollectConfig(Config):
    """How a task's episodes are made."""

    mixture: Mixture = Mixture(random=100)
    tdmpc2: bool = False  # TD-MPC2's official episodes in place of all the rest; the scale's `tdmpc2_data` has them
    learner: SACLearner | PWMLearner = Field(SACLearner(), discriminator="algorithm")
    noise: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.0, 0.1, 0.3, 0.6)
    burst_probability: Share = 0.02  # per decision, of starting a burst
    burst_length: tuple[Positive, Positive] = (4, 20)  # shortest, longest

    @model_validator(mode="after")
    def _check(self) -> "CollectConfig":
        if self.burst_length[0] > self.burst_length[1]:
            raise ValueError(f"burst_length {list(self.burst_length)} must be [shortest, longest]")
        if self.mixture == Mixture():
            raise ValueError("the mixture has no episodes of any behaviour")
        if 0 < self.mixture.checkpoints < self.learner.checkpoints:
            few = f"mixture.checkpoints {self.mixture.checkpoints}"
            raise ValueError(f"{few} are fewer than learner.checkpoints {self.learner.checkpoints}")
        return self


class EvaluationConfig(Config):
    """The learning curve: policies are evaluated at equal distances in training, the end included."""

    curve_points: Positive = 20
    curve_episodes: Positive = 5


class RunConfig(Config):
    """A run's config.yaml: what is trained and scored, fully resolved."""

    scale: str
    suite: str
    task: str
    algorithm: str
    variant: str
    seed: Seed
    settings: dict[str, Any]  # validated by the algorithm's own class
    evaluation: EvaluationConfig


class DataConfig(Config):
    """A data set's config.yaml."""

    scale: str
    task: str
    seed: Seed
    settings: CollectConfig


class ModelConfig(Config):
    """A world model's config.yaml."""

    scale: str
    suite: str
    variant: str
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: Seed
    settings: PretrainConfig


AnyConfig = TypeVar("AnyConfig", bound=Config)


def validate(cls: type[AnyConfig], data: dict[str, Any], where: str) -> AnyConfig:
    """Make `cls` from plain data.

    Args:
        cls: the settings' class.
        data: as read from YAML.
        where: what to name in an error, such as the file and the section.

    Raises:
        UserError: an unknown key (with the nearest one), a wrong type or a value out of range; one line.
    """
    try:
        return cls.model_validate_json(json.dumps(data))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{where}: {error}; use only numbers, text, lists and mappings") from None
        raise UserError(f"{where}: {_first_problem(cls, error)}") from None


def _first_problem(cls: type[Config], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = problem["loc"]
    # What follows `learner` is not a key but the algorithm, by which its class was chosen.
    key = ".".join(str(part) for before, part in zip(("", *where), where, strict=False) if before != "learner")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), _all_keys(cls), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; remove it"
        return f"unknown key '{key}'{hint}"
    if problem["type"] in ("missing", "union_tag_not_found"):
        tag = "" if problem["type"] == "missing" else ".algorithm"
        return f"key '{key}{tag}' is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    subject = f"'{key}'" if key else "settings"
    shown = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
    return f"{subject}: {message[0].lower()}{message[1:]}{shown}; correct the value"


def _all_keys(cls: type[Config]) -> list[str]:
    """The keys of `cls` and of the settings nested in it."""
    keys = []
    for name, field in cls.model_fields.items():
        keys.append(name)
        for annotation in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(annotation, type) and issubclass(annotation, Config):
                keys += _all_keys(annotation)
    return keys


def load(cls: type[AnyConfig], path: Path) -> AnyConfig:
    """Read and validate a resolved config.yaml (or JSON, which is YAML)."""
    return validate(cls, read_yaml(path), str(path))


def dump(config: Config) -> str:
    """The YAML of a config, stable and complete, as written to config.yaml."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=100)
