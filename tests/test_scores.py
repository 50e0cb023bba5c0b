"""Collating made-up run folders into the tidy CSV files."""

import json

import numpy as np
import pandas as pd
import pytest
from support import refusal, write_episodes

from pwm import scores, statistics
from pwm.data.episodes import Episodes, EpisodeWriter
from pwm.matrix import Matrix, RunId
from pwm.scores import PROMISE

SCALE = """
suites:
  locomotion:
    tasks: {hopper: {}}
    seeds: 2
    world_models: {default: {}}
    algorithms: {pwm: {default: {}}}
  mt30:
    tasks: {cartpole-swingup: {}}
    seeds: 1
    algorithms: {random: {default: {}}}
"""
RUNS = [RunId("locomotion", "hopper", "pwm", "default", seed) for seed in range(2)]
RUNS += [RunId("mt30", "cartpole-swingup", "random", "default", 0)]
EVAL = {"score": 0.5, "score_rule": "x", "return_mean": 5.0, "return_std": 1.5, "success_last": 0.0, "success_any": 1.0}
EVAL |= {"episodes": 10, "eval_wall_s": 2.5, "returns": [1, 2], "simulator": "mujoco 3.3.0"}
MANIFEST = {"env_steps": 640, "updates": 20, "train_wall_s": 33.25, "device": "cpu", "commit": "abc", "seed": 9}


def make_run(out, run, score):
    """A finished, evaluated run with a learning curve of three points, the first without a loss."""
    folder = out / "runs" / run.path
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text(json.dumps(EVAL | {"score": score}))
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"updates": 20 + run.seed}))
    curve = ["env_steps,updates,wall_time_s,return,success,loss"]
    curve += ["0,0,0.0,1.0,0.0,"] + [f"{320 * k},{10 * k},{k}.5,{score * k},0.25,{-k}" for k in (1, 2)]
    (folder / "metrics.csv").write_text("\n".join(curve) + "\n")
    return folder


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A complete scale's results folder."""
    (tmp_path / "small.yaml").write_text(SCALE)
    monkeypatch.setattr(scores, "Matrix", lambda scale: Matrix(scale, tmp_path))
    for k, run in enumerate(RUNS):
        make_run(tmp_path / "out", run, 100.0 + k)
    for task in ("hopper", "cartpole-swingup"):
        write_episodes(tmp_path / "out" / "data" / task / "episodes", task)
    return tmp_path / "out"


def read(out, name):
    return pd.read_csv(out / f"{name}.csv")


def test_scores_have_a_row_a_run(out):
    scores.collate("small", out, partial=False)
    table = read(out, "scores")
    columns = "scale suite task algorithm variant seed score return_mean return_std success_last success_any episodes"
    columns += " env_steps updates train_wall_s eval_wall_s device simulator commit terminated speed"
    assert list(table) == columns.split()
    expected = []
    for k, run in enumerate(RUNS):
        identity = ["small", run.suite, run.task, run.algorithm, run.variant, run.seed]
        evaluated = [100.0 + k, 5.0, 1.5, 0.0, 1.0, 10]
        expected.append([*identity, *evaluated, 640, 20 + run.seed, 33.25, 2.5, "cpu", "mujoco 3.3.0", "abc"])
    assert table.iloc[:, :-2].to_numpy().tolist() == expected
    assert table[["terminated", "speed"]].isna().all(axis=None)  # older evaluations do not tell
    newer = json.dumps(EVAL | {"terminated": 3, "speed": 1.75})
    (out / "runs" / RUNS[0].path / "eval.json").write_text(newer)
    scores.collate("small", out, partial=False)
    read_back = statistics.load_scores(out / "scores.csv")[["terminated", "speed"]]
    assert read_back.iloc[0].tolist() == [3, 1.75] and read_back.iloc[1:].isna().all(axis=None)


def test_expected_runs_say_what_ablations_vary(out, monkeypatch):
    online = SCALE.replace("pwm: {default: {}}", "pwm: {default: {online: {num_envs: 24}}, offline: {batch_size: 48}}")
    changed = online.replace("{default: {}}\n    algorithms: {pwm", "{default: {updates: 70}}\n    algorithms: {pwm")
    (out.parent / "small.yaml").write_text(changed)
    scores.collate("small", out, partial=True)
    table = read(out, "expected")
    assert list(table)[:5] == scores.IDENTITY
    varied = table.drop_duplicates(["algorithm", "variant"]).set_index("variant").iloc[:, 4:]
    assert varied.loc["offline"].to_dict() == {"batch_size": 48, "model_updates": 70, "model_horizon": 16}
    of_pwm, of_random = varied.loc["default"].iloc[0], varied.loc["default"].iloc[1]
    assert of_pwm["batch_size"] == 24 and of_random.isna().all()


def test_curves_have_a_row_a_point(out):
    scores.collate("small", out, partial=False)
    table = read(out, "curves")
    assert list(table)[6:] == ["env_steps", "updates", "wall_time_s", "return", "success", *PROMISE]
    second = table[(table["task"] == "hopper") & (table["seed"] == 1)]
    assert second["return"].tolist() == [1.0, 101.0, 202.0] and second["wall_time_s"].tolist() == [0.0, 1.5, 2.5]
    assert second["env_steps"].tolist() == [0, 320, 640] and len(table) == 9


