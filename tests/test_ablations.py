"""Ablations: which runs belong to them, what their figures draw, by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from synthetic_results import KINDS, MATRIX, VARIED, arguments, with_ablations, write_results

from pwm import statistics
from pwm.matrix import CONFIG_FOLDER, Matrix
from workflows import published
from workflows.ablations import at_equal_steps, groups, stiffened
from workflows.figures import batch_size, model_quality, regularisation, stiffness
from workflows.results import Results, is_ablation, read_results


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals only have to be there, not to be exact: 50 resamples are drawn instead of 2000."""
    bootstrap = statistics._bootstrap
    monkeypatch.setattr(statistics, "_bootstrap", lambda measure, scores, _, seed: bootstrap(measure, scores, 50, seed))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A demo scale with ablations, all runs there."""
    return write_results(tmp_path_factory.mktemp("files"), matrix=with_ablations())


def read(paths: dict[str, Path], ablations: bool = True) -> Results:
    return read_results(stiffness.__file__, "", arguments(paths, "demo", Path("figure")), ablations)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def of(results: Results, task: str, variant: str, algorithm: str = "pwm", suite: str = "locomotion") -> np.ndarray:
    """Scores of one task and variant, by seed."""
    chosen = "suite == @suite and task == @task and variant == @variant and algorithm == @algorithm"
    return results.scores.query(chosen).sort_values("seed")["score"].to_numpy()


def test_other_figures_and_tables_have_no_ablations(files):
    kept = read(files, ablations=False)
    assert kept.suites == ["locomotion", "mt30"]
    for suite, tasks in MATRIX.items():
        assert {*kept.algorithms(suite)} >= {*tasks[kept.tasks(suite)[0]]}
    for table in (kept.scores, kept.curves, kept.expected):
        assert len(table) and not is_ablation(table).any()
    whole = read(files)
    assert "stiffness" in whole.suites and ("pwm", "regularisation.none") in whole.algorithms("locomotion")


def test_shipped_scales_vary_one_thing_of_a_reference():
    """Every ablation's variant has a reference on its tasks, from which it differs in what the ablation is called."""
    found = set()
    for scale in ("test", "demo", "laptop", "paper"):
        matrix = Matrix(scale, CONFIG_FOLDER)
        runs = [run for run in matrix.runs() if run.suite != "stiffness"]
        for run in [run for run in runs if "." in run.variant and run.seed == 0]:
            names = {other.variant for other in runs if (other.suite, other.algorithm) == (run.suite, run.algorithm)}
            base = next(name for name in ("reference", "default") if name in names)
            other = next(x for x in runs if (*x.path.split("/")[:4], x.seed) == (*run.path.split("/")[:3], base, 0))
            changed = differences(matrix, run, other)
            ablation = run.variant.partition(".")[0]
            found.add((scale, ablation))
            allowed = {
                "regularisation": {"latent", "layer_norm", "activation"},
                "batch_size": {"num_envs", "updates"},
                "model_updates": {"model.updates"},
                "model_horizon": {"model.horizon"},
            }[ablation]
            assert changed and changed <= allowed, (scale, run.path, changed)
            if ablation == "batch_size":  # as many environment steps, to a part of a thousand
                steps = [
                    x["updates"] * x["online"]["num_envs"] for x in (matrix.resolved(y).settings for y in (run, other))
                ]
                assert steps[0] == pytest.approx(steps[1], rel=5e-3), (scale, run.path)
    assert {scale for scale, _ in found} == {"test", "demo", "laptop", "paper"}
    assert {name for scale, name in found if scale == "demo"} == {x.partition(".")[0] for x in [*KINDS, *VARIED]} - {
        "default"
    }


def differences(matrix: Matrix, run, other) -> set[str]:
    """Names of the settings in which two runs of PWM and their world models differ."""
    x, y = (matrix.resolved(key).settings for key in (run, other))
    changed = {name for name in x if x[name] != y[name] and name not in ("online", "world_model")}
    if x["online"] and y["online"]:
        changed |= {name for name in x["online"] if x["online"][name] != y["online"][name]}
    x, y = (matrix.resolved(matrix.model_of(key)).settings.model_dump() for key in (run, other))
    changed |= {f"model.{name}" for name in x if x[name] != y[name] and name != "world_model"}
    return changed | {name for name in x["world_model"] if x["world_model"][name] != y["world_model"][name]}


