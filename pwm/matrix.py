"""A scale's matrix: which runs, world models and data sets are expected, where they lie and how each is configured.

A scale is one YAML file, `workflows/config/<scale>.yaml`. It lists suites, tasks, algorithms and seeds and says what
differs from the defaults in `pwm.config` and the baselines' own settings. What one task needs beyond its suite stands
at the task. Light to import: no torch, no simulator.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator

from pwm import algorithms, config
from pwm.config import CollectConfig, Config, Count, DataConfig, EvaluationConfig, ModelConfig, Positive, RunConfig
from pwm.data.tdmpc2_files import official_set
from pwm.envs.tasks import SUITES, get_task
from pwm.errors import UserError
from pwm.gradient_settings import GradientsConfig
from pwm.yaml_files import merge, read_yaml

Settings = dict[str, Any]
Seeds = Annotated[int, Field(ge=1, le=config.MOST_SEEDS)]
Variant = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]  # a folder's name, and a wildcard's value
CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "workflows" / "config"
RULES_FOLDER = CONFIG_FOLDER.parent / "rules" / "baselines"


class Resources(Config):
    """What one job of a rule asks for."""

    threads: Positive = 1
    mem_mb: Positive = 2000
    runtime: Positive = 60  # minutes
    gpu: Count = 0


class SuiteConfig(Config):
    """One suite of a scale. Settings are as for `PretrainConfig`, `CollectConfig` and the algorithms' own classes."""

    # task: what it alone needs, laid over the rest; collect: settings, world_models or an algorithm: variant: settings.
    # A family's name stands for all of its tasks in the suite; what is said later is laid over what was said before.
    tasks: Annotated[dict[str, dict[str, dict[str, Any]]], Field(min_length=1)]
    seeds: Seeds
    model_seeds: Seeds = 1  # of each world model; run seed k uses model seed k modulo this
    collect: Settings = Field(default_factory=dict)
    world_models: dict[Variant, Settings] = Field(default_factory=dict)  # variant: settings
    # algorithm: variant: settings, and where these are not the suite's, `only`: its tasks, and `seeds`. Variants of an
    # ablation have names of their own kind: `workflows.ablations`
    algorithms: Annotated[dict[str, dict[Variant, Settings]], Field(min_length=1)]


class ScaleConfig(Config):
    """A scale's YAML file."""

    suites: Annotated[dict[str, SuiteConfig], Field(min_length=1)]
    episodes: Positive = 10  # of a final evaluation
    evaluation: EvaluationConfig = EvaluationConfig()
    gradients: GradientsConfig = GradientsConfig()
    resources: dict[str, Resources] = Field(default_factory=dict)  # by rule; `default` for the others
    tdmpc2_data: str = "data/tdmpc2"  # folder of TD-MPC2's official files, mt30/*.pt and mt80/*.pt

    @field_validator("suites", mode="before")
    @classmethod
    def _name_all_tasks(cls, suites: Any) -> Any:
        if not isinstance(suites, dict):
            return suites
        return {name: _with_all_tasks(name, suite) for name, suite in suites.items()}


def _with_all_tasks(name: str, suite: Any) -> Any:
    """A suite's settings with every task in the place of its family."""
    if not isinstance(suite, dict) or not isinstance(suite.get("tasks"), dict):
        return suite
    tasks: dict[str, Any] = {}
    for key, changes in suite["tasks"].items():
        family = [task for task in SUITES.get(name, ()) if get_task(task).family == key]
        for task in family or [key]:
            mergeable = isinstance(changes, dict) and isinstance(tasks.get(task), dict)
            tasks[task] = merge(tasks[task], changes) if mergeable else changes
    return suite | {"tasks": tasks}


@dataclass(frozen=True, order=True)
class RunId:
    """Identity of a run."""

    suite: str
    task: str
    algorithm: str
    variant: str
    seed: int

    @property
    def path(self) -> str:
        """Its folder under `results/<scale>/runs/`."""
        return f"{self.suite}/{self.task}/{self.algorithm}/{self.variant}/seed{self.seed}"


