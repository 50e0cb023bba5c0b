"""Malformed configs and command lines: refused before any job, in one line that names the key, with exit code 2."""

import copy
import importlib

import pytest
import yaml
from malformed import misspelt, put, wrong_values
from project_copy import copy_project, snakemake
from support import model_config, run_config

from pwm import algorithms, settings
from pwm.config import CollectConfig, DataConfig, ExtractConfig, PretrainConfig, dump
from pwm.errors import UserError
from pwm.matrix import Matrix, ScaleConfig, SuiteConfig, check_command_line
from pwm.yaml_files import merge

VALID = {
    "suites": {
        "locomotion": {
            "tasks": {"hopper": {}},
            "seeds": 1,
            "world_models": {"default": {}},
            "algorithms": {name: {"default": {}} for name in ("pwm", *algorithms.names())},
        }
    }
}
SUITE = ("suites", "locomotion")
SECTIONS = {
    (): ScaleConfig,
    SUITE: SuiteConfig,
    (*SUITE, "collect"): CollectConfig,
    (*SUITE, "world_models", "default"): PretrainConfig,
    (*SUITE, "algorithms", "pwm", "default"): ExtractConfig,
}
SECTIONS |= {
    (*SUITE, "algorithms", name, "default"): algorithms.settings_class(name) for name in algorithms.names()[1:]
}
TEXTS = {
    "empty": "",
    "a list": "- suites",
    "a word": "suites",
    "no YAML": "suites: [",
    "tabs": "suites:\n\tlocomotion: {}",
    "binary": "\x00\x01\x02",
    "a key twice": "episodes: 1\nepisodes: 2",
    "a list as a key": "? [a, b]\n: 1",
    "an unknown tag": "suites: !suite {}",
    "a date": "suites: 2020-01-01",
    "no date": "suites: 2020-99-99",
    "a stamp": "suites: !!timestamp soon",
    "bytes": "suites: !!binary aGVsbG8=",
    "a set": "suites: !!set {a, b}",
    "a number of 5000 digits": f"episodes: {'9' * 5000}",
    "lists in lists": f"suites: {'[' * 2000}{']' * 2000}",
    "itself": "suites: &a {locomotion: *a}",
    "an anchor that is not there": "suites: *nowhere",
    "two documents": "suites: {}\n---\nsuites: {}",
}
# Beyond single values: settings that contradict each other or what there is, each with what must be named.
CONTRADICTIONS = [
    ((*SUITE, "seeds"), 1001, "seeds"),
    ((*SUITE, "model_seeds"), 1001, "model_seeds"),
    ((*SUITE, "algorithms", "ppo", "default", "seeds"), 1001, "seeds"),
    ((*SUITE, "algorithms", "ppo", "default", "seeds"), True, "seeds"),
    ((*SUITE, "algorithms", "ppo", "default", "only"), ["hoper"], "only"),
    ((*SUITE, "algorithms", "ppo", "default", "only"), {}, "only"),
    ((*SUITE, "algorithms", "ppo", "a/b"), {}, "a/b"),
    ((*SUITE, "algorithms", "ppo", ".."), {}, ".."),
    ((*SUITE, "algorithms", "ppo", "$(touch x)"), {}, "$(touch x)"),
    ((*SUITE, "algorithms", "ppo", "a\nb"), {}, "a b"),
    ((*SUITE, "world_models", "../../x"), {}, "../../x"),
    ((*SUITE, "algorithms", "pop"), {"default": {}}, "pop"),
    ((*SUITE, "tasks", "hoper"), {}, "hoper"),
    ((*SUITE, "tasks", "walker-walk"), {}, "walker-walk"),
    ((*SUITE, "tasks", "../hopper"), {}, "../hopper"),
    ((*SUITE, "tasks", "hopper"), {"pop": {}}, "pop"),
    ((*SUITE, "tasks", "hopper"), {"pwm": {"other": {}}}, "other"),
    ((*SUITE, "tasks", "hopper"), {"pwm": {"default": 3}}, "pwm"),
    ((*SUITE, "tasks", "hopper"), {"collect": {"mixture": {"expert": 1}}}, "expert"),
    ((*SUITE, "algorithms", "pwm", "default", "world_model"), "other", "other"),
    ((*SUITE, "world_models", "default", "world_model", "latent_dim"), 12, "latent_dim"),
    ((*SUITE, "world_models", "default", "piece"), 2, "piece"),
    ((*SUITE, "collect", "burst_length"), [5, 2], "burst_length"),
    (("suites", "mt31"), VALID["suites"]["locomotion"], "mt31"),
    (("resources", "colect"), {}, "colect"),
]
COMMAND_LINES = [{misspelt(key): "test"} for key in ("scale", "partial", "download")]
COMMAND_LINES += [
    {key: value} for key in ("partial", "download") for value in ("yes", "1", "", 2, None, [True], {"a": 1}, "tru\ne")
]
SCALES = ["tset", "", "../config/test", "/etc/passwd", "test.yaml", ".", "..", "te\nst", "$(touch x)", "test ", "*"]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command's `main`, which must end with exit code 2 and one line that holds a text."""
    monkeypatch.chdir(tmp_path)

    def run(main, argv: list[str], named: str) -> None:
        monkeypatch.setattr("sys.argv", ["command", *argv])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        lines = err.splitlines()
        usage = [line for line in lines[:-1] if line.startswith(("usage: ", " "))]  # argparse's
        assert ended.value.code == 2 and out == "" and len(lines) == 1 + len(usage), err
        assert "error: " in lines[-1] and named in lines[-1], err

    return run


