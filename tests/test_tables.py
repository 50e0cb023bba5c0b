"""Tables: numbers by hand, missing runs in words, and that the same data make the same bytes."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_results import arguments, with_ablations, write_results

from pwm.envs.tasks import SUITES, get_task
from workflows import published
from workflows.results import read_results, unit_of
from workflows.tables import aggregates, audit, claims, common, extraction, gait, online, per_task_scores, run_times

pytestmark = pytest.mark.usefixtures("few_resamples")
MISSING = (
    "task == 'cheetah-run' and variant == 'multitask'",
    "algorithm == 'shac' and seed == 2",
    "algorithm == 'tdmpc2' and seed > 0",
)


@pytest.fixture(scope="module")
def partial(tmp_path_factory) -> dict[str, Path]:
    """A demo scale with missing runs."""
    return write_results(tmp_path_factory.mktemp("partial"), missing=MISSING)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, Path]:
    """The same with ablations, and measurements of gradients of three seeds, through models twice as good."""
    folder = tmp_path_factory.mktemp("measured")
    paths = write_results(folder, matrix=with_ablations(), missing=MISSING)
    ball = [
        ("ascent", model, k, 2.0 + k if model != "true" else 1.0)
        for model in ("true", "simnorm_layernorm")
        for k in range(3)
    ]
    rows = [
        ("double_pendulum", world, k, 50, 10.0 / x, x)
        for world, x in (("true", 1.0), ("horizon16", 2.0))
        for k in range(3)
    ]
    for name, table in (("ball_wall", ball), ("gradient_quality", rows)):
        paths[name] = folder / f"{name}.csv"
        table = pd.DataFrame(table, columns=list(claims.MEASURED[name]))
        table.assign(scale="demo", commit="abc1234").to_csv(paths[name], index=False)
    return paths


def write(module, paths: dict[str, Path], out: Path, monkeypatch) -> dict[str, str]:
    """Run a table's `main` and read back what it wrote."""
    monkeypatch.setattr(sys, "argv", ["table", *arguments(paths, "demo", out)])
    module.main()
    return {suffix: Path(f"{out}.{suffix}").read_text(encoding="utf-8") for suffix in ("csv", "md", "tex")}


def rows_of(markdown: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]


def test_per_task_scores_by_hand(partial, tmp_path, monkeypatch):
    written = write(per_task_scores, partial, tmp_path / "per_task_scores", monkeypatch)
    scores, numbers = pd.read_csv(partial["scores"]), pd.read_csv(tmp_path / "per_task_scores.csv")
    walker = scores.query("task == 'walker-walk' and algorithm == 'pwm' and variant == 'default'").score.to_numpy()
    row = numbers.query("task == 'walker-walk' and algorithm == 'pwm' and variant == 'default'").iloc[0]
    spread = np.sqrt(((walker - walker.mean()) ** 2).sum() / 2)
    assert row["mean"] == pytest.approx(walker.mean(), rel=1e-6) and row["std"] == pytest.approx(spread, rel=1e-6)
    header, _, hopper, walker_row, *others = rows_of(written["md"])
    column = {name: place for place, name in enumerate(header)}
    assert walker_row[column["PWM"]] == f"{walker.mean():.3f} ± {spread:.3f} (3)"
    assert walker_row[column["SHAC"]] == "–"
    shac = scores.query("algorithm == 'shac'").score
    assert hopper[column["SHAC"]] == f"{shac.mean():.0f} ± {shac.std():.0f} (2/3)"
    single = scores.query("task == 'walker-walk' and algorithm == 'tdmpc2'").score.item()
    assert walker_row[column["TD-MPC2"]] == f"{single:.3f} (1/3)"
    assert [row[column["PWM multitask"]] for row in others if row[1] == "cheetah-run"] == ["not run (0/3)"]
    assert (hopper[column["Unit"]], walker_row[column["Unit"]]) == ("return", "return / 1000")
    assert walker_row[column["TD-MPC2, published"]] == "0.979 (10)"  # as results/published/scores.csv has them
    assert hopper[column["PWM, published"]] == "1.198 × PPO (5)" and walker_row[column["SAC, published"]] == "–"
    published = numbers.query("variant == 'published' and task == 'hopper' and algorithm == 'sac'").iloc[0]
    assert (published["mean"], published["unit"]) == (0.87, "score / PPO's mean score")
    assert published["source"].endswith("max over training of the IQM episode return")


