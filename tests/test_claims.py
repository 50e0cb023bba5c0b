"""Verdicts on the paper's claims: every rule on both sides of its bound, and what a scale may say at most."""

import numpy as np
import pandas as pd
import pytest
from synthetic_results import KINDS, make_runs

from pwm import statistics
from pwm.statistics import CURVE_COLUMNS, SCORE_COLUMNS, Estimate
from workflows import published
from workflows.results import Results
from workflows.tables import claims
from workflows.tables._rules import RULES, Comparison

LOCOMOTION = ("hopper", "ant", "anymal", "humanoid", "snu-humanoid")
MANY = {suite: tuple(published.scores().query("suite == @suite")["task"].unique()) for suite in ("mt30", "mt80")}
BATCHES, UPDATES = (32, 128, 2048), (50_000, 100_000, 250_000)
FACTS = {f"batch_size.{size}": {"batch_size": size} for size in BATCHES}
FACTS |= {f"model_updates.{count}": {"model_updates": count} for count in UPDATES}
FACTS |= {"model_horizon.3": {"model_horizon": 3}}
DEFAULT = {"batch_size": 64, "model_updates": 150_000, "model_horizon": 16}


def on_all(*variants: tuple[str, str]) -> dict:
    """These algorithms and variants on all tasks of MT30 and MT80."""
    return {suite: {task: [*variants] for task in tasks} for suite, tasks in MANY.items()}


def of_pwm(*variants: str) -> list[tuple[str, str]]:
    """PWM's reference and these variants."""
    return [("pwm", variant) for variant in ("default", *variants)]


# The runs that a claim is about.
PWM, SHAC, TDMPC2, PPO, SAC = ((name, "default") for name in ("pwm", "shac", "tdmpc2", "ppo", "sac"))
MATRICES = {
    "C1": {"locomotion": {task: [PWM, SHAC, TDMPC2, PPO, SAC] for task in LOCOMOTION}},
    "C2": {"locomotion": {"snu-humanoid": [PWM, PPO]}},
    "C3": on_all(PWM),
    "C4": on_all(PWM, TDMPC2),
    "C5": {},
    "C6": {"locomotion": {"ant": of_pwm(*KINDS)}},
    "C7": {"locomotion": {"hopper": [PWM, SHAC]}, "stiffness": {"hopper-stiff": [PWM, SHAC]}},
    "C8": on_all(*of_pwm("model_horizon.3")),
    "C9": {"locomotion": {"ant": of_pwm(*(f"batch_size.{size}" for size in BATCHES))}},
    "C10": {"mt30": {task: of_pwm(*(f"model_updates.{count}" for count in UPDATES)) for task in MANY["mt30"]}},
}


def strength(claim: str, run) -> float:
    """How good a run is, so that the claim holds."""
    if claim in ("C1", "C2", "C4"):
        return 1.2 if run.algorithm == "pwm" else 1.0
    if claim == "C7":
        return 0.5 if (run.algorithm, run.suite) == ("shac", "stiffness") else 1.0
    if claim == "C9":
        return 2.0 - np.log2(FACTS.get(run.variant, DEFAULT)["batch_size"]) / 12
    if claim == "C10":
        return np.log2(FACTS.get(run.variant, DEFAULT)["model_updates"]) / 16
    return 1.2 if run.variant == "default" else 1.0  # C6, C8


def measured(good: bool, seeds: int) -> dict[str, pd.DataFrame]:
    """Gradients and ascents where C5 holds, or the other way round."""
    ball, quality = [], []
    for seed in range(seeds):
        better, worse = 2.0 + 0.01 * seed, 1.0
        model, true = (better, worse) if good else (worse, better)
        ball += [("ascent", "simnorm_layernorm", seed, model), ("ascent", "true", 0, true)]
        for horizon, factor in ((1, -1), (50, 1)):  # the shortest horizon says the opposite and does not count
            x, y = (model, true) if factor > 0 else (true, model)
            quality += [("double_pendulum", "horizon16", seed, horizon, 10.0 / x, x)]
            quality += [("double_pendulum", "true", seed, horizon, 10.0 / y, y)]
            quality += [("hopper", world, seed, 60, 1.0, 1.0) for world in ("true", "horizon16")]
    tables = {"ball_wall": ball, "gradient_quality": quality}
    return {name: pd.DataFrame(rows, columns=list(claims.MEASURED[name])) for name, rows in tables.items()}


