"""Figures of whole suites, of published scores beside ours and of wall times, against hand computation."""

import numpy as np
import pandas as pd
import pytest
from drawing import change, draw, texts
from synthetic_results import DMCONTROL, MATRIX, MT80, write_results

from pwm.envs.tasks import SUITES, TASKS
from workflows import published
from workflows.figures import multitask_aggregate, teaser, time_per_task
from workflows.results import DECISIONS, unit_of

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def paths(tmp_path):
    """A demo scale with a run missing of TD-MPC2's ten on MT80."""
    return write_results(
        tmp_path, matrix=MATRIX | MT80, missing=("suite == 'mt80' and algorithm == 'tdmpc2' and seed > 1",)
    )


def iqm(values) -> float:
    """Interquartile mean: without a quarter of the values, rounded down, at either end."""
    values = np.sort(np.ravel(values))
    cut = len(values) // 4
    return values[cut : len(values) - cut].mean()


def quoted(name: str, query: str) -> pd.DataFrame:
    return pd.read_csv(published.FOLDER / f"{name}.csv").query(query).set_index(["task", "algorithm"])


def test_the_published_numbers_are_those_of_the_paper():
    """IQM and mean over all tasks, as the paper prints them of PWM, whose rows are one run a task."""
    for suite, expected in (("mt30", 0.864), ("mt80", 0.913)):
        values = quoted("scores", f"suite == '{suite}' and algorithm == 'pwm'")["normalized_score"]
        assert len(values) == len(SUITES[suite]) and round(iqm(values), 3) == expected
    assert round(values.mean(), 3) == 0.818


def test_teaser_by_hand(paths):
    (figure, data), results = draw(teaser, paths)
    found = data.set_index(["suite", "algorithm", "variant"])["value"]
    scores = results.scores.query("variant == 'default'")
    hopper = scores.query("task == 'hopper'").groupby("algorithm")["score"].apply(np.array)
    assert found["locomotion", "pwm", "default"] == pytest.approx(iqm(hopper["pwm"] / hopper["ppo"].mean()))
    assert found["locomotion", "pwm", "published"] == 1.198
    for algorithm, seeds in (("pwm", 3), ("tdmpc2", 2)):
        own = scores.query("suite == 'mt80' and algorithm == @algorithm")["score"]
        assert len(own) == 3 * seeds and found["mt80", algorithm, "default"] == pytest.approx(iqm(own))
    three = quoted("scores", "suite == 'mt80' and task in ('fish-swim', 'mw-push', 'mw-reach')")["normalized_score"]
    for algorithm in ("pwm", "tdmpc2"):  # of three values none is cut
        assert found["mt80", algorithm, "published"] == pytest.approx(three.xs(algorithm, level=1).mean())
    assert set(data["statistic"]) == {"iqm"} and "random" not in set(data["algorithm"])
    assert ("locomotion", "pwm", "no-simnorm") not in found.index
    told = {*texts(figure)}
    assert {"Locomotion, 1 task", "MT80, 3 tasks", "TD-MPC2\nn = 2/3", "TD-MPC2\nnot run", "PWM\nn = 3"} <= told


def test_a_suite_that_the_scale_has_not_is_said_in_its_panel(tmp_path):
    """Published scores on all of its tasks stand there alone, and their title says so."""
    pwm = iqm(quoted("scores", "suite == 'mt80' and algorithm == 'pwm'")["normalized_score"])
    matrices = {teaser: MATRIX, multitask_aggregate: {"mt30": MATRIX["mt30"]}}
    for module, matrix in matrices.items():
        (figure, data), _ = draw(module, write_results(tmp_path / module.__name__, matrix=matrix))
        told, alone = texts(figure), data.query("suite == 'mt80' and statistic == 'iqm'").set_index("algorithm")
        assert "MT80, 80 tasks: not run" in told and set(alone["variant"]) == {"published"}
        assert alone.loc["pwm", ["value", "tasks", "n"]].tolist() == [pytest.approx(pwm), 80, 1]
    assert any("┆ promise: 10 minutes (the PWM paper); ▨ median" in text for text in told)


