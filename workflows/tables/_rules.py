"""The rule of each claim of the paper: which comparisons of runs it comes down to. Verdicts are `claims.py`'s.

A comparison is one number and a bound that the claim says it lies above, or below. Rules were written before any run
of the scales `laptop` and `paper`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pwm import statistics
from workflows import published
from workflows.ablations import NONE, Arm, at_equal_steps, groups, kept, stiffened
from workflows.results import ALGORITHMS, Results

SUITES_OF_MANY = ("mt30", "mt80")
iqm = statistics.METRICS["iqm"]


@dataclass(frozen=True)
class Comparison:
    """One number that a claim is about. It was not run where `n` is 0, and could not be had where it is NaN besides."""

    what: str
    effect: statistics.Estimate = NONE
    n: int = 0  # runs a task, of the side that has fewer
    whole: bool = False  # on all of the paper's tasks and settings
    bound: float = 0.0  # the claim: the effect lies above it
    below: bool = False  # the claim: the effect lies below it
    published: str = "–"

    @property
    def run(self) -> bool:
        """Whether there is a number."""
        return self.n > 0 and bool(np.isfinite(self.effect.estimate))

    @property
    def sign(self) -> int:
        """1: the whole interval is on the claim's side of the bound; −1: on the other; 0: neither, or no interval."""
        side = -1 if self.below else 1
        low, high = sorted(side * (x - self.bound) for x in self.effect[1:])
        return 1 if low > 0 else -1 if high < 0 else 0


def c1(results: Results) -> list[Comparison]:
    """PWM's IQM over the locomotion tasks, in units of PPO's mean, is above that of every other algorithm."""
    scores, not_normalised = results.comparable_scores()
    many = len(results.tasks("locomotion")) > 1
    found = []
    for rival in [name for name in ALGORITHMS if name != "pwm"]:
        known = published_iqm("locomotion", rival)
        if known is None:
            continue
        told = difference_of(published_iqm("locomotion", "pwm"), known)
        what = f"IQM on locomotion, PWM − {ALGORITHMS[rival]}"
        if not_normalised and many:
            found.append(Comparison(f"{what} ({not_normalised.partition(':')[0]})", published=told))
        else:
            found.append(difference(results, scores, what, "locomotion", ("pwm", "default"), (rival, "default"), told))
    return found


def c2(results: Results) -> list[Comparison]:
    """On the SNU humanoid, of 152 actions, PWM's IQM is above PPO's, whose runs are all positive."""
    task = "snu-humanoid"
    what, known = "SNU humanoid, IQM of PWM / PPO's", published.scores().query("task == @task").set_index("algorithm")
    told = f"{known.loc['pwm', 'score']:.2f}"
    x, y = (finished(results, results.scores, "locomotion", (name, "default"), [task]) for name in ("pwm", "ppo"))
    n = min(len(x), len(y))
    if n and not (y > 0).all():
        return [Comparison(f"{what} (a score of PPO's is not positive)", n=n, published=told)]
    effect = statistics.contrast(kept, [x, y]) if n else NONE
    return [Comparison(what, effect, n, whole=True, bound=1.0, published=told)]


def c3(results: Results) -> list[Comparison]:
    """From a multi-task model, the slowest task's policy takes under 10 minutes for the paper's 10,000 updates.

    Minutes are of training with its evaluations, in proportion where a run made fewer updates.
    """
    updates = 10_000
    quoted = published.extraction_minutes().set_index("quantity")
    promise, seen = quoted.loc["promise", "high"], quoted.drop("promise").iloc[0]
    told = f"under {promise:g} promised, {seen['low']:g} to {seen['high']:g} in its runs"
    done = results.scores["updates"].where(results.scores["updates"] > 0)
    projected = results.scores.assign(score=results.scores["train_wall_s"] / 60 * updates / done)
    found = []
    for suite in SUITES_OF_MANY:
        ours = ("pwm", multitask(results, suite))
        what = f"minutes of {updates:,} updates, {suite.upper()}'s slowest task"
        tasks = asked_for(results, suite, ours)
        minutes = finished(results, projected, suite, ours, tasks)
        own = results.scores.query("suite == @suite and algorithm == 'pwm' and variant == @ours[1]")
        effect = statistics.contrast(lambda x: x.mean(axis=0).max(), [minutes]) if len(minutes) else NONE
        whole = {*tasks} == all_tasks(suite) and bool((own["updates"] >= updates).all())
        kind = {"bound": float(promise), "below": True, "published": told}
        found.append(Comparison(what, effect, len(minutes), whole, **kind))
    return found