@pytest.fixture
def refused_scale(tmp_path, monkeypatch, refused):
    """Has a scale's YAML file read as the Snakefile reads it."""
    monkeypatch.setattr(settings, "Matrix", lambda scale: Matrix(scale, tmp_path))

    def run(text: str, named: str) -> None:
        (tmp_path / "settings.csv").unlink(missing_ok=True)
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        refused(settings.main, ["--scale", "bad", "--out", "settings.csv"], named)
        assert not (tmp_path / "settings.csv").exists()

    return run


def test_the_valid_scale_is_valid(tmp_path):
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(VALID))
    assert Matrix("good", tmp_path).runs()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: "/".join(section[2:]) or "/".join(section) or "scale")
def test_wrong_values_of_settings(faults, thorough, refused_scale, section):
    cases = list(wrong_values(SECTIONS[section].model_json_schema()))
    with faults("malformed") as tally:
        for path, value, beside in cases if thorough else cases[::12]:
            data = copy.deepcopy(VALID)
            if section or path:
                put(data, (*section, *path), value)
            else:
                data = value
            if beside:
                put(data, section, merge(beside, _at(data, section)))
            names = [key for key in (*section, *path) if isinstance(key, str)]
            with tally.fault(f"{'.'.join(map(str, (*section, *path)))}: {value!r}"):
                refused_scale(yaml.safe_dump(data), names[-1] if names and section + path else "mapping")


def _at(data, path):
    for key in path:
        data = data[key]
    return data


def test_wrong_files(faults, refused_scale):
    with faults("malformed") as tally:
        for what, text in TEXTS.items():
            with tally.fault(what):
                refused_scale(text, "bad.yaml")


def test_contradictions(faults, refused_scale):
    with faults("malformed") as tally:
        for path, value, named in CONTRADICTIONS:
            data = copy.deepcopy(VALID)
            put(data, path, value)
            with tally.fault(f"{'.'.join(path)}: {value!r}"):
                refused_scale(yaml.safe_dump(data), named)


def test_snakemakes_command_line(faults):
    """As the Snakefile reads it: `check_command_line`, then the scale's matrix."""
    with faults("command line") as tally:
        for given in [*COMMAND_LINES, *({"scale": scale} for scale in SCALES)]:
            with tally.fault(str(given)):
                with pytest.raises(UserError) as caught:
                    Matrix(check_command_line(given).scale)
                assert "\n" not in str(caught.value) and next(iter(given)) in str(caught.value)


