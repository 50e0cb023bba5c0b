"""Statistics against hand computation, closed forms and simulation."""

import numpy as np
import pandas as pd
import pytest
from rliable import metrics
from scipy import stats
from synthetic_results import make_runs, make_scores, write_results

from pwm import progress, statistics
from pwm.errors import UserError
from pwm.statistics import Estimate


def scores_of(rows: list[tuple]) -> pd.DataFrame:
    """Scores from `(suite, task, algorithm, variant, seed, score)`."""
    return pd.DataFrame(rows, columns=[*statistics.RUN_KEYS, "score"])


def test_aggregates_by_hand():
    matrix = np.array([[0.1, 0.8], [0.2, 0.9], [0.3, 1.0], [0.4, 2.0]])
    found = statistics.aggregate(matrix, reps=50)
    # Eight scores: the two lowest and the two highest go, .3 .4 .8 .9 stay.
    assert found["iqm"].estimate == pytest.approx((0.3 + 0.4 + 0.8 + 0.9) / 4)
    assert found["mean"].estimate == pytest.approx(5.7 / 8)
    assert found["median"].estimate == pytest.approx((0.25 + 1.175) / 2)  # of the two tasks' means
    assert found["optimality_gap"].estimate == pytest.approx((0.9 + 0.8 + 0.7 + 0.6 + 0.2 + 0.1 + 0 + 0) / 8)
    assert all(low <= value <= high for value, low, high in found.values())


def test_score_matrix_has_runs_as_rows_and_tasks_as_columns():
    rows = [
        ("mt30", task, "pwm", "default", seed, 10 * seed + place)
        for seed in (2, 0, 1)
        for place, task in enumerate("ab")
    ]
    other = [("mt30", "a", "sac", "default", 0, -1.0), ("mt80", "a", "pwm", "default", 0, -1.0)]
    matrix = statistics.score_matrix(scores_of(rows + other), "mt30", "pwm", "default", ["a", "b"])
    np.testing.assert_array_equal(matrix, [[0, 1], [10, 11], [20, 21]])
    swapped = statistics.score_matrix(scores_of(rows), "mt30", "pwm", "default", ["b", "a"], seeds=[1])
    np.testing.assert_array_equal(swapped, [[11, 10]])


def test_score_matrix_names_the_missing_run():
    rows = [("mt30", "a", "pwm", "default", 0, 1.0), ("mt30", "b", "pwm", "default", 1, 1.0)]
    with pytest.raises(UserError, match="mt30/b/pwm/default seed 0"):
        statistics.score_matrix(scores_of(rows), "mt30", "pwm", "default", ["a", "b"])


def test_intervals_repeat_and_leave_the_global_generator_alone():
    matrix = np.random.default_rng(0).normal(size=(5, 3))
    np.random.seed(7)  # noqa: NPY002
    expected_draw = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    first = statistics.aggregate(matrix, reps=100, seed=3)
    assert np.random.random() == expected_draw  # noqa: NPY002
    assert statistics.aggregate(matrix, reps=100, seed=3) == first
    assert statistics.aggregate(matrix, reps=100, seed=4)["mean"].low != first["mean"].low


def test_the_global_generator_comes_back_after_an_error():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(RuntimeError), statistics._seeded(0):
        raise RuntimeError
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("matrices", "told"),
    [
        ([np.array([[1.0, np.nan], [1.0, 2.0]])], "gaps"),
        ([np.ones(3)], r"not \(3,\)"),
        ([np.ones((0, 4))], r"not \(0, 4\)"),
        ([np.ones((5, 3)), np.ones((5, 3)).T], r"same tasks, not \(5, 3\), \(3, 5\)"),
    ],
)
def test_incomplete_or_transposed_scores_are_refused(matrices, told):
    calls = [lambda: statistics.contrast(lambda *x: 0.0, matrices)]
    if len(matrices) == 2:
        calls += [lambda: statistics.probability_of_improvement(*matrices)]
    else:
        calls += [lambda: statistics.aggregate(*matrices)]
        calls += [lambda: statistics.performance_profile({"a": matrices[0]}, np.array([0.5]))]
    for call in calls:
        with pytest.raises(ValueError, match=told):
            call()