def evidence(claim: str, good: bool = True, seeds: int = 5, spread: float = 0.02, drop: str = "") -> Results:
    """Made-up runs by which a claim holds, or its contrary; runs that `drop` matches are expected and not there."""
    expected = make_runs(MATRICES[claim], seeds)
    if not len(expected):
        expected = make_runs({"mt30": {"walker-walk": [("ppo", "default")]}}, 1)
    facts = [DEFAULT | FACTS.get(variant, {}) for variant in expected["variant"]]
    runs = expected.drop(expected.query(drop).index) if drop else expected
    better = np.array([strength(claim, run) for run in runs.itertuples()])
    scores = runs.assign(scale="", score=(better if good else 1 / better) + spread * (runs["seed"] - (seeds - 1) / 2))
    scores = scores.assign(updates=10_000, train_wall_s=(500.0 if good else 700.0) + scores["seed"])
    curves = pd.concat([scores.assign(env_steps=n, **{"return": scores["score"] * n / 1000}) for n in (0, 500, 1000)])
    tables = (scores.reindex(columns=SCORE_COLUMNS), curves.reindex(columns=CURVE_COLUMNS))
    return Results(*tables, expected.join(pd.DataFrame(facts)), "", None, "", measured(good, seeds))


def judge(claim: str, scale: str, **made: object) -> tuple[str, str]:
    return claims.verdict(scale, RULES[claim][1](evidence(claim, **made)))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals only have to be there, not to be exact: 50 resamples are drawn instead of 2000."""
    bootstrap = statistics._bootstrap
    monkeypatch.setattr(statistics, "_bootstrap", lambda measure, scores, _, seed: bootstrap(measure, scores, 50, seed))


@pytest.mark.parametrize("claim", RULES)
def test_both_sides_of_every_rule(claim):
    assert judge(claim, "paper") == ("holds", "")
    assert judge(claim, "paper", good=False)[0] == "contradicted"
    assert judge(claim, "demo") == ("holds in direction", "budgets of scale demo")
    verdict, why = judge(claim, "demo", good=False)
    assert verdict == "not shown" and "the other way" in why
    assert judge(claim, "paper", seeds=4) == ("holds in direction", "fewer than 5 runs")
    assert judge(claim, "paper", seeds=2)[0] == "not shown"
    verdict, why = judge(claim, "paper", seeds=1)
    assert verdict == "not shown" and "fewer than 3 runs" in why


@pytest.mark.parametrize("claim", [claim for claim in RULES if claim != "C5"])
def test_without_runs_nothing_is_said(claim):
    assert judge(claim, "paper", drop="seed >= 0")[0] == "not run"


@pytest.mark.parametrize("claim", [claim for claim in RULES if claim not in ("C3", "C5")])
def test_an_interval_over_the_bound_shows_nothing(claim):
    assert judge(claim, "paper", spread=0.3 if claim in ("C2", "C7") else 0.6)[0] == "not shown"


PARTS = {
    "C1": "task == 'anymal' and seed >= 0",
    "C3": "suite == 'mt80'",
    "C4": "suite == 'mt80'",
    "C6": "variant == 'regularisation.relu'",
    "C8": "suite == 'mt80'",
    "C9": "variant == 'batch_size.2048'",
    "C10": "variant == 'model_updates.250000'",
}


@pytest.mark.parametrize("claim", PARTS)
def test_a_part_of_the_paper_is_a_direction_at_most(claim):
    made = evidence(claim)
    gone = made.expected.query(PARTS[claim]).index
    keys = statistics.RUN_KEYS
    left = made.expected.drop(gone)
    keep = lambda table: table[  # noqa: E731
        pd.MultiIndex.from_frame(table[keys]).isin(pd.MultiIndex.from_frame(left[keys]))
    ]
    results = Results(keep(made.scores), keep(made.curves), left, "", None, "")
    assert claims.verdict("paper", RULES[claim][1](results))[0] == "holds in direction"


def test_one_comparison_against_a_claim_is_enough():
    good = Comparison("a", Estimate(0.2, 0.1, 0.3), 5, True)
    bad = Comparison("b", Estimate(-0.2, -0.3, -0.1), 5, True)
    open_ = Comparison("c", Estimate(0.2, -0.1, 0.3), 5, True)
    absent = Comparison("d")
    assert claims.verdict("paper", [good, good]) == ("holds", "")
    assert claims.verdict("paper", [good, bad]) == ("contradicted", "b")
    assert claims.verdict("laptop", [good, bad]) == ("not shown", "the other way: b; budgets of scale laptop")
    assert claims.verdict("paper", [good, open_]) == ("not shown", "an interval over the bound")
    assert claims.verdict("paper", [good, absent]) == ("holds in direction", "not had: d")
    partly = Comparison("b", bad.effect, 5, whole=False)
    assert claims.verdict("paper", [good, partly])[0] == "not shown"
    few = Comparison("b", bad.effect, 4, whole=True)
    assert claims.verdict("paper", [good, few])[0] == "not shown"
    assert claims.verdict("paper", [absent]) == ("not run", "not had: d")


def test_bounds_and_sides():
    minutes = {"bound": 10.0, "below": True}
    assert Comparison("", Estimate(8, 7, 9), 3, **minutes).sign == 1
    assert Comparison("", Estimate(12, 11, 13), 3, **minutes).sign == -1
    assert Comparison("", Estimate(9, 8, 11), 3, **minutes).sign == 0
    assert Comparison("", Estimate(0.9, 0.8, 0.95), 3, bound=1.0).sign == -1
    assert Comparison("", Estimate(1.0, np.nan, np.nan), 1, bound=0.0).sign == 0


def effects(claim: str, **made: object) -> list[float]:
    return [row.effect.estimate for row in RULES[claim][1](evidence(claim, **made))]


def test_effects_by_hand():
    """Without noise: levels are 1.2 against 1, and PPO's unit is 1."""
    made = {"spread": 0.0}
    np.testing.assert_allclose(effects("C1", **made), [0.2] * 4)
    np.testing.assert_allclose(effects("C2", **made), [1.2])
    np.testing.assert_allclose(effects("C3"), [502 / 60] * 2)  # 500 s and the seed's number; 10,000 updates
    np.testing.assert_allclose(effects("C4", **made), [0.2] * 2)
    np.testing.assert_allclose(effects("C6", **made), [0.2] * 4)
    np.testing.assert_allclose(effects("C7", **made), [1 - 0.5])
    np.testing.assert_allclose(effects("C8", **made), [0.2] * 2)
    np.testing.assert_allclose(effects("C9", **made), [1 / 12])  # after 1000 steps, per doubling
    np.testing.assert_allclose(effects("C10", **made), [1 / 16])
    ratio = np.mean([np.log10(2.0 + 0.01 * seed) for seed in range(5)])
    np.testing.assert_allclose(effects("C5"), [ratio, 1.02, 1.02])