@dataclass(frozen=True, order=True)
class ModelId:
    """Identity of a world model; `tasks` is one task's name, or `all` for the suite's."""

    suite: str
    variant: str
    tasks: str
    seed: int

    @property
    def path(self) -> str:
        """Its folder under `results/<scale>/models/`."""
        return f"{self.suite}/{self.variant}/{self.tasks}/seed{self.seed}"


class Matrix:
    """The expected files of one scale and their resolved configs.

    Everything in the YAML is checked when the matrix is made, before any job starts.

    Args:
        scale: name of the scale.
        folder: where the scales' YAML files lie.

    Raises:
        UserError: unknown scale, suite, task, algorithm or key; a value of a wrong type or out of range.
    """

    def __init__(self, scale: str, folder: Path = CONFIG_FOLDER) -> None:
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        if scale not in known:
            raise UserError(f"unknown scale '{scale}'; choose from {', '.join(known)}, or add {scale}.yaml beside them")
        self.scale, self.file = scale, (file := folder / f"{scale}.yaml")
        self.config = config.validate(ScaleConfig, read_yaml(file), str(file))
        self._configs: dict[RunId | ModelId | str, Config] = {}
        rules = {"default", "collect", "import", "pretrain", "extract", "evaluate", "collate", "plot", "tabulate"}
        rules |= {"film_strip", "ball_wall", "gradients", *algorithms.names()}
        if unknown := self.config.resources.keys() - rules:
            raise UserError(f"{file}: resources: unknown rule '{min(unknown)}'; choose from {', '.join(sorted(rules))}")
        for suite, settings in self.config.suites.items():
            self._check_names(suite, settings)
            self._resolve(suite, settings)

    def runs(self) -> list[RunId]:
        """All runs of the scale, sorted."""
        return sorted(key for key in self._configs if isinstance(key, RunId))

    def models(self) -> list[ModelId]:
        """All world models of the scale, sorted."""
        return sorted(key for key in self._configs if isinstance(key, ModelId))

    def data_sets(self) -> list[str]:
        """The tasks whose episodes are collected, sorted."""
        return sorted(key for key in self._configs if isinstance(key, str))

    def imports(self) -> dict[str, list[str]]:
        """The data sets that are imported, sorted, by the official set of TD-MPC2's that they are taken from."""
        sets: dict[str, list[str]] = {}
        for task in self.data_sets():
            if self._configs[task].settings.tdmpc2:
                sets.setdefault(official_set(task), []).append(task)
        return sets

    def resolved(self, key: RunId | ModelId | str) -> Config:
        """The config of a run, a world model or a task's data set.

        Raises:
            UserError: the scale's matrix has no such thing.
        """
        if key not in self._configs:
            what = key if isinstance(key, str) else key.path
            raise UserError(f"{self.file} lists no '{what}'; add it there or ask for one of its own")
        return self._configs[key]

    def text(self, key: RunId | ModelId | str) -> str:
        """The content of its config.yaml.

        Raises:
            UserError: as `resolved`.
        """
        return config.dump(self.resolved(key))

    def model_of(self, run: RunId) -> ModelId | None:
        """The world model that a run's `world_model` setting names; None where there is no such setting."""
        variant = self._configs[run].settings.get("world_model")
        if variant is None:
            return None
        tasks = run.task if ModelId(run.suite, variant, run.task, 0) in self._configs else "all"
        return ModelId(run.suite, variant, tasks, run.seed % self.config.suites[run.suite].model_seeds)

    def tasks_of(self, model: ModelId) -> tuple[str, ...]:
        """The tasks a world model is trained on."""
        return self._configs[model].tasks

    def resources(self, rule: str) -> Resources:
        """What a rule's jobs ask for."""
        table = self.config.resources
        return table.get(rule, table.get("default", Resources()))

    def _check_names(self, suite: str, settings: SuiteConfig) -> None:
        if suite not in SUITES:
            raise UserError(f"{self.file}: unknown suite '{suite}'; choose from {', '.join(SUITES)}")
        for algorithm in settings.algorithms:
            algorithms.check(algorithm, suite)
            rule = RULES_FOLDER / f"{algorithm}.smk"
            if algorithm != "pwm" and not rule.exists():
                raise UserError(f"{self.file}: algorithm '{algorithm}' has no rule; add {rule} as random.smk beside it")
        for task, changes in settings.tasks.items():
            get_task(task)
            if task not in SUITES[suite]:
                raise UserError(f"{self.file}: task '{task}' is not of suite '{suite}'; move it to the suite it is of")
            known = {"collect", "world_models", *settings.algorithms}
            if unknown := changes.keys() - known:
                where = f"{self.file}: suites.{suite}.tasks.{task}"
                raise UserError(f"{where}: unknown key '{min(unknown)}'; choose from {', '.join(sorted(known))}")

    def _resolve(self, suite: str, settings: SuiteConfig) -> None:
        for task, changes in settings.tasks.items():
            where = f"{self.file}: suites.{suite} ({task})"
            data = merge(settings.collect, changes.get("collect", {}))
            resolved = config.validate(CollectConfig, data, f"{where}.collect")
            if resolved.mixture.expert and get_task(task).family != "metaworld":
                raise UserError(f"{where}.collect.mixture: {task} has no scripted expert; set expert to 0 for it")
            if resolved.tdmpc2 and official_set(task) is None:
                raise UserError(f"{where}.collect: TD-MPC2's data do not have {task}; give it a mixture")
            if resolved.tdmpc2:
                resolved = CollectConfig(tdmpc2=True)
            mine = DataConfig(scale=self.scale, task=task, seed=0, settings=resolved)
            if self._configs.setdefault(task, mine) != mine:
                raise UserError(
                    f"{where}.collect differs from another suite's; a task's episodes are made once: align them"
                )
        for variant, model_settings in settings.world_models.items():
            for model_config in self._model_configs(suite, settings, variant, model_settings):
                name = model_config.tasks[0] if model_config.settings.tasks == "each" else "all"
                self._configs[ModelId(suite, variant, name, model_config.seed)] = model_config
        for run_config in self._run_configs(suite, settings):
            key = RunId(suite, run_config.task, run_config.algorithm, run_config.variant, run_config.seed)
            self._configs[key] = run_config
            if model := self.model_of(key):
                self._check_model(key, run_config, self._configs[model])

    def _check_model(self, run: RunId, run_config: RunConfig, model: ModelConfig) -> None:
        """PWM refines a model of one task online, on windows no longer than a rollout; a baseline needs Q-functions."""
        where = f"{self.file}: suites.{run.suite}.algorithms.{run.algorithm}.{run.variant} ({run.task})"
        if run.algorithm != "pwm" and not model.settings.world_model.num_q:
            raise UserError(f"{where}: world model '{model.variant}' has no Q-functions; give it a num_q of at least 2")
        if not run_config.settings.get("online"):
            return
        if len(model.tasks) > 1:
            raise UserError(f"{where}: online training takes a world model of one task; name one with tasks: each")
        if model.settings.horizon > run_config.settings["horizon"]:
            raise UserError(f"{where}: horizon must be at least the world model's, {model.settings.horizon}; raise it")

    def _model_configs(
        self, suite: str, settings: SuiteConfig, variant: str, changes: Settings
    ) -> Iterator[ModelConfig]:
        where = f"{self.file}: suites.{suite}.world_models.{variant}"
        shared = config.validate(config.PretrainConfig, changes, where)
        groups = [(task,) for task in settings.tasks] if shared.tasks == "each" else [tuple(settings.tasks)]
        for group in groups:
            resolved = shared
            if shared.tasks == "each":
                own = _own_settings(settings, group[0], "world_models", variant, where)
                if "tasks" in own:
                    raise UserError(f"{where} ({group[0]}): 'tasks' is set for the suite, not for a task; remove it")
                resolved = config.validate(config.PretrainConfig, merge(changes, own), f"{where} ({group[0]})")
            for seed in range(settings.model_seeds):
                yield ModelConfig(
                    scale=self.scale, suite=suite, variant=variant, tasks=group, seed=seed, settings=resolved
                )

    def _run_configs(self, suite: str, settings: SuiteConfig) -> Iterator[RunConfig]:
        for algorithm, variants in settings.algorithms.items():
            cls = algorithms.settings_class(algorithm)
            for variant, changes in variants.items():
                named = f"{self.file}: suites.{suite}.algorithms.{algorithm}.{variant}"
                changes, tasks, seeds = _split_runs(settings, changes, named)
                for task in tasks:
                    where = f"{named} ({task})"
                    own = _own_settings(settings, task, algorithm, variant, where)
                    resolved = config.validate(cls, merge(changes, own), where)
                    name = getattr(resolved, "world_model", None)
                    if name is not None and name not in settings.world_models:
                        known = ", ".join(settings.world_models) or "none are listed"
                        raise UserError(f"{where}: unknown world model '{name}'; choose from {known}")
                    for seed in range(seeds):
                        yield RunConfig(
                            scale=self.scale,
                            suite=suite,
                            task=task,
                            algorithm=algorithm,
                            variant=variant,
                            seed=seed,
                            settings=resolved.model_dump(mode="json"),
                            evaluation=self.config.evaluation,
                        )