def test_a_group_has_the_arms_of_one_task_and_their_reference(files):
    results = read(files)
    (group,) = groups(results, "regularisation")
    assert (group.title, group.unit, group.algorithm) == ("hopper", "return", "pwm")
    assert {arm.setting for arm in group.arms} == {"reference", "none", "spectral", "plain", "relu"}
    scores = of(results, "hopper", "regularisation.spectral")
    np.testing.assert_array_equal(group.arm("spectral").matrix[:, 0], scores)
    np.testing.assert_array_equal(group.arm("reference").matrix[:, 0], of(results, "hopper", "default"))
    assert group.arm("spectral").iqm.estimate == pytest.approx(scores.mean())  # a quarter of three runs is no run
    assert groups(results, "no_such") == []


def test_a_group_of_many_tasks_counts_those_of_the_ablation(files):
    results = read(files)
    (group,) = groups(results, "model_horizon")
    assert (group.title, group.unit) == ("MT30, 3 tasks", "score, IQM over tasks")
    assert [(arm.value, arm.have, arm.want) for arm in group.arms] == [(3, 3, 3), (16, 3, 3)]
    nine = np.sort(np.concatenate([of(results, task, "default", suite="mt30") for task in group.tasks]))
    assert group.arms[1].iqm.estimate == pytest.approx(nine[2:-2].mean())  # two of nine off at each end
    assert [arm.value for arm in groups(results, "model_updates")[0].arms] == [5_000, 20_000, 50_000]


def test_only_seeds_finished_on_all_tasks_count(tmp_path):
    missing = ("variant == 'model_horizon.3' and task == 'cheetah-run' and seed == 1",)
    (group,) = groups(read(write_results(tmp_path, matrix=with_ablations(), missing=missing)), "model_horizon")
    assert [(arm.have, arm.want) for arm in group.arms] == [(2, 3), (3, 3)]


def test_what_is_varied_is_read_from_the_configuration_not_from_the_name(tmp_path):
    paths = write_results(tmp_path, matrix=with_ablations())
    expected = pd.read_csv(paths["expected"])
    expected.loc[expected["variant"] == "batch_size.16", "batch_size"] = 4096
    expected.to_csv(paths["expected"], index=False)
    (group,) = groups(read(paths), "batch_size")
    assert [arm.value for arm in group.arms] == [64, 256, 4096]


def test_a_reference_of_its_own_goes_before_default(tmp_path):
    matrix = {"locomotion": {"hopper": [("pwm", name) for name in ("default", "reference", *KINDS)]}}
    matrix["stiffness"] = {"hopper-stiff": [("pwm", "reference")]}
    results = read(write_results(tmp_path, matrix=matrix))
    arm = groups(results, "regularisation")[0].arm("reference")
    np.testing.assert_array_equal(arm.matrix[:, 0], of(results, "hopper", "reference"))
    (pair,) = stiffened(results)
    np.testing.assert_array_equal(pair.own.matrix[:, 0], of(results, "hopper", "reference"))


def test_equal_steps_are_those_that_all_runs_have_made(tmp_path):
    paths = write_results(tmp_path, matrix=with_ablations())
    curves = pd.read_csv(paths["curves"])
    small, large = (curves["variant"] == f"batch_size.{size}" for size in (16, 256))
    curves.loc[small, "return"] = curves["env_steps"] / 1000
    curves = curves[~(large & (curves["env_steps"] > 125_000) & (curves["seed"] == 1))]
    end = curves.loc[large & (curves["seed"] == 1), "env_steps"].max()
    curves.to_csv(paths["curves"], index=False)
    (group,) = groups(read(paths), "batch_size")
    steps, arms = at_equal_steps(group)
    assert steps == end and [arm.value for arm in arms] == [16, 64, 256]
    np.testing.assert_allclose(arms[0].matrix, [[end / 1000]] * 3)