def test_minutes_are_those_of_the_papers_updates():
    made = evidence("C3")
    made.scores["updates"] = 500  # a twentieth of them
    comparison = RULES["C3"][1](made)[0]
    assert comparison.effect.estimate == pytest.approx(20 * 502 / 60) and not comparison.whole


def test_published_effects_are_computed():
    told = {row.what: row.published for claim, (_, rule) in RULES.items() for row in rule(evidence(claim))}
    assert told["IQM on MT30, PWM − TD-MPC2"] == "0.864 − 0.681 = 0.183"
    assert told["IQM, H = 16 − H = 3, MT80, 80 tasks"] == "0.913 − 0.869 = 0.044"
    assert told["SimNorm − plain, return on ant"] == "9586 − 5576 = 4010"
    assert told["SNU humanoid, IQM of PWM / PPO's"] == "1.36"
    # of 1.198 1.464 1.158 1.188 1.358 and 1.02 1.16 1.26 1.15 1.44 the middle three
    assert told["IQM on locomotion, PWM − SHAC"] == "1.248 − 1.190 = 0.058"
    assert told["minutes of 10,000 updates, MT80's slowest task"] == "under 10 promised, 36 to 41 in its runs"


def test_scores_without_a_unit_or_a_ratio_say_so():
    made = evidence("C1")
    made.scores.loc[made.scores["algorithm"] == "ppo", "score"] = -1.0
    rows = RULES["C1"][1](made)
    assert all("PPO's mean score" in row.what and not row.run for row in rows)
    made = evidence("C7")
    made.scores.loc[made.scores["seed"] == 0, "score"] = -1.0
    (row,) = RULES["C7"][1](made)
    assert "not positive" in row.what and not row.run
    assert claims.verdict("paper", [row]) == ("not run", f"not had: {row.what}")
    made = evidence("C2")
    made.scores.loc[made.scores["algorithm"] == "ppo", "score"] = -1.0
    assert "not positive" in RULES["C2"][1](made)[0].what