def test_snakemake_itself(tmp_path, faults, thorough):
    """A few of both through the real command, which takes seconds to start."""
    copy_project(tmp_path)
    given = ["scale=../config/test", "scale=te\nst", "sclae=test", "partial=perhaps", "scale=bad"]
    put(data := copy.deepcopy(VALID), (*SUITE, "algorithms", "ppo", "$(touch x)"), {})
    (tmp_path / "workflows" / "config" / "bad.yaml").write_text(yaml.safe_dump(data))
    with faults("command line") as tally:
        for words in given if thorough else given[:1]:
            with tally.fault(words):
                done = snakemake(tmp_path, "--config", words)
                lines = [line for line in done.stderr.splitlines() if line and not line.startswith("Using workflow")]
                assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr
                assert not (tmp_path / "results" / "test").exists()


def command_lines(folder) -> list[tuple[str, list[str], str]]:
    """Module, arguments and what must be named, for every stage."""
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    (folder / "file").write_text("x")
    data = DataConfig(scale="test", task="hopper", seed=0, settings=CollectConfig())
    for name, config in (("data", data), ("model", model_config("hopper")), ("run", run_config("hopper"))):
        (folder / f"{name}.yaml").write_text(dump(config), encoding="utf-8")
    (folder / "task.yaml").write_text(dump(data.model_copy(update={"task": "hoper"})), encoding="utf-8")
    stages = {
        "pwm.collect": ("run.yaml", []),
        "pwm.pretrain": ("data.yaml", ["--data", "nothing"]),
        "pwm.extract": ("data.yaml", ["--data", "nothing", "--model", "nothing"]),
        "baselines.__main__": ("model.yaml", []),
    }
    cases = []
    for module, (other, more) in stages.items():
        cases += [(module, ["--config", config, "--out", "out", *more], config) for config in ("none.yaml", other, ".")]
        cases += [(module, ["--config", "binary.yaml", "--out", "out", *more], "binary.yaml")]
        cases += [(module, [], "--config"), (module, ["--config"], "--config")]
        cases += [(module, ["--config", other, "--out", "out", *more, "--cofnig", "x"], "--cofnig")]
    cases += [
        ("pwm.collect", ["--config", "data.yaml", "--out", "file"], "file"),
        ("pwm.collect", ["--config", "task.yaml", "--out", "out"], "hoper"),
        ("pwm.pretrain", ["--config", "model.yaml", "--data", "nothing", "--out", "out"], "nothing"),
        ("pwm.pretrain", ["--config", "model.yaml", "--data", "a", "b", "--out", "out"], "--data"),
        ("pwm.extract", ["--config", "run.yaml", "--model", "nothing", "--data", "a", "--out", "out"], "nothing"),
        ("pwm.evaluate", ["--run", "nothing"], "nothing"),
        *[("pwm.evaluate", ["--run", ".", "--episodes", number], "--episodes") for number in ("0", "-1", "x", "1.5")],
        *[("pwm.scores", ["--scale", scale, "--out", "out"], "scale") for scale in SCALES],
        ("pwm.settings", ["--scale", "tset", "--out", "out.csv"], "tset"),
        ("pwm.official", ["import", "--config", "model.yaml", "--checkpoint", "none.pt", "--out", "out"], "none.pt"),
        ("pwm.official", ["export", "--model", "nothing", "--out", "out.pt"], "nothing"),
        ("pwm.official", ["improt"], "improt"),
        ("pwm.data.tdmpc2_format", ["import", "--suite", "mt31", "--files", "a", "--out", "out"], "mt31"),
        ("pwm.data.tdmpc2_format", ["import", "--suite", "mt30", "--files", "none.pt", "--out", "out"], "none.pt"),
        ("pwm.data.tdmpc2_format", ["export", "--suite", "mt30", "--data", "nothing", "--out", "out"], "nothing"),
        ("workflows.plan", ["--scale", "test", "--cores", "0"], "cores"),
        ("workflows.report_pages", ["--results", "nothing", "--figures", "nothing"], "nothing"),
    ]
    return cases


def test_stages_command_lines(tmp_path, faults, refused):
    with faults("command line") as tally:
        for module, argv, named in command_lines(tmp_path):
            with tally.fault(f"{module} {' '.join(argv)}"):
                refused(importlib.import_module(module).main, argv, named)
                assert not (tmp_path / "out").exists() and not (tmp_path / "state").exists()