def c4(results: Results) -> list[Comparison]:
    """On MT30 and MT80 PWM's IQM is above TD-MPC2's, which plans in the same multi-task world model."""
    found = []
    for suite in SUITES_OF_MANY:
        known = published.quoted().query("claim == 'C4' and suite == @suite and statistic == 'IQM'")
        told = difference_of(*(known.loc[known["algorithm"] == name, "value"].item() for name in ("pwm", "tdmpc2")))
        ours, theirs = ("pwm", multitask(results, suite)), ("tdmpc2", "default")
        what = f"IQM on {suite.upper()}, PWM − TD-MPC2"
        found.append(difference(results, results.scores, what, suite, ours, theirs, told))
    return found


def c5(results: Results) -> list[Comparison]:
    """The model trained over 16 steps against true dynamics: gradients of the double pendulum's return over the longest
    horizon have less variance and a higher ESNR; ascent through the regularised fit of the ball-wall problem gets
    farther than by the true gradient.
    """
    quality = results.measured["gradient_quality"].query("system == 'double_pendulum'")
    last = quality[quality["horizon"] == quality["horizon"].max()]
    variance, esnr = (
        last.pivot(index="seed", columns="world", values=name).reindex(columns=["true", "horizon16"]).dropna()
        for name in ("variance", "esnr")
    )
    orders = np.log10(variance["true"] / variance["horizon16"])
    gain = esnr["horizon16"] - esnr["true"]
    ascent = results.measured["ball_wall"].query("part == 'ascent'")
    reached = ascent[ascent["model"] == "simnorm_layernorm"].groupby("seed")["true_m"].mean()
    farther = reached - ascent.loc[ascent["model"] == "true", "true_m"].mean()
    samples = {
        "double pendulum, variance of gradients, true / model's, powers of 10": orders,
        "double pendulum, ESNR, model's − true": gain,
        "ball-wall, distance reached by ascent, regularised fit's − true, m": farther,
    }
    return [
        Comparison(what, statistics.contrast(np.mean, [x.to_numpy()[:, None]]) if len(x) else NONE, len(x), whole=True)
        for what, x in samples.items()
    ]


def c6(results: Results) -> list[Comparison]:
    """SimNorm's IQM is above that without it, with a spectral norm and of a plain MLP, and Mish's above ReLU's."""
    known = published.quoted().query("claim == 'C6'").set_index("setting")["value"]
    found = []
    for group in groups(results, "regularisation") or [None]:
        for setting in ("none", "spectral", "plain", "relu"):
            told = difference_of(known["reference"], known[setting], 0) if setting in known else "–"
            what = "Mish − ReLU" if setting == "relu" else f"SimNorm − {setting}"
            pair = [group.arm(name) for name in ("reference", setting)] if group else [None, None]
            where, whole = (group.title, group.title == "ant") if group else ("ant", False)
            found.append(of_arms(f"{what}, return on {where}", *pair, whole, told))
    return found