def test_extraction_by_hand(partial, tmp_path, monkeypatch):
    written = write(extraction, partial, tmp_path / "extraction", monkeypatch)
    scores, numbers = pd.read_csv(partial["scores"]), pd.read_csv(tmp_path / "extraction.csv")
    data = pd.read_csv(partial["data"]).query("task == 'walker-walk'").set_index("variant")["score"]
    row = numbers.query("task == 'walker-walk' and variant == 'default'").iloc[0]
    walker = scores.query("task == 'walker-walk' and algorithm == 'pwm' and variant == 'default'")
    assert row["of_best_policy"] == pytest.approx(walker.score.mean() / data["best_policy"], rel=1e-6)
    assert [row[f"data_{name}"] for name in data.index] == pytest.approx(data.tolist(), rel=1e-6)
    assert row["mean"] == pytest.approx(walker.score.mean(), rel=1e-6)
    assert row["minutes"] == pytest.approx(walker.train_wall_s.max() / 60, rel=1e-6)
    assert row["promised"] == pytest.approx((60 + 61 + 62) / (3 * 40), rel=1e-6)  # as the curves end
    assert (row["tdmpc2"], row["pwm"]) == (0.979, 0.9858)  # results/published/scores.csv
    hopper = numbers.query("task == 'hopper'").iloc[0]
    assert np.isnan(hopper["tdmpc2"])  # another simulator's return
    lines = {(line[1], line[5]): line for line in rows_of(written["md"])}
    assert lines["walker-walk", "default"][2:5] == [f"{data[name]:.3f}" for name in ("mean", "best", "best_policy")]
    assert lines["walker-walk", "default"][6] == f"{walker.score.mean():.3f} ± {walker.score.std():.3f} (3)"
    assert lines["cheetah-run", "multitask"][6:10] == ["not run (0/3)", "–", "–", "–"]


def test_a_decision_on_mt30_is_two_steps_of_the_simulator():
    assert {get_task(task).action_repeat for task in SUITES["mt30"]} == {published.STEPS_OF_A_DECISION}


def test_meta_world_scores_are_success():
    assert unit_of("mt80", "mw-push") == "success" and unit_of("mt80", "walker-run") == "return / 1000"
    assert unit_of("locomotion", "ant") == unit_of("stiffness", "hopper-stiff") == "return"