def test_data_sets_are_scored_as_runs_are(out):
    """Mean and best return of the episodes; divided by 1000 where the task's score is."""
    scores.collate("small", out, partial=False)
    table = read(out, "data").set_index(["task", "variant"])
    assert sorted(table.index) == sorted((task, v) for task in ("hopper", "cartpole-swingup") for v in ("mean", "best"))
    for task, unit in (("hopper", 1.0), ("cartpole-swingup", 1000.0)):
        returns = Episodes.open(out / "data" / task / "episodes").returns()
        for variant, value in (("mean", returns.mean()), ("best", returns.max())):
            row = table.loc[(task, variant)]
            assert row["return_mean"] == pytest.approx(value) and row["score"] == pytest.approx(value / unit)
            assert row["algorithm"] == "data" and row["episodes"] == 3


@pytest.mark.parametrize(
    ("successes", "scores_told"),
    [((True, False, True, True), [0.75, 1.0]), ((False,) * 4, [0.0, 0.0]), ((None,) * 4, [])],
)
def test_data_of_success_tasks_are_scored_by_success(tmp_path, successes, scores_told):
    """Or not at all, where the episodes' success is not known, as of imported ones; never by return."""
    writer = EpisodeWriter(tmp_path / "set", "mw-push", 39, 4, 100, 4)
    for success in successes:
        writer.add(np.zeros((101, 39)), np.zeros((100, 4)), np.ones(100), terminated=False, success=success)
    writer.commit({}, 0, policy_returns=[7.0])
    rows = scores.data_rows("small", "mt80", "mw-push", tmp_path / "set")
    assert [row["score"] for row in rows] == scores_told and all(row["return_mean"] == 100 for row in rows)


def test_the_best_policy_of_a_data_set_is_scored(tmp_path):
    write_episodes(tmp_path / "set", "cartpole-swingup", policy_returns=(30.0, 250.0, 240.0))
    rows = {row["variant"]: row for row in scores.data_rows("small", "mt30", "cartpole-swingup", tmp_path / "set")}
    assert rows["best_policy"]["return_mean"] == 250.0 and rows["best_policy"]["score"] == 0.25


def test_provenance_has_a_row_for_everything_that_was_made(out):
    """Of runs what their manifests and evaluations tell; of data sets what their descriptions do; checksums of all."""
    folder = out / "runs" / RUNS[0].path
    made = {"hardware": {"cpus": 2, "gpu": None}, "versions": {"torch": "2.13.0", "mujoco": "3.3.0"}, "command": "x"}
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | made))
    scores.collate("small", out, partial=False)
    table = read(out, "provenance").set_index("made")
    assert list(table) == scores.PROVENANCE[1:]
    assert {*table.index} == {f"runs/{run.path}" for run in RUNS} | {
        f"data/{task}/episodes" for task in ("hopper", "cartpole-swingup")
    }
    row = table.loc[f"runs/{RUNS[0].path}"]
    assert row[["commit", "cpus", "versions", "simulator", "command"]].tolist() == [
        "abc",
        2,
        "torch 2.13.0, mujoco 3.3.0",
        "mujoco 3.3.0",
        "x",
    ]
    assert {*json.loads((out / "checksums.json").read_text())} >= {"provenance.csv", "scores.csv"}


def test_missing_runs_are_refused_or_named(out, capsys):
    lost = out / "runs" / RUNS[1].path
    (lost / "eval.json").unlink()
    refusal(lambda: scores.collate("small", out, partial=False), str(lost), "1 runs missing", "snakemake")
    assert not (out / "scores.csv").exists()
    scores.collate("small", out, partial=True)
    assert capsys.readouterr().err.strip() == f"missing: {RUNS[1].path}"
    assert read(out, "scores")["seed"].tolist() == [0, 0] and len(read(out, "curves")) == 6
    expected = read(out, "expected")  # what is expected does not depend on what is there
    assert list(expected) == [*scores.IDENTITY, *scores.VARIED]
    assert [RunId(*row) for row in expected[scores.IDENTITY].itertuples(index=False)] == RUNS


def test_nothing_done_yet(out, capsys):
    for run in RUNS:
        (out / "runs" / run.path / "eval.json").unlink()
    scores.collate("small", out, partial=True)
    assert len(read(out, "scores")) == len(read(out, "curves")) == 0 and len(read(out, "expected")) == 3
    assert capsys.readouterr().err.count("missing: ") == 3


@pytest.mark.parametrize("name", ["eval.json", "manifest.json", "metrics.csv"])
@pytest.mark.parametrize("content", ["", "{}", "{", "[1]", "a,b\n1,2\n"])
def test_unreadable_runs_are_refused(out, name, content):
    file = out / "runs" / RUNS[2].path / name
    file.write_text(content)
    refusal(lambda: scores.collate("small", out, partial=False), str(file), "delete it")


def test_the_same_runs_give_the_same_bytes(out):
    written = []
    for _ in range(2):
        scores.collate("small", out, partial=False)
        written.append([(out / f"{name}.csv").read_bytes() for name in ("scores", "curves", "expected", "data")])
    assert written[0] == written[1] and np.all([len(text) > 50 for text in written[0]])