def c7(results: Results) -> list[Comparison]:
    """Of its score on ordinary contacts, PWM keeps a larger share on stiff ones than SHAC does."""
    pairs = {pair.algorithm: pair for pair in stiffened(results)}
    what = "share of the score kept on stiff contacts, PWM − SHAC"
    if not {"pwm", "shac"} <= pairs.keys():
        return [Comparison(what)]
    pwm, shac = pairs["pwm"], pairs["shac"]
    n = min(arm.have for pair in (pwm, shac) for arm in (pair.stiff, pair.own))
    if n and not (pwm.has_ratio and shac.has_ratio):
        return [Comparison(f"{what} (a score on ordinary contacts is not positive)", n=n)]
    samples = [*pwm.samples, *shac.samples]
    effect = statistics.contrast(lambda a, b, c, d: kept(a, b) - kept(c, d), samples) if n else NONE
    return [Comparison(what, effect, n, whole=True)]


def c8(results: Results) -> list[Comparison]:
    """Policies from world models trained over 16 steps have a higher IQM than from those trained over 3."""
    quoted = published.quoted().query("claim == 'C8'").set_index(["suite", "setting"])["value"]
    found, there = [], groups(results, "model_horizon")
    for group in there:
        arms = [arm for arm in group.arms if np.isfinite(arm.value)]
        known = [quoted.get((group.suite, name)) for name in ("16", "3")]
        told = "–" if None in known else difference_of(*known)
        whole = {*group.tasks} == all_tasks(group.suite) and (arms[0].value, arms[-1].value) == (3, 16)
        what = f"IQM, H = {arms[-1].value:g} − H = {arms[0].value:g}, {group.title}"
        found.append(of_arms(what, arms[-1], arms[0], whole and group.suite in SUITES_OF_MANY, told))
    for suite in SUITES_OF_MANY:
        if suite not in {group.suite for group in there}:
            told = difference_of(quoted[suite, "16"], quoted[suite, "3"])
            found.append(Comparison(f"IQM, H = 16 − H = 3, {suite.upper()}", published=told))
    return found


def c9(results: Results) -> list[Comparison]:
    """After equal environment steps returns fall with the policy's batch size: the slope over its logarithm."""
    found = []
    for group in groups(results, "batch_size"):
        _, arms = at_equal_steps(group)
        whole = group.title == "ant" and spans(arms, 32, 2048)
        found.append(slope(f"return lost by doubling the batch, {group.title}", arms, len(group.arms), whole, -1))
    return found or [Comparison("return lost by doubling the batch, ant")]


def c10(results: Results) -> list[Comparison]:
    """The extracted policies' IQM rises with the world model's updates: the slope over their logarithm."""
    found = []
    for group in groups(results, "model_updates"):
        arms = [arm for arm in group.arms if arm.have]
        whole = group.suite in SUITES_OF_MANY and {*group.tasks} == all_tasks(group.suite)
        whole = whole and spans(arms, 50_000, 250_000)
        what = f"IQM gained by doubling the model's updates, {group.title}"
        found.append(slope(what, arms, len(group.arms), whole, 1))
    return found or [Comparison("IQM gained by doubling the model's updates")]


RULES: dict[str, tuple[str, Callable[[Results], list[Comparison]]]] = {
    "C1": ("on contact-rich locomotion PWM beats PPO, SAC, TD-MPC2 and SHAC", c1),
    "C2": ("it solves tasks of up to 152 actions", c2),
    "C3": ("a policy per task is extracted in under 10 minutes from one frozen multi-task model", c3),
    "C4": ("multi-task, it is better than TD-MPC2 on the same world model, without planning", c4),
    "C5": ("a well-regularised model has a smoother landscape and less noisy gradients than true dynamics", c5),
    "C6": ("regularisation of the world model matters: SimNorm above the others, Mish above ReLU", c6),
    "C7": ("PWM keeps working where contacts get stiff and SHAC degrades", c7),
    "C8": ("training the world model over 16 steps rather than 3 matters", c8),
    "C9": ("smaller policy batches are more sample-efficient", c9),
    "C10": ("the better the world model is trained, the better the extracted policy", c10),
}


# --- what the rules share ----------------------------------------------------------------------------------------


