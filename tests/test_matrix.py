"""The matrix of a scale: what is resolved, and how mistakes are refused, in one line each."""

from pathlib import Path

import pytest
import yaml
from support import refusal

from pwm import algorithms
from pwm.config import (
    CollectConfig,
    DataConfig,
    Mixture,
    ModelConfig,
    RunConfig,
    validate,
)
from pwm.envs.tasks import SUITES, get_task
from pwm.matrix import CONFIG_FOLDER, Matrix, ModelId, RunId, check_command_line
from pwm.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parent.parent

SCALE = """
episodes: 3
evaluation: {curve_episodes: 4}
resources: {default: {threads: 2}, extract: {gpu: 1}}
suites:
  locomotion:
    tasks: {hopper: {}}
    seeds: 2
    model_seeds: 3
    world_models: {default: {}}
    algorithms:
      pwm: {default: {}, quick: {updates: 7}}
  mt30:
    tasks:
      walker-walk: {}
      cheetah-run:
        collect: {mixture: {checkpoints: 50, random: 7}, learner: {env_steps: 99}}
        world_models: {default: {updates: 77, world_model: {latent_dim: 64}}}
        pwm: {default: {horizon: 2}}
        ppo: {default: {units: [7]}}
    seeds: 4
    model_seeds: 2
    collect: {mixture: {checkpoints: 100}, learner: {algorithm: sac, env_steps: 3000, batch_size: 32}}
    world_models:
      default: {horizon: 5, learning_rate: 3e-4, world_model: {encoder: [16], latent_dim: 32}}
      multitask: {tasks: all, world_model: {size: "5"}}
    algorithms:
      pwm:
        default: {batch_size: 11, horizon: 9}
        multitask: {world_model: multitask, horizon: 8}
      ppo: {default: {gamma: 0.9, units: [3, 4]}}
"""


@pytest.fixture
def matrix(tmp_path):
    """Builds the matrix of the scale above after replacing one piece of its text by another."""

    def build(old="", new="", more="", name="small"):
        assert old in SCALE
        (tmp_path / "small.yaml").write_text((SCALE.replace(old, new, 1) if old else SCALE) + more)
        return Matrix(name, tmp_path)

    return build


def resolved(built, key):
    """A config as the stage will read it."""
    data = yaml.safe_load(built.text(key))
    cls = {RunId: RunConfig, ModelId: ModelConfig, str: DataConfig}[type(key)]
    return validate(cls, data, "here")


def test_the_matrix_lists_every_run_model_and_data_set(matrix):
    built = matrix()
    expected = [("locomotion", "hopper", "pwm", variant, k) for variant in ("default", "quick") for k in range(2)]
    for task in ("cheetah-run", "walker-walk"):
        pairs = [("ppo", "default"), ("pwm", "default"), ("pwm", "multitask")]
        expected += [("mt30", task, *pair, k) for pair in pairs for k in range(4)]
    assert built.runs() == [RunId(*identity) for identity in expected]
    models = [ModelId("locomotion", "default", "hopper", k) for k in range(3)]
    models += [ModelId("mt30", "default", task, k) for task in ("cheetah-run", "walker-walk") for k in range(2)]
    models += [ModelId("mt30", "multitask", "all", k) for k in range(2)]
    assert built.models() == models
    assert built.data_sets() == ["cheetah-run", "hopper", "walker-walk"]
    assert RunId("mt30", "walker-walk", "ppo", "default", 3).path == "mt30/walker-walk/ppo/default/seed3"
    assert built.tasks_of(models[-1]) == ("walker-walk", "cheetah-run")  # in the file's order


def test_a_variant_may_run_on_some_tasks_only(matrix):
    built = matrix("multitask, horizon: 8}", "multitask, horizon: 8, only: [cheetah-run]}")
    assert {run.task for run in built.runs() if run.variant == "multitask"} == {"cheetah-run"}
    assert len(built.runs()) == len(matrix().runs()) - 4 and built.models() == matrix().models()


def test_a_variant_may_have_seeds_of_its_own(matrix):
    built = matrix("multitask, horizon: 8}", "multitask, horizon: 8, seeds: 1}")
    runs = [run for run in built.runs() if run.suite == "mt30" and run.algorithm == "pwm"]
    assert {run.seed for run in runs if run.variant == "multitask"} == {0}
    assert {run.seed for run in runs if run.variant == "default"} == {0, 1, 2, 3}