def test_aggregates_by_hand(partial, tmp_path, monkeypatch):
    written = write(aggregates, partial, tmp_path / "aggregates", monkeypatch)
    scores, numbers = pd.read_csv(partial["scores"]), pd.read_csv(tmp_path / "aggregates.csv")
    found = {(row.suite, row.algorithm, row.variant): row for row in numbers.itertuples()}
    pwm = np.sort(scores.query("suite == 'mt30' and algorithm == 'pwm' and variant == 'default'").score)
    row = found["mt30", "pwm", "default"]
    assert row.iqm == pytest.approx(pwm[3:9].mean(), rel=1e-6)  # twelve scores, a quarter off at each end
    assert row.optimality_gap == pytest.approx(np.maximum(1 - pwm, 0).mean(), rel=1e-6)
    assert row.iqm_low < row.iqm < row.iqm_high and (row.n, row.expected, row.tasks) == (3, 3, 4)
    ppo = found["locomotion", "ppo", "default"]
    assert ppo.mean == pytest.approx(1) and ppo.unit == "score / PPO's mean score"
    incomplete = found["mt30", "pwm", "multitask"]  # it never ran on one of its tasks
    assert np.isnan(incomplete.iqm) and (incomplete.n, incomplete.expected) == (0, 3)
    single = found["mt30", "tdmpc2", "default"]
    assert np.isfinite(single.iqm) and np.isnan(single.iqm_low) and (single.n, single.expected) == (1, 3)
    spread = scores.query("suite == 'mt30' and algorithm == 'pwm' and variant == 'default'").groupby("task").score.var()
    # Student's t of 2 × 4 × (3 − 1) degrees of freedom: 2.120 and 0.865
    assert row.detectable == pytest.approx((2.120 + 0.865) * np.sqrt(spread.mean() * 2 / 12), rel=1e-3)
    assert np.isnan(single.detectable) and np.isnan(incomplete.detectable)
    curves = pd.read_csv(partial["curves"]).query("suite == 'mt30' and algorithm == 'pwm' and variant == 'default'")
    best = curves.groupby(["task", "updates"])["return"].mean().groupby("task").max().sort_values() / 1000
    assert row.best_iqm == pytest.approx(best.iloc[1:3].mean(), rel=1e-6)  # of four tasks the middle two
    assert np.isnan(found["mt30", "random", "default"].best_iqm)  # it does not train
    assert ppo.best_iqm == 1 and np.isnan(incomplete.best_iqm)
    published = found["mt30", "tdmpc2", "published"]
    assert (published.tasks, published.n, published.unit) == (4, 10, "score") and np.isnan(published.detectable)
    assert published.mean == pytest.approx((0.979 + 0.001 + 0.148 + 0.98) / 4, abs=1e-3)
    assert np.isnan(published.mean_low) and np.isnan(published.p_pwm_better)
    cells = {(row[0], row[1]): row for row in rows_of(written["md"])}
    assert cells["MT30", "PWM"][-2:] == [f"{row.best_iqm:.3f}", f"{row.detectable:.3f}"]
    assert "75% of cases from 3 runs of 1 task, 87% from 3 of 10 tasks, 93% from 10 of 10" in written["md"]
    assert cells["MT30", "TD-MPC2"][2] == "1/3" and cells["MT30", "TD-MPC2"][5] == f"{single.iqm:.3f}"
    assert cells["MT30", "PWM"][5] == f"{row.iqm:.3f} [{row.iqm_low:.3f}, {row.iqm_high:.3f}]"
    wins = [
        (p > t)
        for task in scores.query("algorithm == 'tdmpc2'").task
        for t in scores[(scores.task == task) & (scores.algorithm == "tdmpc2")].score
        for p in scores[(scores.task == task) & (scores.algorithm == "pwm") & (scores.variant == "default")].score
    ]
    assert single.p_pwm_better == pytest.approx(np.mean(wins))


def test_raw_returns_have_no_gap_and_the_note_says_why(tmp_path, monkeypatch):
    paths = write_results(tmp_path)
    scores = pd.read_csv(paths["scores"])
    scores.loc[scores.algorithm == "ppo", "score"] = -5.0
    scores.to_csv(paths["scores"], index=False)
    written = write(aggregates, paths, tmp_path / "aggregates", monkeypatch)
    pwm = next(row for row in rows_of(written["md"]) if row[:2] == ["Locomotion", "PWM"])
    assert pwm[4] == "return" and pwm[8] == "–"
    assert next(row for row in rows_of(written["md"]) if row[1] == "PPO")[5] == "−5 [−5, −5]"
    assert "PPO's mean score on hopper is -5" in written["md"]