def all_tasks(suite: str) -> set[str]:
    """The paper's tasks of a suite."""
    return {*published.scores().query("suite == @suite")["task"]}


def published_iqm(suite: str, algorithm: str) -> float | None:
    """IQM over the published scores of a suite's tasks; None where there are none."""
    scores = published.scores().query("suite == @suite and algorithm == @algorithm")["score"].to_numpy()
    return float(iqm(scores[None])) if len(scores) else None


def difference_of(x: float, y: float, decimals: int = 3) -> str:
    """`0.864 − 0.681 = 0.183`."""
    return f"{x:.{decimals}f} − {y:.{decimals}f} = {x - y:.{decimals}f}"


def multitask(results: Results, suite: str) -> str:
    """PWM's variant on a multi-task world model: `multitask`, or `default` where the suite lists none of that name."""
    return "multitask" if ("pwm", "multitask") in results.algorithms(suite) else "default"


def asked_for(results: Results, suite: str, algorithm: tuple[str, str]) -> list[str]:
    """Tasks that an algorithm and variant is meant to run on."""
    runs = results.runs.query("suite == @suite and algorithm == @algorithm[0] and variant == @algorithm[1]")
    return list(runs["task"].unique())


def finished(
    results: Results, scores: pd.DataFrame, suite: str, algorithm: tuple[str, str], tasks: Sequence[str]
) -> np.ndarray:
    """Scores [seeds, tasks] of the seeds that an algorithm and variant finished on all of `tasks`."""
    chosen = "suite == @suite and algorithm == @algorithm[0] and variant == @algorithm[1] and task in @tasks and there"
    counts = results.runs.query(chosen)["seed"].value_counts()
    seeds = sorted(counts[counts == len(tasks)].index) if len(tasks) else []
    return statistics.score_matrix(scores, suite, *algorithm, tasks, seeds)


def difference(
    results: Results,
    scores: pd.DataFrame,
    what: str,
    suite: str,
    ours: tuple[str, str],
    theirs: tuple[str, str],
    told: str,
) -> Comparison:
    """IQM of one algorithm and variant less another's, on the tasks that both are meant to run on."""
    tasks = [task for task in asked_for(results, suite, ours) if task in asked_for(results, suite, theirs)]
    x, y = (finished(results, scores, suite, side, tasks) for side in (ours, theirs))
    n = min(len(x), len(y))
    effect = statistics.contrast(lambda x, y: iqm(x) - iqm(y), [x, y]) if n else NONE
    return Comparison(what, effect, n, {*tasks} == all_tasks(suite), published=told)


def of_arms(what: str, x: Arm | None, y: Arm | None, whole: bool, told: str) -> Comparison:
    """IQM of one arm less another's."""
    n = min(x.have, y.have) if x and y else 0
    effect = statistics.contrast(lambda x, y: iqm(x) - iqm(y), [x.matrix, y.matrix]) if n else NONE
    return Comparison(what, effect, n, whole, published=told)


def spans(arms: Sequence[Arm], low: float, high: float) -> bool:
    """Whether the values of some arms reach from `low` to `high`."""
    values = [arm.value for arm in arms]
    return bool(values) and min(values) <= low and max(values) >= high


def slope(what: str, arms: Sequence[Arm], want: int, whole: bool, sign: int) -> Comparison:
    """What a doubling of the varied number adds to the IQM (`sign` −1: takes from it), by least squares.

    Args:
        arms: those that were run, by value; with fewer than `want` the comparison is not whole.
    """
    values = [arm.value for arm in arms]
    if len({*values}) < 2:
        return Comparison(what)
    doublings = np.log2(values)
    fit = lambda *samples: sign * np.polyfit(doublings, [iqm(x) for x in samples], 1)[0]  # noqa: E731
    effect = statistics.contrast(fit, [arm.matrix for arm in arms])
    return Comparison(what, effect, min(arm.have for arm in arms), whole and len(arms) == want)
