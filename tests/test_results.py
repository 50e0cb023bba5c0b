"""What figures and tables are made from: files that do not fit together are refused in one line."""

import numpy as np
import pandas as pd
import pytest
from drawing import change, read_files, texts
from support import refusal
from synthetic_results import write_results

from workflows.figures import mt30_per_task
from workflows.results import name_of


@pytest.fixture
def paths(tmp_path):
    return write_results(tmp_path)


CASES = {
    "unknown algorithm": ("scores", {"algorithm": "pmw"}, "walker-walk/pmw/default seed 1, which", "correct the name"),
    "unknown task": ("scores", {"task": "walker-wlk"}, "mt30/walker-wlk/pwm/default seed 1, which", "expected.csv"),
    "unknown suite": ("scores", {"suite": "mt31"}, "mt31/walker-walk/pwm/default seed 1, which", "collate"),
    "a seed too many": ("scores", {"seed": 7}, "pwm/default seed 7, which", "expected.csv does not list"),
    "a curve of none of them": ("curves", {"variant": "x"}, "curves.csv holds mt30/walker-walk/pwm/x seed 1, which"),
    "a raw return": ("scores", {"score": 731.5}, "pwm/default seed 1 is 731.5, and scores of mt30 lie in [0, 1]"),
    "a negative score": ("scores", {"score": -0.1}, "seed 1 is -0.1, and scores of mt30 lie in [0, 1]"),
    "no number": ("scores", {"score": np.nan}, "score of mt30/walker-walk/pwm/default seed 1 is nan"),
    "another simulator": ("scores", {"simulator": "mujoco 2.1"}, "walker-walk by mujoco 2.1 and by mujoco 3.3.0"),
    "another protocol": ("scores", {"episodes": 3}, "walker-walk by 3 episodes and by 10 episodes", "evaluate all"),
    "another scale": ("scores", {"scale": "paper"}, "scores.csv holds scale paper, not demo"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_does_not_fit_is_refused(paths, case):
    name, columns, *told = CASES[case]
    query = "task == 'walker-walk' and algorithm == 'pwm' and variant == 'default' and seed == 1"
    change(paths[name], query, **columns)
    refusal(lambda: read_files(mt30_per_task, paths), *told)


def test_a_run_given_twice_is_refused(paths):
    scores = pd.read_csv(paths["scores"])
    pd.concat([scores, scores.iloc[[3]]]).to_csv(paths["scores"], index=False)
    refusal(lambda: read_files(mt30_per_task, paths), "scores.csv holds locomotion/hopper/pwm/", "twice")


def test_what_was_not_run_at_all_is_named_and_not_drawn(tmp_path):
    missing = "suite == 'mt30' and algorithm == 'tdmpc2'"
    results = read_files(mt30_per_task, write_results(tmp_path, missing=(missing,)))
    assert results.drawn("mt30") == [("pwm", "default"), ("pwm", "multitask")]
    assert ("tdmpc2", "default") in results.contestants("mt30")
    assert results.not_run("locomotion", "mt30") == "Not run: MT30: TD-MPC2."
    figure, data = mt30_per_task.draw(results)
    assert any(results.not_run("mt30") in text for text in texts(figure))
    assert "tdmpc2" not in set(data.query("source == 'measured'").algorithm)


def test_where_nothing_was_run_everything_is_drawn_as_not_run(tmp_path):
    results = read_files(mt30_per_task, write_results(tmp_path, missing=("suite == 'mt30'",)))
    assert results.drawn("mt30") == results.contestants("mt30") and len(results.drawn("mt30")) == 3


def test_scores_without_a_simulator_are_read(paths):
    change(paths["scores"], "task == 'walker-walk'", simulator=np.nan)
    assert len(read_files(mt30_per_task, paths).scores)


def test_names():
    assert name_of("pwm", "default") == "PWM" and name_of("tdmpc2", "policy_only") == "TD-MPC2 policy only"
    assert name_of("dreamerv3", "published online") == "DreamerV3, published online" and name_of("x", "y") == "x y"