def test_no_interval_from_one_run():
    one = np.array([[0.2, 0.4]])
    for found in (
        statistics.aggregate(one)["mean"],
        statistics.probability_of_improvement(one, np.ones((3, 2))),
        statistics.probability_of_improvement(np.ones((3, 2)), one),
    ):
        assert np.isfinite(found.estimate)
        assert np.isnan(found.low) and np.isnan(found.high)
    _, low, high = statistics.performance_profile({"a": one}, np.array([0.3]))["a"]
    assert np.isnan(low).all() and np.isnan(high).all()


def intervals(measure, runs: int, tasks: int, simulations: int, reps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores `[runs, tasks, simulations]` of tasks whose levels lie around 0.5, and the interval of each simulation."""
    level = np.linspace(0.2, 0.8, tasks) if tasks > 1 else np.array([0.5])
    scores = level[:, None] + 0.1 * np.random.default_rng(0).normal(size=(runs, tasks, simulations))
    _, low, high = statistics._bootstrap(measure, scores, reps, 0)
    return scores, low, high


def test_intervals_of_the_mean_cover_the_truth_as_often_as_is_said():
    """93–97 % at 10 seeds × 10 tasks; less from fewer seeds, as the closed form has it."""
    assert 0.93 < statistics.coverage(10, 10) < 0.97
    for runs, tasks, simulations in ((10, 10, 2500), (3, 10, 2500), (3, 1, 5000)):
        _, low, high = intervals(lambda x: x.mean(axis=(0, 1)), runs, tasks, simulations, reps=1000)
        expected = statistics.coverage(runs, tasks)
        error = np.sqrt(expected * (1 - expected) / simulations)
        assert np.mean((low <= 0.5) & (high >= 0.5)) == pytest.approx(expected, abs=3 * error)
    assert np.mean(high - low) < 2 * 1.96 * 0.1 / np.sqrt(3)  # too narrow


def test_intervals_of_the_iqm_cover_the_truth_at_10_seeds_and_10_tasks():
    """93.2 % in 12,000 simulations; here within the error of 1,500."""

    def iqm(sample: np.ndarray) -> np.ndarray:
        return stats.trim_mean(sample.reshape(100, -1), 0.25, axis=0)

    scores, low, high = intervals(iqm, 10, 10, 1500, reps=400)
    assert 0.93 - 3 * 0.0064 < np.mean((low <= 0.5) & (high >= 0.5)) < 0.97
    _, low, high = statistics._bootstrap(iqm, scores[..., :1], 400, 0)  # the intervals of figures and tables
    own = statistics.aggregate(scores[..., 0], ["iqm"], reps=400)["iqm"]
    assert (own.low, own.high) == pytest.approx((low[0], high[0]))


def test_detectable_difference_by_hand_and_by_its_power():
    one = np.array([-1.5, -0.5, 0.5, 1.5])[:, None]  # variance 5/3
    # Student's t, 6 degrees of freedom: 2.447 (two-sided 5 %) and 0.906 (80 %)
    assert statistics.detectable_difference(one) == pytest.approx((2.447 + 0.906) * np.sqrt(5 / 3 * 2 / 4), rel=1e-3)
    # A second task of variance 15: pooled 25/3, mean over two tasks; 12 degrees of freedom: 2.179 and 0.873
    two = np.hstack([one, 10 + 3 * one])
    assert statistics.detectable_difference(two) == pytest.approx((2.179 + 0.873) * np.sqrt(25 / 3 * 2 / 8), rel=1e-3)
    assert np.isnan(statistics.detectable_difference(one[:1]))
    for runs in (3, 10):  # the test's exact power at that difference, which the sum of quantiles approximates
        matrix = np.random.default_rng(0).normal(size=(runs, 1))
        freedom, shift = (
            2 * (runs - 1),
            statistics.detectable_difference(matrix) / (matrix.std(ddof=1) * np.sqrt(2 / runs)),
        )
        bound = stats.t.ppf(0.975, freedom)
        power = stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift)
        assert power == pytest.approx(0.8, abs=0.01)


def test_probability_of_improvement_by_hand_and_as_rliable_defines_it():
    x, y = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[2.0, 5.0], [0.0, 6.0], [3.0, 4.0]])
    # Task 1: 1 beats 0; 3 beats 2, 0 and ties 3: 3.5 of 6. Task 2: each 5 ties 5, beats 4: 3 of 6.
    found = statistics.probability_of_improvement(x, y, reps=100)
    assert found.estimate == pytest.approx((3.5 + 3) / 12)
    assert found.estimate == pytest.approx(metrics.probability_of_improvement(x, y))
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_a_contrast_by_hand():
    x, y = np.array([[3.0], [5.0]]), np.array([[1.0], [2.0], [3.0]])
    found = statistics.contrast(lambda x, y: x.mean() / y.mean(), [x, y])
    assert found.estimate == 2.0
    # Of the ratios that 4 × 27 draws can give, 1 has a chance of 0.9 % and 1.125 of 2.8 %; 5 of 0.9 %, 4 of 1.9 % and
    # 3.75 of 2.8 %, so that the upper bound is 4 or, by the chance of the resamples, its neighbour.
    assert found.low == 1.125 and found.high in (4.0, 3.75)
    # Of x and of y by themselves: were both drawn by the same places, 3 / 1 or 5 / 1 would not come with 3 / 3.
    assert statistics.contrast(lambda x, y: x.mean() - y.mean(), [x, x]).high == 2.0
    assert np.isnan(statistics.contrast(lambda x, y: x.mean() - y.mean(), [x[:1], y])[1:]).all()


def test_performance_profile_by_hand():
    taus = np.array([0.0, 0.5, 1.0])
    matrices = {"a": np.array([[0.5, 0.6], [0.2, 1.5]]), "b": np.full((2, 2), 2.0)}
    found = statistics.performance_profile(matrices, taus, reps=100)
    np.testing.assert_allclose(found["a"][0], [1, 0.5, 0.25])  # a score equal to tau is not above it
    np.testing.assert_array_equal(found["b"], np.ones((3, 3)))
    assert (found["a"][1] <= found["a"][0]).all() and (found["a"][0] <= found["a"][2]).all()


def test_locomotion_is_divided_by_ppos_mean_and_nothing_else_is():
    rows = [
        ("locomotion", "hopper", "ppo", "default", 0, 100.0),
        ("locomotion", "hopper", "ppo", "default", 1, 300.0),
        ("locomotion", "hopper", "ppo", "ablation", 0, 9999.0),
        ("locomotion", "hopper", "pwm", "default", 0, 500.0),
        ("locomotion", "ant", "ppo", "default", 0, 10.0),
        ("locomotion", "ant", "pwm", "default", 0, 5.0),
        ("mt30", "walker-walk", "pwm", "default", 0, 0.7),
    ]
    scores = scores_of(rows)
    np.testing.assert_allclose(statistics.normalise_by_ppo(scores)["score"], [0.5, 1.5, 9999 / 200, 2.5, 1.0, 0.5, 0.7])
    assert scores["score"][0] == 100.0  # the caller's table is not touched


@pytest.mark.parametrize(("ppo", "told"), [([], "PPO has no run on hopper"), ([-3.0, 1.0], "on hopper is -1 ")])
def test_normalisation_needs_a_positive_ppo_score(ppo, told):
    rows = [("locomotion", "hopper", "ppo", "default", seed, score) for seed, score in enumerate(ppo)]
    with pytest.raises(UserError, match=told):
        statistics.normalise_by_ppo(scores_of([*rows, ("locomotion", "hopper", "pwm", "default", 0, 1.0)]))


def curves_of(rows: list[tuple]) -> pd.DataFrame:
    """Curves from `(task, seed, env_steps, return)`."""
    return pd.DataFrame(rows, columns=["task", "seed", "env_steps", "return"])


def test_common_curves_interpolate_and_never_extrapolate():
    rows = [("a", 0, 0, 0.0), ("a", 0, 10, 10.0), ("a", 0, 20, 40.0), ("a", 1, 5, 1.0), ("a", 1, 15, 3.0)]
    grid, values = progress.common_curves(curves_of(rows), "env_steps")
    np.testing.assert_array_equal(grid, [5, 10, 15])
    np.testing.assert_allclose(values, [[5, 10, 25], [1, 2, 3]])


def test_best_over_training_by_hand():
    rows = [
        ("a", seed, step, value) for seed, run in enumerate([(0, 9, 4), (0, 1, 8)]) for step, value in enumerate(run)
    ]
    curves = curves_of(rows).rename(columns={"env_steps": "updates"})
    assert progress.best_over_training(curves) == 6  # means 0, 5, 6; single runs reach 9 and 8
    assert np.isnan(progress.best_over_training(curves.iloc[:0]))


def test_sample_efficiency_by_hand():
    rows = [
        (task, seed, step, (seed + 1) * step * unit)
        for task, unit in (("a", 1), ("b", 10))
        for seed in range(2)
        for step in (0, 10)
    ]
    curves = curves_of(rows)
    curves["score"] = curves["return"] / curves["task"].map({"a": 1, "b": 10})
    grid, iqm, low, high = progress.sample_efficiency(curves, ["a", "b"], points=3)
    np.testing.assert_allclose(grid, [0, 5, 10])
    np.testing.assert_allclose(iqm, [0, 7.5, 15])  # of 1, 1, 2, 2 times the step
    assert (low <= iqm).all() and (iqm <= high).all() and low[2] < high[2]
    with pytest.raises(UserError, match="a 2, b 0"):
        progress.sample_efficiency(curves.iloc[:4], ["a", "b"])
    with pytest.raises(UserError, match="overlap in env_steps"):
        progress.sample_efficiency(
            curves.assign(env_steps=curves["env_steps"] + 20 * (curves["task"] == "b")), ["a", "b"]
        )


def test_files_come_back_as_they_were_written(tmp_path):
    paths = write_results(tmp_path)
    scores, curves = statistics.load_scores(paths["scores"]), statistics.load_curves(paths["curves"])
    expected = statistics.load_expected(paths["expected"])
    assert len(expected) == 3 * (4 + 4 * 3) + 5 and scores["seed"].dtype == int
    assert scores["commit"].unique().tolist() == ["abc1234"] and set(curves["scale"]) == {"demo"}


def test_an_empty_table_is_a_table(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text(",".join(statistics.SCORE_COLUMNS) + "\n")
    assert statistics.load_scores(file).empty


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda table: table.drop(columns="score"), "has no column score"),
        (lambda table: pd.concat([table, table.iloc[[1]]]), "holds mt30/a/pwm/default seed 1 twice"),
        (lambda table: table.assign(score=[0.5, np.nan]), "score of mt30/a/pwm/default seed 1 is nan"),
        (lambda table: table.assign(score=[0.5, np.inf]), "score of mt30/a/pwm/default seed 1 is inf"),
        (lambda table: table.assign(score=["0.5", "good"]), "score of mt30/a/pwm/default seed 1 is good"),
        (lambda table: table.assign(env_steps=["10", "many"]), "env_steps of mt30/a/pwm/default seed 1 is many"),
    ],
)
def test_damaged_scores_are_refused_in_one_line(tmp_path, damage, told):
    scores = make_scores(make_runs({"mt30": {"a": [("pwm", "default")]}}, seeds=2), "demo")
    file = tmp_path / "scores.csv"
    damage(scores).to_csv(file, index=False)
    with pytest.raises(UserError) as caught:
        statistics.load_scores(file)
    assert told in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_curve_given_twice_is_refused(tmp_path):
    paths = write_results(tmp_path)
    curves = pd.read_csv(paths["curves"])
    pd.concat([curves, curves.query("algorithm == 'ppo' and seed == 1")]).to_csv(paths["curves"], index=False)
    with pytest.raises(UserError, match="holds locomotion/hopper/ppo/default seed 1 twice"):
        statistics.load_curves(paths["curves"])


@pytest.mark.parametrize(
    ("content", "told"), [(None, "does not exist"), ("", "cannot be read"), ('a,b\n"1', "cannot be read")]
)
def test_unreadable_files_are_refused_in_one_line(tmp_path, content, told):
    file = tmp_path / "scores.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=told) as caught:
        statistics.load_scores(file)
    assert "\n" not in str(caught.value)


def test_estimates_are_plain_floats():
    found = statistics.aggregate(np.ones((2, 1)), ["mean"], reps=10)["mean"]
    assert found == Estimate(1.0, 1.0, 1.0) and all(type(value) is float for value in found)