def test_claims_stand_beside_what_was_published(measured, tmp_path, monkeypatch):
    written = write(claims, measured, tmp_path / "claims", monkeypatch)
    numbers = pd.read_csv(tmp_path / "claims.csv")
    assert list(dict.fromkeys(numbers["claim"])) == [f"C{k}" for k in range(1, 11)]
    scores = pd.read_csv(measured["scores"]).query("suite == 'locomotion' and variant == 'default'")
    ppo = scores.query("algorithm == 'ppo'").score.mean()
    pwm, shac = (scores.query("algorithm == @name").score.mean() / ppo for name in ("pwm", "shac"))
    row = numbers[numbers["comparison"] == "IQM on locomotion, PWM − SHAC"].iloc[0]
    assert row.estimate == pytest.approx(pwm - shac) and (row.n, row.whole) == (2, False)
    lines = rows_of(written["md"])
    first = next(line for line in lines if line[0] == "C1")
    interval = ", ".join(common.number(x, 3) for x in (row.low, row.high))
    assert first[3:6] == [
        "IQM on locomotion, PWM − SHAC (above 0)",
        "1.248 − 1.190 = 0.058",
        f"{common.number(row.estimate, 3)} [{interval}], n = 2",
    ]
    assert (
        first[1] == "not shown"
        and "fewer than 3 runs" in first[6]
        and "not had: IQM on locomotion, PWM − SAC" in first[6]
    )
    assert next(line for line in lines if line[0] == "C2")[1::4] == ["not run", "not run"]
    variance = numbers[numbers["claim"] == "C5"].iloc[0]
    assert variance.estimate == pytest.approx(np.log10(2)) and variance.verdict == "holds in direction"
    assert "--gradient_quality results/demo/gradients/gradient_quality.csv --scale demo" in written["md"]


def test_claims_are_judged_without_measurements_that_were_not_made(measured, tmp_path, monkeypatch):
    runs = {name: path for name, path in measured.items() if name not in claims.MEASURED}
    written = write(claims, runs, tmp_path / "claims", monkeypatch)
    numbers = pd.read_csv(tmp_path / "claims.csv")
    assert set(numbers.loc[numbers["claim"] == "C5", "verdict"]) == {"not run"}
    assert numbers.loc[numbers["claim"] == "C1", "verdict"].iloc[0] == "not shown"
    assert "Verdicts: C1 not shown; C2 not run; " in written["md"] and "gradient_quality.csv" not in written["md"]


def test_a_measurement_of_another_scale_is_refused(measured, tmp_path, monkeypatch, capsys):
    other = tmp_path / "ball_wall.csv"
    pd.read_csv(measured["ball_wall"]).assign(scale="laptop").to_csv(other, index=False)
    with pytest.raises(SystemExit) as left:
        write(claims, measured | {"ball_wall": other}, tmp_path / "claims", monkeypatch)
    assert left.value.code == 2 and "holds scale laptop, not demo" in capsys.readouterr().err