def test_runs_share_the_models_there_are(matrix):
    built = matrix()
    pick = lambda *identity: built.model_of(RunId(*identity))  # noqa: E731
    assert pick("locomotion", "hopper", "pwm", "quick", 1) == ModelId("locomotion", "default", "hopper", 1)
    assert pick("mt30", "walker-walk", "pwm", "default", 3) == ModelId("mt30", "default", "walker-walk", 1)
    assert pick("mt30", "walker-walk", "pwm", "multitask", 3) == ModelId("mt30", "multitask", "all", 1)
    assert pick("mt30", "walker-walk", "ppo", "default", 3) is None


def test_merge_order_is_defaults_suite_variant_task(matrix):
    built = matrix()
    cheetah = resolved(built, RunId("mt30", "cheetah-run", "pwm", "default", 0)).settings
    walker = resolved(built, RunId("mt30", "walker-walk", "pwm", "multitask", 0)).settings
    assert (cheetah["batch_size"], cheetah["horizon"]) == (11, 2)  # the variant's, the task's over it
    assert (walker["batch_size"], walker["horizon"]) == (512, 8)  # the default, the variant's
    data = resolved(built, "cheetah-run").settings
    assert (data.mixture, data.learner.env_steps, data.learner.batch_size) == (
        Mixture(random=7, checkpoints=50),
        99,
        32,
    )
    data = resolved(built, "walker-walk").settings
    assert (data.mixture, data.learner.env_steps) == (Mixture(checkpoints=100), 3000)
    model = resolved(built, ModelId("mt30", "default", "cheetah-run", 0)).settings
    assert (model.updates, model.horizon, model.world_model.latent_dim) == (77, 5, 64)
    assert (model.world_model.encoder, model.world_model.units) == ((16,), (512, 512))
    model = resolved(built, ModelId("mt30", "multitask", "all", 1))
    assert model.settings.world_model.reward_bins == 101 and model.settings.updates == 50_000 and model.seed == 1
    ppo = resolved(built, RunId("mt30", "cheetah-run", "ppo", "default", 2))
    assert ppo.settings["units"] == [7] and ppo.settings["gamma"] == 0.9 and ppo.settings["n_epochs"] == 5
    assert ppo.evaluation.curve_episodes == 4 and ppo.evaluation.curve_points == 20 and built.config.episodes == 3
    assert resolved(built, "hopper").settings == CollectConfig()
    resources = [built.resources(rule) for rule in ("extract", "collect")]
    assert [(r.threads, r.gpu) for r in resources] == [(1, 1), (2, 0)]