def test_suites_and_experts_by_hand(paths):
    (figure, data), results = draw(multitask_aggregate, paths)
    found = data[data["statistic"] == "iqm"].set_index(["panel", "algorithm", "variant"])
    pwm = results.scores.query("suite == 'mt30' and algorithm == 'pwm' and variant == 'default'").set_index("task")[
        "score"
    ]
    assert found.loc[("mt30", "pwm", "default"), "value"] == pytest.approx(iqm(pwm))
    experts = quoted("online_dmcontrol", "env_steps == 1_000_000")["mean_return"] / 1000
    shared = [task for task in DMCONTROL if (task, "sac") in experts.index]
    assert 0 < len(shared) < len(DMCONTROL)
    assert found.loc[("experts", "pwm", "default"), "value"] == pytest.approx(iqm(pwm[shared]))
    for algorithm in ("sac", "dreamerv3", "tdmpc2"):
        row = found.loc[("experts", algorithm, "published online")]
        assert row["value"] == pytest.approx(np.mean([experts[task, algorithm] for task in shared]))
        assert (row["tasks"], row["suite_tasks"], row["n"]) == (len(shared), len(shared), 3)
        assert row["source"].startswith("published result curves of the TD-MPC2 paper")
    offline = quoted("scores", "suite == 'mt30'")["normalized_score"]
    expected = np.mean([offline[task, "tdmpc2"] for task in shared])
    assert found.loc[("experts", "tdmpc2", "published"), "value"] == pytest.approx(expected)
    assert not {"published online"} & set(data[data["panel"] == "mt30"]["variant"])  # another protocol
    told = texts(figure)
    assert {f"MT30 beside experts, {len(shared)} tasks", "SAC, published online (n = 3)", "TD-MPC2 (n = 2/3)"} <= {
        *told
    }
    assert any("◇ published result curves of the TD-MPC2 paper" in text for text in told)


def test_times_of_training_and_acting_by_hand(paths):
    change(paths["scores"], "suite == 'mt80' and task == 'mw-push' and algorithm == 'pwm'", train_wall_s=[60, 120, 600])
    change(paths["scores"], "suite == 'mt80' and task == 'mw-push' and algorithm == 'pwm'", eval_wall_s=2.0)
    change(paths["scores"], "suite == 'mt30' and algorithm == 'tdmpc2'", updates=0)  # scored in a finished model
    (_, data), _ = draw(multitask_aggregate, paths)
    times = data[data["statistic"] == "median and range"]
    found = {
        tuple(row[:4]): row[4:]
        for row in times[["panel", "suite", "algorithm", "variant", "value", "low", "high"]].to_numpy().tolist()
    }
    assert found["train_minutes", "mt80", "pwm", "default"] == [1, 1, 10]  # seven of nine take a minute
    rates = found["decisions_per_s", "mt80", "pwm", "default"]
    assert rates == [1000, 500, 5000]  # 10 episodes of 100 decisions in 1 s or 2 s, or of 500 in 1 s
    assert ("train_minutes", "mt30", "tdmpc2", "default") not in found
    assert ("decisions_per_s", "mt30", "tdmpc2", "default") in found


def test_episodes_are_as_long_as_the_task_table_says():
    for suite, names in SUITES.items():
        for name in names:
            expected = TASKS[name].episode_length
            assert DECISIONS.get(unit_of(suite, name), expected) == expected


def test_minutes_by_task_against_the_promise(paths):
    pwm = "suite == 'mt30' and algorithm == 'pwm' and variant == 'default'"
    change(paths["scores"], f"{pwm} and task == 'cheetah-run'", train_wall_s=[540, 540, 720])  # 9, 9, 12 minutes
    change(paths["scores"], f"{pwm} and task == 'walker-walk'", train_wall_s=[300, 360, 420])
    (figure, data), _ = draw(time_per_task, paths)
    found = data.query("suite == 'mt30' and variant == 'default'").set_index("task")[["minutes", "low", "high"]]
    assert found.loc["cheetah-run"].tolist() == [10, 9, 12] and found.loc["walker-walk"].tolist() == [6, 5, 7]
    said = data[data["source"] != "measured"].set_index("variant")[["low", "high"]]
    assert said.to_numpy().tolist() == [[10, 10], [36, 41]]
    told = texts(figure)
    assert "3 of 4\nunder 10 min" in told and "cheetah-run" in told  # the longest run counts, the longest task is named
    large = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_markersize() == 5]
    assert large[0] == np.median([10, 6, 1, 1])


def test_tasks_that_were_not_run_are_counted_as_such(tmp_path):
    missing = ("suite == 'mt30' and algorithm == 'pwm' and task in ('cheetah-run', 'walker-walk')",)
    (figure, data), _ = draw(time_per_task, write_results(tmp_path, missing=missing))
    assert "2 of 2 (of 4: the others not run)\nunder 10 min" in texts(figure)
    assert data.query("task == 'cheetah-run'")[["n", "expected"]].to_numpy().tolist() == [[0, 3], [0, 3]]
