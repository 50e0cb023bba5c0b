"""Settings of a scale as a table, and the table of hyper-parameters made from two of them."""

import pandas as pd
import pytest
import yaml
from support import refusal

from pwm.matrix import Matrix
from pwm.settings import flatten, tabulate
from workflows.tables import hyperparameters
from workflows.tables.hyperparameters import compare, read_settings, words


def test_nested_settings_become_dotted():
    nested = {"a": {"b": [1, 2], "c": {"d": 1e-4}}, "e": None, "f": "x", "g": {}, "h": True}
    assert flatten(nested) == {"a.b": "[1, 2]", "a.c.d": "0.0001", "e": "none", "f": "x", "g": "{}", "h": "true"}


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_run_finds_its_settings_in_the_table(scale):
    matrix = Matrix(scale)
    table = tabulate(matrix)
    runs = dict([*table.groupby(["part", "suite", "variant"])])
    for run in [run for run in matrix.runs() if run.algorithm != "random"][::7]:  # which has no settings
        own = runs[run.algorithm, run.suite, run.variant]
        found = own[own["task"].isin(["", run.task])].set_index("setting")["value"]
        assert found.index.is_unique
        assert found.to_dict() == flatten(yaml.safe_load(matrix.text(run))["settings"])
    assert not table.duplicated(["part", "suite", "variant", "task", "setting"]).any()


def test_the_papers_settings_are_the_papers():
    """Section 2 of the paper, of which the scale and the defaults are the only copies."""
    table = tabulate(Matrix("paper"))

    def say(part: str, setting: str, suite: str) -> str:
        return words(table.query("part == @part and setting == @setting and suite == @suite and variant == 'default'"))

    updates = "100000; 50000 (hopper); 200000 (humanoid, snu-humanoid)"
    assert say("world model", "updates", "locomotion") == updates
    assert say("pwm", "updates", "locomotion") == "15000" and say("pwm", "updates", "mt30") == "10000"
    assert say("pwm", "online", "mt80") == "none" and say("pwm", "batch_size", "mt80") == "512"
    assert say("world model", "world_model.size", "mt30") == "48" and say("world model", "batch_size", "mt80") == "1024"
    assert say("pwm", "actor_units", "locomotion") == "[400, 200, 100]" and say("pwm", "betas", "mt30") == "[0.7, 0.95]"


COLUMNS = ["scale", "part", "suite", "variant", "task", "setting", "value"]


def made_up(scale: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame([(scale, *row) for row in rows], columns=COLUMNS)


def test_values_are_told_as_coarsely_as_can_be():
    def say(*rows):
        return words(made_up("x", *(("pwm", *row[:3], "s", row[3]) for row in rows)))

    assert say(("a", "", "", "1"), ("b", "", "", "1")) == "1"
    assert say(("a", "", "t", "1"), ("a", "", "u", "1"), ("b", "", "", "2")) == "1; 2 (b)"
    assert say(("a", "default", "", "1"), ("b", "default", "", "1"), ("b", "short", "", "2")) == "1; 2 (short)"
    assert say(("a", "", "t", "1"), ("a", "", "u", "2"), ("a", "", "v", "2"), ("a", "", "w", "3")) == "2; 1 (t); 3 (w)"
    assert say(("a", "d", "", "1"), ("a", "e", "", "2"), ("b", "d", "", "2"), ("b", "e", "", "2")) == "2; 1 (a d)"
    # where one suite has tasks and the other none, the suite says where
    assert say(("a", "", "t", "1"), ("a", "", "u", "2"), ("b", "", "", "2")) == "2; 1 (a t)"
    assert say(("a", "", "t", "2"), ("a", "", "u", "2"), ("b", "", "", "3"), ("a", "", "v", "1")) == "2; 3 (b); 1 (a v)"
    assert say() == "–"


@pytest.fixture
def files(tmp_path):
    """Settings of a scale and of the paper's, which has a suite more."""
    here = [("pwm", "mt30", "default", "", "updates", "350"), ("pwm", "mt30", "default", "", "gamma", "0.99")]
    here += [("zeta", "mt30", "default", "", "speed", "2"), ("runs", "mt30", "", "", "seeds", "3")]
    paper = [
        ("pwm", suite, "default", "", name, value) for suite in ("mt30", "mt80") for name, value in (("gamma", "0.99"),)
    ]
    paper += [("pwm", "mt30", "default", "", "updates", "10000"), ("pwm", "mt80", "default", "", "updates", "77")]
    paper += [("runs", "mt30", "", "", "seeds", "10"), ("shac", "mt30", "default", "", "epochs", "9")]
    made_up("demo", *here).to_csv(tmp_path / "here.csv", index=False)
    made_up("paper", *paper).to_csv(tmp_path / "paper.csv", index=False)
    return tmp_path


def arguments(folder, scale="demo"):
    inputs = ["--settings", str(folder / "here.csv"), "--paper", str(folder / "paper.csv")]
    return [*inputs, "--scale", scale, "--out", str(folder / "out" / "hyperparameters")]


def test_hyperparameters_by_hand(files, monkeypatch):
    table = compare(read_settings(arguments(files)))
    assert table.to_numpy().tolist() == [
        ["runs", "seeds", "10", "3", True],
        ["pwm", "updates", "10000", "350", True],
        ["pwm", "gamma", "0.99", "0.99", False],
        ["zeta", "speed", "–", "2", True],
    ]
    monkeypatch.setattr("sys.argv", ["table", *arguments(files)])
    hyperparameters.main()
    text = (files / "out/hyperparameters.md").read_text(encoding="utf-8")
    assert "| PWM | updates | 10000 | 350 | ≠ |" in text and "| PWM | gamma | 0.99 | 0.99 |  |" in text
    assert "python -m workflows.tables.hyperparameters --settings results/demo/settings.csv" in text
    rows = (files / "out/hyperparameters.tex").read_text(encoding="utf-8").splitlines()
    assert r"PWM & updates & 10000 & 350 & $\neq$ \\" in rows


def test_settings_that_cannot_be_read_are_refused(files):
    refusal(lambda: read_settings(arguments(files, "laptop")), "holds scale demo, not laptop", "make it again")
    (files / "here.csv").write_text("scale,part\n")
    refusal(lambda: read_settings(arguments(files)), "here.csv has no column suite, variant, task", "snakemake")
    (files / "paper.csv").unlink()
    (files / "here.csv").write_text(",".join(COLUMNS) + "\n")
    refusal(lambda: read_settings(arguments(files)), "paper.csv cannot be read", "results/demo/paper_settings.csv")