def test_stiff_contacts_by_hand(files):
    results = read(files)
    pairs = {pair.algorithm: pair for pair in stiffened(results)}
    stiff, own = of(results, "hopper-stiff", "default", "shac", "stiffness"), of(results, "hopper", "default", "shac")
    assert pairs["shac"].ratio.estimate == pytest.approx(stiff.mean() / own.mean())
    figure, data = stiffness.draw(results)
    drawn = data.query("panel == 'ratio' and algorithm == 'shac'").set_index("seed")["value"]
    np.testing.assert_allclose(drawn[["0", "1", "2"]], stiff / own.mean())
    assert drawn["all"] == pytest.approx(stiff.mean() / own.mean())
    curves = data.query("panel == 'curves' and algorithm == 'ppo' and contacts == 'ordinary'")
    ours = results.curves.query("task == 'hopper' and algorithm == 'ppo'").groupby("env_steps")["return"].mean()
    np.testing.assert_allclose(curves["value"], ours)
    assert "SHAC\nstiff: n = 3\nordinary: n = 3" in texts(figure)


def test_no_ratio_to_scores_that_are_not_positive(files):
    results = read(files)
    where = (results.scores["algorithm"] == "shac") & (results.scores["suite"] == "locomotion")
    results.scores.loc[where & (results.scores["seed"] == 1), "score"] = -3.0
    figure, data = stiffness.draw(results)
    assert any("not positive" in text for text in texts(figure))
    assert data.query("panel == 'ratio' and algorithm == 'shac'")["value"].isna().all()
    assert data.query("panel == 'ratio' and algorithm == 'pwm'")["value"].notna().all()


def test_regularisation_draws_ours_and_the_published_returns(files):
    results = read(files)
    figure, data = regularisation.draw(results)
    ours = data.query("source == 'measured' and seed == 'all'").set_index("setting")
    assert ours.loc["relu", "score"] == pytest.approx(of(results, "hopper", "regularisation.relu").mean())
    told = data.query("source != 'measured'").set_index("setting")["score"]
    assert told.to_dict() == {"reference": 9586, "none": 7469, "spectral": 5793, "plain": 5576}
    assert {*told} == {*published.quoted().query("claim == 'C6'")["value"]}
    assert {"SimNorm, Mish", "plain MLP", "ant, published", "n = 3"} <= {*texts(figure)}


def test_batch_size_draws_curves_and_returns_after_equal_steps(files):
    results = read(files)
    figure, data = batch_size.draw(results)
    ends = results.curves.query("variant == 'batch_size.256' and env_steps == 250000")["return"]
    drawn = data.query("panel == 'equal steps' and setting == '256'").set_index("seed")
    assert drawn.loc["all", "return"] == pytest.approx(ends.mean()) and drawn.loc["all", "env_steps"] == 250_000
    np.testing.assert_allclose(drawn.loc[["0", "1", "2"], "return"], ends)
    curve = data.query("panel == 'curves' and batch_size == 64")
    mean = results.curves.query("algorithm == 'pwm' and variant == 'default' and task == 'hopper'")
    np.testing.assert_allclose(curve["return"], mean.groupby("env_steps")["return"].mean())
    assert {"batch 16 (n = 3)", "after 250,000 environment steps"} <= {*texts(figure)}


def test_model_quality_draws_scores_by_updates_and_horizon(files):
    results = read(files)
    figure, data = model_quality.draw(results)
    group = groups(results, "model_updates")[0]
    drawn = data.query("ablation == 'model_updates' and seed == 'all'").set_index("value")
    for arm in group.arms:
        assert drawn.loc[arm.value, "score"] == pytest.approx(arm.iqm.estimate)
        assert drawn.loc[arm.value, "low"] < arm.iqm.estimate < drawn.loc[arm.value, "high"]
    told = data.query("source != 'measured'").set_index(["tasks", "value"])["score"]
    assert told.to_dict() == {("mt30", 3): 0.799, ("mt30", 16): 0.864, ("mt80", 3): 0.869, ("mt80", 16): 0.913}
    assert "MT80, published" in texts(figure) and "3\nnot run" in texts(figure)