MISTAKES = [
    # text, its replacement, what the refusal names
    ("horizon: 9", "horizn: 9", ["suites.mt30.algorithms.pwm.default", "'horizn'", "'horizon'"]),
    ("curve_episodes: 4", "curve_epsodes: 4", ["evaluation.curve_epsodes", "'curve_episodes'"]),
    ("encoder: [16]", "encodr: [16]", ["world_models.default", "world_model.encodr", "'encoder'"]),
    ("env_steps: 3000", "steps: 3", ["collect", "learner.steps", "'env_steps'"]),
    ("gamma: 0.9", "gama: 0.9", ["algorithms.ppo.default", "'gama'", "'gamma'"]),
    ("seeds: 4", "seeds: four", ["suites.mt30.seeds", "valid integer", "'four'"]),
    ("horizon: 9", "horizon: 9.5", ["'horizon'", "9.5"]),
    ("updates: 7}", "updates: -7}", ["'updates'", "greater than or equal to 1", "-7"]),
    ("env_steps: 99", "env_steps: 0", ["'learner.env_steps'", "got 0"]),
    ("3e-4", "-3e-4", ["'learning_rate'", "-0.0003"]),
    ("3e-4", ".inf", ["'learning_rate'", "finite"]),
    ("latent_dim: 32", "reward_low: .nan", ["world_model.reward_low", "finite"]),
    ("updates: 7}", "updates: '7'}", ["'updates'", "'7'"]),
    ("updates: 7}", "updates: true}", ["'updates'", "True"]),
    ("latent_dim: 32", "latent_dim: 33", ["latent_dim 33", "multiple of simnorm_dim 8"]),
    ("gamma: 0.9", "gamma: 1.9", ["'gamma'", "1.9"]),
    ("units: [7]", "units: []", ["(cheetah-run)", "'units'"]),
    ("{checkpoints: 100}", "{expert: 100}", ["mixture", "walker-walk has no scripted expert"]),
    ("{checkpoints: 100}", "{exprt: 100}", ["'mixture.exprt'", "'expert'"]),
    ("{checkpoints: 100}", "{checkpoints: 5}", ["mixture.checkpoints 5", "learner.checkpoints 6"]),
    (
        "mixture: {checkpoints: 100}",
        "mixture: {}",
        ["(walker-walk).collect", "the mixture has no episodes"],
    ),
    ("seeds: 2\n", "seeds: 2\n    collect: {tdmpc2: true}\n", ["(hopper)", "TD-MPC2's data do not have hopper"]),
    ("{env_steps: 99}", "{algorithm: ppo}", ["'learner'", "'ppo'", "'sac', 'pwm'"]),
    ("algorithm: sac, env_steps: 3000", "env_steps: 3000", ["'learner.algorithm' is missing"]),
    ("sac, env_steps: 3000, batch_size: 32", "pwm, env_steps: 3", ["'learner.env_steps'"]),
    ("sac, env_steps: 3000, batch_size: 32", "pwm, policy: {updates: 3}", ["learner", "an online block"]),
    ("sac, env_steps: 3000, batch_size: 32", "pwm, model: {world_model: {standardise_obs: true}}", ["standardise_obs"]),
    ("horizon: 5, ", "horizon: 5, piece: 4, ", ["piece 4", "horizon 5"]),
    ("tasks: all, ", "tasks: all, value_coef: 0, ", ["value_coef 0", "num_q: 0"]),
    ("updates: 7}", "updates: 2001-01-01}", ["small.yaml", "numbers, text, lists"]),
    ("walker-walk: {}", "walker-wlk: {}", ["walker-wlk", "walker-walk"]),
    ("walker-walk: {}", "hopper: {}", ["'hopper'", "not of suite 'mt30'"]),
    ("  mt30:", "  mt31:", ["'mt31'", "locomotion, stiffness, mt30"]),
    ("      ppo: {default: {gamma", "      pppo: {default: {gamma", ["'pppo'", "'ppo'"]),
    (
        "        ppo: {default: {units",
        "        shac: {default: {units",
        ["cheetah-run", "'shac'", "collect, ppo, pwm, world_models"],
    ),
    ("pwm: {default: {horizon: 2", "pwm: {defalt: {horizon: 2", ["cheetah-run", "'defalt'", "default, multitask"]),
    ("extract: {gpu: 1}", "extrct: {gpu: 1}", ["resources", "'extrct'", "extract"]),
    ("quick: {updates: 7}", "quick: {online: {num_envs: 9, replay_capacity: 8}}", ["replay_capacity 8", "num_envs 9"]),
    ("quick: {updates: 7}", "quick: {horizon: 15, online: {}}", ["pwm.quick", "horizon must be at least", "16"]),
    ("multitask, horizon: 8}", "multitask, online: {}}", ["pwm.multitask", "one task", "tasks: each"]),
    ("multitask, horizon: 8}", "multitask, only: [walker-wlk]}", ["pwm.multitask", "only", "'walker-wlk'"]),
    ("multitask, horizon: 8}", "multitask, only: []}", ["pwm.multitask", "only", "'[]'"]),
    ("multitask, horizon: 8}", "multitask, seeds: 0}", ["pwm.multitask", "seeds", "at least 1", "'0'"]),
    ("multitask, horizon: 8}", "multitask, seeds: true}", ["pwm.multitask", "seeds", "'True'"]),
    (
        "      ppo: {default: {gamma",
        "      tdmpc2: {default: {world_model: default}}\n      ppo: {default: {gamma",
        ["algorithms.tdmpc2.default", "'default' has no Q-functions", "num_q"],
    ),
    ("world_model: multitask", "world_model: multi", ["pwm.multitask", "'multi'", "default, multitask"]),
    ("seeds: 2\n", "seeds: 2\n    seeds: 3\n", ["small.yaml", "'seeds' is given twice"]),
    ("suites:", "suites: [", ["small.yaml", "not valid YAML"]),
    ("    seeds: 4\n", "", ["'suites.mt30.seeds' is missing"]),
    ("tasks: {hopper: {}}", "tasks: {}", ["suites.locomotion.tasks"]),
    ("tasks: {hopper: {}}", "tasks: [hopper]", ["suites.locomotion.tasks"]),
    ("gpu: 1", "gpus: 1", ["resources.extract.gpus", "'gpu'"]),
]


@pytest.mark.parametrize(
    ("old", "new", "parts"), MISTAKES, ids=[new.strip().replace("\n", " ") for _, new, _ in MISTAKES]
)
def test_a_mistake_in_a_scale_is_named_in_one_line(matrix, old, new, parts):
    refusal(lambda: matrix(old, new), *parts)