def _split_runs(settings: SuiteConfig, changes: Settings, where: str) -> tuple[Settings, list[str], int]:
    """A variant's settings without `only` and `seeds`, the tasks it runs on and its number of seeds."""
    tasks, seeds = changes.get("only", [*settings.tasks]), changes.get("seeds", settings.seeds)
    for task in tasks if isinstance(tasks, list) and tasks else [tasks]:
        if task not in [*settings.tasks]:
            raise UserError(f"{where}: only must list tasks of the suite, got '{task}'; correct it")
    if type(seeds) is not int or not 1 <= seeds <= config.MOST_SEEDS:
        raise UserError(f"{where}: seeds must be at least 1 and at most {config.MOST_SEEDS}, got '{seeds}'; correct it")
    return {name: value for name, value in changes.items() if name not in ("only", "seeds")}, tasks, seeds


def _own_settings(settings: SuiteConfig, task: str, section: str, variant: str, where: str) -> Settings:
    """What a task changes of one variant of its world models or of an algorithm."""
    variants = settings.tasks[task].get(section, {})
    listed = settings.world_models if section == "world_models" else settings.algorithms[section]
    for name, own in variants.items():
        if name not in listed or not isinstance(own, dict):
            raise UserError(
                f"{where}: tasks.{task}.{section}: unknown variant '{name}'; choose from {', '.join(listed)}"
            )
    return variants.get(variant, {})


class CommandLine(NamedTuple):
    """What Snakemake's `--config` asks for."""

    scale: str
    partial: bool
    download: bool


def check_command_line(given: dict[str, Any]) -> CommandLine:
    """The scale (default `demo`), whether partial results are wanted, and whether TD-MPC2's data may be downloaded.

    Raises:
        UserError: another key, or a value of a wrong type.
    """
    flags = {"partial": False, "download": False}
    for key, value in given.items():
        if key in flags:
            text = str(value).lower()  # Snakemake hands `partial=true` over as text
            if text not in ("true", "false"):
                raise UserError(f"--config: {key} must be true or false, got '{text}'")
            flags[key] = text == "true"
        elif key != "scale":
            raise UserError(f"--config: unknown key '{key}'; use scale=<name>, partial=true or download=true")
    return CommandLine(str(given.get("scale", "demo")), **flags)
