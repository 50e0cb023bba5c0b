"""Figures: what they draw, what they say about missing runs, and that the same data make the same bytes."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawing import ABLATIONS, draw, read, texts
from matplotlib.text import Text
from PIL import Image
from synthetic_results import DMCONTROL, MATRIX, MT80, REFERENCES, arguments, with_ablations, write_results

from workflows.figures import (
    _per_task,
    learning_curves,
    learning_curves_wall_time,
    locomotion_aggregate,
    mt80_per_task,
    style,
)
from workflows.figures import locomotion_per_task as per_locomotion
from workflows.figures import mt30_per_task as per_task

pytestmark = pytest.mark.usefixtures("few_resamples")
ROOT = Path(__file__).parents[1]
PAGES = ("workflow", "film_strip", "costs", "missing", "provenance")  # of the report, besides figures and tables
MEASURED = ("ball_wall", "gradient_quality")  # not drawn from runs; test_gradients.py draws them
STEMS = sorted(p.stem for p in (ROOT / "workflows/figures").glob("[!_]*.py") if p.stem not in ("style", *MEASURED))
MISSING = (
    "task == 'cheetah-run' and variant == 'multitask'",
    "algorithm == 'shac' and seed == 2",
    "task == 'walker-walk' and algorithm == 'tdmpc2' and seed > 0",
    "variant == 'regularisation.plain'",
    "suite == 'stiffness' and algorithm == 'shac'",
    "variant in ('batch_size.16', 'model_horizon.3') and seed == 2",
)


def module_of(stem: str):
    return importlib.import_module(f"workflows.figures.{stem}")


@pytest.fixture(scope="module")
def partial(tmp_path_factory) -> dict[str, Path]:
    """A demo scale with missing runs."""
    return write_results(tmp_path_factory.mktemp("partial"), matrix=with_ablations() | MT80, missing=MISSING)


@pytest.mark.parametrize("stem", STEMS)
def test_same_data_same_bytes_nothing_clipped(stem, partial, tmp_path):
    module = module_of(stem)
    for name in ("one", "two"):
        (figure, data), results = draw(module, partial, out=tmp_path / name / stem)
        style.save(figure, data, results)
    for suffix in ("pdf", "png", "csv"):
        first, second = ((tmp_path / name / f"{stem}.{suffix}").read_bytes() for name in ("one", "two"))
        assert first == second and len(first) > 500
    assert b"CreationDate" not in (tmp_path / f"one/{stem}.pdf").read_bytes()
    about = Image.open(tmp_path / f"one/{stem}.png").text
    assert about["Commit"] == "abc1234" and about["Scale"] == "demo"
    assert f"workflows.figures.{stem} --scores results/demo/scores.csv" in about["Command"]
    figure.draw_without_rendering()
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= style.SMALL
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 > -0.01 and drawn.y0 > -0.01 and drawn.x1 < width + 0.01 and drawn.y1 < height + 0.01


@pytest.mark.parametrize(("scale", "marked"), [("test", True), ("demo", True), ("laptop", False), ("paper", False)])
def test_only_small_scales_are_watermarked(scale, marked):
    figure = style.message("nothing")
    style.watermark(figure, scale)
    assert (f"{scale} scale" in texts(figure)) == marked


def test_saving_watermarks(tmp_path):
    pixels = {}
    for scale in ("demo", "laptop"):
        results = read(per_task, tmp_path / scale, scale, matrix={}, seeds=1)
        figure, data = per_task.draw(results)
        style.save(figure, data, results)
        pixels[scale] = np.asarray(Image.open(f"{results.out}.png"))[..., :3]
    grey = {scale: int((image == 0xEE).all(axis=-1).sum()) for scale, image in pixels.items()}
    assert grey["demo"] > 1000 and grey["laptop"] < 50


def test_colours_by_algorithm_and_marks_by_variant(tmp_path):
    pairs = [
        ("pwm", "default"),
        ("pwm", "b"),
        ("pwm", "a"),
        ("zeta", "default"),
        ("alpha", "default"),
        ("ppo", "default"),
    ]
    looks = style.looks(read(per_task, tmp_path, matrix={"mt30": {"walker-walk": pairs}}))
    assert looks["pwm", "default"].colour == looks["pwm", "a"].colour == style.COLOURS["pwm"]
    assert len({looks["pwm", variant].marker for variant in ("default", "a", "b")}) == 3
    assert len({str(looks["pwm", variant].linestyle) for variant in ("default", "a", "b")}) == 3
    colours = [looks[name, "default"].colour for name in ("pwm", "ppo", "random", "alpha", "zeta")]
    assert len(set(colours)) == 5 and not {*colours[3:]} & {*style.COLOURS.values()}
    assert looks["zeta", "default"].label == "zeta" and looks["pwm", "a"].label == "PWM a"


def test_more_unknown_algorithms_than_colours_still_draw(tmp_path):
    pairs = [(f"new{index}", "default") for index in range(len(style.SPARE_COLOURS) + 1)]
    results = read(per_task, tmp_path, matrix={"mt30": {"walker-walk": pairs}})
    assert {*style.looks(results)} >= {*pairs, *REFERENCES}


def test_per_task_draws_means_of_seeds_and_names_missing_runs(partial):
    (figure, data), results = draw(per_locomotion, partial)
    scores = results.scores
    ppo = scores.query("task == 'hopper' and algorithm == 'ppo'").score.mean()
    shac = scores.query("task == 'hopper' and algorithm == 'shac'").score
    drawn = data.query("algorithm == 'shac' and source == 'measured'").set_index("seed")
    assert drawn.loc["mean", "score"] == pytest.approx(shac.mean() / ppo)
    assert sorted(drawn.drop("mean")["score"]) == pytest.approx(sorted(shac / ppo))
    assert drawn.loc["mean", "low"] < drawn.loc["mean", "score"] < drawn.loc["mean", "high"]
    assert {"n = 2/3", "Locomotion (n = 3)"} <= {*texts(figure)} and set(data.task) == {"hopper"}
    (figure, data), _ = draw(per_task, partial)
    single = data.query("task == 'walker-walk' and algorithm == 'tdmpc2' and variant == 'default' and seed == 'mean'")
    assert single[["low", "high"]].isna().all(axis=None) and single[["n", "expected"]].to_numpy().tolist() == [[1, 3]]
    assert {"n = 1/3", "PWM multitask: not run"} <= {*texts(figure)} and set(data.task) == {*DMCONTROL}


def test_published_scores_stand_beside_ours_with_their_source(partial):
    (figure, data), _ = draw(per_task, partial)
    published = data.query("variant == 'published'").set_index(["task", "algorithm"])
    assert published.loc[("walker-walk", "pwm"), "score"] == 0.9858  # as results/published/scores.csv has them
    assert published.loc[("walker-walk", "tdmpc2"), ["score", "n"]].tolist() == [0.979, 10]
    assert set(published["source"]) == {"published run data of the PWM paper: mean episode return / 1000"}
    assert any(f"○ {published['source'].iloc[0]}" in text for text in texts(figure))
    (figure, data), _ = draw(per_locomotion, partial)
    published = data.query("variant == 'published'").set_index("algorithm")
    assert published.loc["pwm", ["score", "unit"]].tolist() == [1.198, "score / PPO's mean score"]
    assert published["source"].str.contains("max over training").all()
    hollow = [line for line in figure.axes[0].lines if line.get_fillstyle() == "none"]
    assert sorted(line.get_xdata()[0] for line in hollow) == pytest.approx(sorted(published["score"]))


def test_mt80_has_a_panel_for_each_family(partial):
    (figure, data), _ = draw(mt80_per_task, partial)
    assert {"MT80, DMControl (n = 3)", "MT80, Meta-World (n = 3)", "push", "reach"} <= {*texts(figure)}
    units = data.groupby("task")["unit"].unique().map(list).to_dict()
    success = ["score (success at the last step)"]
    assert units == {"fish-swim": ["score (return / 1000)"], "mw-push": success, "mw-reach": success}
    source = data.query("task == 'mw-push' and algorithm == 'pwm' and variant == 'published'")["source"].item()
    assert source == "published run data of the PWM paper: mean success rate"


@pytest.mark.parametrize("tasks", [1, 12, 13, 30, 50])
def test_the_columns_of_a_panel_hold_all_its_tasks(tasks):
    layout = _per_task.Layout(tasks, lines=2)
    assert layout.rows * (layout.columns - 1) < tasks <= layout.rows * layout.columns


def test_curves_keep_units_apart_and_average_seeds(partial):
    (figure, data), results = draw(learning_curves, partial)
    offline = (data.suite == "mt30") & (data.algorithm == "pwm")
    assert set(data[offline].axis) == {"updates"} and set(data[~offline].axis) == {"env_steps"}
    curves = results.curves.query("task == 'hopper' and algorithm == 'ppo'")
    mean = data.query("task == 'hopper' and algorithm == 'ppo' and seed == 'mean'")
    np.testing.assert_allclose(mean["value"], curves.groupby("env_steps")["return"].mean())
    told = [text.replace("\n", " ") for text in texts(figure)]
    assert {"Locomotion, n = 3; SHAC 2/3", "MT30, n = 3; TD-MPC2 1/3", "all 4 tasks"} <= {*told}
    assert any("PWM multitask not run" in text for text in told)
    wall = learning_curves_wall_time.draw(results)[1]
    assert set(wall.axis) == {"wall_minutes"} and wall.x.max() < 20  # minutes: the runs take 900 s
    assert set(wall.query("task == 'walker-walk'").algorithm) == {"pwm", "tdmpc2"}


def test_curves_of_all_tasks_together_by_hand(partial):
    (_, data), results = draw(learning_curves, partial)
    own = "algorithm == 'pwm' and variant == 'default'"
    drawn = data.query(f"suite == 'mt30' and task == 'all' and {own}")
    curves = results.curves.query(f"suite == 'mt30' and {own}")
    ends = curves[curves["updates"] == curves["updates"].max()]
    assert len(ends) == 12 and drawn["x"].iloc[[0, -1]].tolist() == [0, 10_000]
    last = drawn.iloc[-1]
    assert last["value"] == pytest.approx(np.sort(ends["return"] / 1000)[3:9].mean())  # a quarter off at either end
    assert last["low"] < last["value"] < last["high"] and set(drawn["quantity"]) == {"score"}
    planned = data.query("suite == 'mt30' and task == 'all' and algorithm == 'tdmpc2'")
    assert len(planned) and planned[["low", "high"]].isna().all(axis=None)  # one seed is finished on all tasks
    assert not len(data.query("suite == 'locomotion' and task == 'all'"))  # which has one task here


def test_locomotion_together_is_in_units_of_ppo_or_not_drawn(tmp_path):
    pairs = [("pwm", "default"), ("ppo", "default")]
    results = read(learning_curves, tmp_path, matrix={"locomotion": dict.fromkeys(("hopper", "ant"), pairs)})
    (figure, data), scores = learning_curves.draw(results), results.scores
    unit = scores.query("algorithm == 'ppo'").groupby("task")["score"].mean()
    ends = results.curves.query("algorithm == 'pwm' and env_steps == 250_000")
    expected = np.sort(ends["return"] / ends["task"].map(unit))[1:5].mean()
    drawn = data.query("task == 'all' and algorithm == 'pwm'")
    assert drawn["value"].iloc[-1] == pytest.approx(expected)
    assert "IQM of score / PPO's mean score" in texts(figure)
    results.scores.loc[results.scores.algorithm == "ppo", "score"] = -1.0
    assert set(learning_curves.draw(results)[1]["task"]) == {"hopper", "ant"}


def test_other_contacts_are_tasks_and_stiff_ones_an_ablation(tmp_path):
    matrix = {"stiffness": {task: [("ppo", "default")] for task in ("hopper-soft", "hopper-stiff")}}
    results = read(learning_curves, tmp_path, matrix=matrix)
    assert set(learning_curves.draw(results)[1]["task"]) == {"hopper-soft"}


def test_a_suite_of_many_tasks_is_drawn_together_alone(tmp_path):
    tasks = ["walker-walk", "walker-run", "cheetah-run", "cup-catch", "cup-spin", "fish-swim", "hopper-hop"]
    matrix = {"mt30": {task: [("pwm", "default")] for task in tasks}}
    figure, data = learning_curves.draw(read(learning_curves, tmp_path, matrix=matrix, seeds=2))
    assert set(data["task"]) == {"all"} and "all 7 tasks" in texts(figure)


def test_curves_of_very_different_lengths_share_a_logarithmic_axis(tmp_path):
    results = read(learning_curves, tmp_path)
    results.curves.loc[results.curves.algorithm == "ppo", "env_steps"] *= 100
    scales = {axes.get_title(): axes.get_xscale() for axes in learning_curves.draw(results)[0].axes}
    assert scales["hopper"] == "log"
    results.curves.loc[results.curves.algorithm == "ppo", "env_steps"] //= 50
    assert {axes.get_xscale() for axes in learning_curves.draw(results)[0].axes} == {"linear"}


def test_locomotion_aggregate_by_hand(partial):
    (figure, data), results = draw(locomotion_aggregate, partial)
    hopper = results.scores.query("task == 'hopper'")
    ppo = hopper.query("algorithm == 'ppo'").score.mean()
    pwm = np.sort(hopper.query("algorithm == 'pwm' and variant == 'default'").score / ppo)
    own = "algorithm == 'pwm' and variant == 'default'"
    drawn = data.query(f"panel == 'aggregate' and {own}").set_index("statistic")
    assert drawn.loc["mean", "value"] == pytest.approx(pwm.mean())
    assert drawn.loc["iqm", "value"] == pytest.approx(pwm.mean())  # a quarter of three runs is no run
    curves = (
        results.curves.query("task == 'hopper'").groupby(["algorithm", "variant", "updates"])["return"].mean()
    )  # as the IQM of three is
    best = curves["pwm", "default"].max() / curves["ppo", "default"].max()
    assert drawn.loc["best_iqm", "value"] == pytest.approx(best)
    published = data.query("algorithm == 'pwm' and variant == 'published'")
    assert (
        published["value"].tolist() == [1.198, 1.198] and published["low"].isna().all() and set(published["n"]) == {5}
    )
    profile = data.query(f"panel == 'profile' and {own}")
    np.testing.assert_allclose(profile["value"], [(pwm > tau).mean() for tau in profile["tau"]])
    assert {"SHAC (n = 2/3)", "SHAC, published (n = 10)"} <= {*texts(figure)} and "random" not in set(data.algorithm)


def test_an_algorithm_that_finished_no_seed_on_all_tasks_gets_no_aggregate(tmp_path):
    pairs = [("pwm", "default"), ("shac", "default"), ("sac", "default"), ("ppo", "default")]
    matrix = {"locomotion": {"hopper": pairs, "ant": [*pairs, ("tdmpc2", "default")]}}
    missing = ("algorithm == 'shac' and task == 'ant'", "algorithm == 'sac'")
    figure, data = locomotion_aggregate.draw(read(locomotion_aggregate, tmp_path, matrix=matrix, missing=missing))
    assert {"SHAC (no seed complete)", "TD-MPC2 (n = 3, 1/2 tasks)"} <= {*texts(figure)}
    assert any("Not run: Locomotion: SAC." in text for text in texts(figure))
    assert set(data[data.source == "measured"].algorithm) == {"pwm", "ppo", "tdmpc2"}
    published = data.query("statistic == 'iqm' and variant == 'published'").set_index("algorithm")
    assert published.loc["tdmpc2", ["value", "tasks"]].tolist() == [0.998, 1]  # on the ant alone, as ours
    assert published.loc["pwm", ["value", "tasks"]].tolist() == [pytest.approx((1.198 + 1.464) / 2), 2]


def test_returns_stay_raw_where_ppo_cannot_be_the_unit(tmp_path):
    results = read(locomotion_aggregate, tmp_path)
    results.scores.loc[results.scores.algorithm == "ppo", "score"] = -5.0
    figure, data = locomotion_aggregate.draw(results)
    assert set(data.unit) == {"return"} and any("not normalised" in text for text in texts(figure))
    _, per = per_locomotion.draw(results)
    assert "published" not in set(per.variant) | set(data.variant)  # another simulator's returns
    assert per.query("algorithm == 'ppo' and seed == 'mean'").score.item() == -5.0
    assert "on hopper is -5" in per.query("suite == 'locomotion'").unit.iloc[0]


def test_raw_returns_of_several_tasks_are_not_averaged(tmp_path):
    matrix = {"locomotion": {task: [("pwm", "default")] for task in ("hopper", "ant")}}
    figure, data = locomotion_aggregate.draw(read(locomotion_aggregate, tmp_path, matrix=matrix))
    assert data.empty and any("PPO has no run on hopper" in text for text in texts(figure))


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("matrix", [{}, {"mt30": MATRIX["mt30"]}])
def test_absent_suites_are_said_plainly(stem, matrix, tmp_path):
    figure, data = module_of(stem).draw(read(module_of(stem), tmp_path, matrix=matrix, seeds=1))
    if not matrix or stem in ("locomotion_aggregate", "locomotion_per_task", "mt80_per_task", "teaser", *ABLATIONS):
        assert any(text.startswith("This scale has no") for text in texts(figure)) and data.empty


@pytest.mark.parametrize("stem", STEMS)
def test_a_scale_without_a_finished_run_draws_its_matrix_as_not_run(stem, tmp_path):
    paths = write_results(tmp_path, matrix=with_ablations(), missing=("seed >= 0",))
    for name in ("scores", "curves"):
        pd.read_csv(paths[name]).iloc[:0].to_csv(paths[name], index=False)
    (figure, _), _ = draw(module_of(stem), paths)
    told = " ".join(texts(figure))
    assert any(words in told for words in ("not run", "no algorithm", "PPO has no run", "no MT80 runs"))


def test_another_scales_files_are_refused_with_exit_code_2(partial, tmp_path):
    command = [sys.executable, "-m", "workflows.figures.mt30_per_task", *arguments(partial, "paper", tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "holds scale demo, not paper" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_figures_and_tables_never_import_torch():
    names = [f"workflows.{path.parent.name}.{path.stem}" for path in (ROOT / "workflows").glob("[ft]*/*.py")]
    code = f"import sys, {', '.join(names)}; assert 'torch' not in sys.modules and 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code.replace(".__init__", "")], cwd=ROOT, check=True)


def test_every_figure_and_table_has_a_caption():
    tables = {p.stem for p in (ROOT / "workflows/tables").glob("[!_]*.py")} - {"common"}
    captions = {p.stem: p.read_text(encoding="utf-8") for p in (ROOT / "workflows/report").glob("*.rst")}
    assert captions.keys() == {*STEMS, *MEASURED, *tables, *PAGES}
    assert all(len(text) > 80 for text in captions.values())