def test_the_audit_by_hand(partial, tmp_path, monkeypatch):
    written = write(audit, partial, tmp_path / "audit", monkeypatch)
    numbers = pd.read_csv(tmp_path / "audit.csv").set_index(["subject", "what"])
    data = pd.read_csv(published.FOLDER / "scores.csv")
    of = {key: sorted(own["normalized_score"]) for key, own in data.groupby(["suite", "algorithm"])}
    iqm = {key: np.mean(of[key][cut:-cut]) for key in of if (cut := len(of[key]) // 4)}
    for suite, title in (("mt30", "MT30, 30 tasks"), ("mt80", "MT80, 80 tasks")):
        for algorithm, name, same in (("pwm", "PWM", "yes"), ("tdmpc2", "TD-MPC2", "no")):
            row = numbers.loc[title, f"IQM of {name}"]
            assert row.computed == pytest.approx(iqm[suite, algorithm]) and row.same == same
            assert row.runs == ("1" if algorithm == "pwm" else "10")
            assert numbers.loc[title, f"mean of {name}"].computed == pytest.approx(np.mean(of[suite, algorithm]))
    assert numbers.loc["MT80, 80 tasks", "mean of TD-MPC2"].same == "yes"  # whose runs' mean it is
    table = data[data.suite == "mt30"].pivot(index="task", columns="algorithm", values="value")
    above = numbers.loc["MT30, 30 tasks", "tasks with PWM above TD-MPC2"].computed
    assert above == sum(x > y for x, y in zip(table["pwm"], table["tdmpc2"], strict=True))
    metaworld = data[(data.suite == "mt80") & (data.algorithm == "pwm") & data.task.str.startswith("mw-")]
    assert len(metaworld) == 50
    row = numbers.loc["MT80's Meta-World, 50 tasks", "mean of PWM"]
    assert row.computed == pytest.approx(sum(metaworld["value"]) / 50)
    ratio = numbers.loc["MT30", "the quoted IQMs' ratio"]
    assert ratio.computed == pytest.approx(0.864 / 0.681) and ratio.same == "yes"
    assert numbers.loc["Locomotion", "largest error of score = return / PPO's"].computed < 0.01
    ant = numbers.loc["Locomotion, ant"].iloc[0]
    value = data.query("task == 'ant' and algorithm == 'pwm'")["value"].item()
    assert (ant.quoted, ant.computed, ant.same) == (9586, value, "no")
    cells = {(line[0], line[1]): line[2:] for line in rows_of(written["md"])}
    assert cells["MT30, 30 tasks", "IQM of PWM"] == ["0.864 (the PWM paper)", "0.864", "1", "yes"]


def test_the_audit_sees_another_number(monkeypatch):
    changed = published.scores().copy()
    changed.loc[(changed["suite"] == "mt30") & (changed["algorithm"] == "pwm"), "score"] *= 0.99
    monkeypatch.setattr(published, "scores", lambda: changed)
    row = audit.audit().set_index(["subject", "what"]).loc["MT30, 30 tasks", "IQM of PWM"]
    assert row.computed == pytest.approx(0.99 * 0.86383125) and row.same == "no"


@pytest.mark.parametrize("module", [per_task_scores, aggregates, extraction, claims, audit, gait, online, run_times])
def test_same_data_same_bytes_and_latex_that_compiles(module, partial, measured, tmp_path, monkeypatch):
    files = measured if module is claims else partial
    first = write(module, files, tmp_path / "a" / "table", monkeypatch)
    assert write(module, files, tmp_path / "b" / "table", monkeypatch) == first
    lines = [line for line in first["tex"].splitlines() if not line.startswith("%")]
    columns = len(lines[0].removeprefix(r"\begin{tabular}").strip("{}"))
    assert lines[-1] == r"\end{tabular}" and [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == len(rows_of(first["md"])) - 1 and {row.count("&") + 1 for row in rows} == {columns}
    assert all(row.isascii() for row in rows)
    assert "commit abc1234" in first["md"] and "commit abc1234" in first["tex"]


def test_latex_escapes_what_a_user_may_name():
    text = common.latex(pd.DataFrame({"my_algo": ["50% & −1.5 ± 2 –"]}))
    assert r"my\_algo" in text and r"50\% \& $-$1.5 $\pm$ 2 --" in text


def test_tables_of_an_empty_scale_are_empty(tmp_path, monkeypatch):
    paths = write_results(tmp_path, matrix={}, seeds=1)
    for module in (per_task_scores, aggregates, gait, online, run_times):
        assert len(rows_of(write(module, paths, tmp_path / "table", monkeypatch)["md"])) == 2


def test_a_damaged_file_ends_with_exit_code_2(partial, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as left:
        write(aggregates, {**partial, "scores": tmp_path / "absent.csv"}, tmp_path / "table", monkeypatch)
    told = capsys.readouterr().err
    assert left.value.code == 2 and told.count("\n") == 1 and "absent.csv does not exist" in told


def test_the_command_names_the_usual_places(partial):
    results = read_results(aggregates.__file__, aggregates.__doc__, arguments(partial, "demo", Path("/tmp/elsewhere")))
    assert results.command == (
        "python -m workflows.tables.aggregates --scores results/demo/scores.csv --curves results/demo/curves.csv "
        "--expected results/demo/expected.csv --data results/demo/data.csv --scale demo "
        "--out results/demo/tables/aggregates"
    )