def test_other_refusals(matrix, tmp_path):
    refusal(lambda: matrix(name="smal"), "unknown scale 'smal'", "small")
    built = matrix()
    refusal(lambda: built.text("ant"), "small.yaml", "'ant'")
    refusal(lambda: built.text(RunId("mt30", "walker-walk", "ppo", "default", 4)), "mt30/walker-walk/ppo/default/seed4")
    refusal(lambda: algorithms.check("pmw", "mt30"), "'pmw'", "'pwm'")
    refusal(lambda: get_task("hoper"), "hoper", "hopper")
    refusal(lambda: read_yaml(tmp_path / "none.yaml"), "none.yaml", "no such config file")
    refusal(lambda: read_yaml(tmp_path), str(tmp_path), "cannot be read")
    binary, text = tmp_path / "binary.yaml", tmp_path / "list.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    refusal(lambda: read_yaml(binary), "binary.yaml", "text file")
    for content, kind in (("- 1", "list"), ("", "NoneType"), ("word", "str")):
        text.write_text(content)
        refusal(lambda: read_yaml(text), "list.yaml", kind)


def test_a_baseline_without_its_rule_is_refused(matrix, tmp_path, monkeypatch):
    matrix()
    monkeypatch.setattr("pwm.matrix.RULES_FOLDER", tmp_path)
    refusal(matrix, "algorithm 'ppo' has no rule", f"{tmp_path}/ppo.smk", "random.smk")


def test_a_task_collected_in_two_suites_is_collected_once(matrix):
    mt80 = """  mt80:
    tasks: {walker-walk: {}}
    seeds: 1
    collect: {mixture: {checkpoints: 100}, learner: {algorithm: sac, env_steps: 3000, batch_size: 32}}
    algorithms: {random: {default: {}}}
"""
    assert matrix("  mt30:", mt80 + "  mt30:").data_sets() == ["cheetah-run", "hopper", "walker-walk"]
    refusal(lambda: matrix("  mt30:", mt80.replace("3000", "4000") + "  mt30:"), "(walker-walk).collect", "align")


def test_a_family_stands_for_its_tasks_in_the_suite(matrix):
    tasks = "dmcontrol: {collect: {noise: [0.5]}}\n      walker-walk: {collect: {burst_probability: 1.0}}"
    family = matrix("walker-walk: {}", tasks)
    assert list(family.config.suites["mt30"].tasks) == list(SUITES["mt30"])
    walker, fish = (yaml.safe_load(family.text(task))["settings"] for task in ("walker-walk", "fish-swim"))
    assert walker["noise"] == fish["noise"] == [0.5]
    assert walker["burst_probability"] == 1.0 != fish["burst_probability"]


def test_imports_are_sorted_by_the_files_they_come_from(matrix):
    """DMControl comes from MT30's files for both suites that train on it."""
    assert matrix().imports() == {}
    mt80 = """  mt80:
    tasks: {mw-reach: {}, walker-walk: {}, mw-push: {collect: {tdmpc2: false, mixture: {expert: 5}}}}
    seeds: 1
    collect: {tdmpc2: true}
    algorithms: {random: {default: {}}}
"""
    built = matrix("      walker-walk: {}\n", "      walker-walk: {collect: {tdmpc2: true}}\n", mt80)
    assert built.imports() == {"mt30": ["walker-walk"], "mt80": ["mw-reach"]}
    assert resolved(built, "mw-push").settings.mixture == Mixture(expert=5)
    expected = CollectConfig(tdmpc2=True)  # the suites' other settings do not count
    assert resolved(built, "walker-walk").settings == expected


def test_command_line():
    assert check_command_line({}) == ("demo", False, False)
    assert check_command_line({"scale": "laptop", "partial": True}) == ("laptop", True, False)
    assert check_command_line({"partial": "true", "download": "True"}) == ("demo", True, True)
    refusal(lambda: check_command_line({"sclae": "demo"}), "'sclae'", "scale=<name>")
    refusal(lambda: check_command_line({"partial": "yes please"}), "partial", "'yes please'")


def test_the_scales_that_are_shipped_hold():
    for file in CONFIG_FOLDER.glob("*.yaml"):
        built = Matrix(file.stem)
        assert built.runs() and all(resolved(built, run).scale == file.stem for run in built.runs())
        for run in built.runs():
            model = built.model_of(run)
            assert (model is not None) or run.algorithm != "pwm"
            assert model is None or run.task in built.tasks_of(model)
