"""Files and names made to do harm: pickles that act, paths that lead elsewhere, YAML that grows, shell words."""

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from project_copy import ROOT, copy_project, snakemake
from support import model_config, write_episodes

from pwm.config import DataConfig, ModelConfig, RunConfig, load
from pwm.data.episodes import FILES, Episodes
from pwm.data.tdmpc2_format import open_file
from pwm.errors import UserError
from pwm.matrix import Matrix
from pwm.official import load_official
from pwm.pretrain import build_model
from pwm.runs import Run, load_checkpoint, save_checkpoint

WORDS = ["$(touch x)", "`touch x`", "; touch x", "a && touch x", "a | touch x", "a>x", "a\ntouch x", "'", '"', "*", "~"]


# torch says of our pickles that they are of another protocol than its own.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@pytest.fixture(autouse=True)
def works_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def marker(tmp_path):
    """A file that is there only if something was executed."""
    return tmp_path / "executed"


class Trap:
    """Acts when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def traps(marker: Path) -> dict[str, Trap]:
    """Ways to make the marker by unpickling."""
    return {
        "os.system": Trap(os.system, f"touch {marker}"),
        "exec": Trap(exec, f"open({str(marker)!r}, 'w')"),
        "eval": Trap(eval, f"open({str(marker)!r}, 'w')"),
        "open": Trap(open, str(marker), "w"),
        "subprocess": Trap(subprocess.check_call, ["touch", str(marker)]),
        "pathlib": Trap(Path.touch, marker),
        "copy": Trap(shutil.copyfile, __file__, str(marker)),
        "memmap": Trap(np.memmap, str(marker), "f4", "w+", 0, (3,)),
    }


def hide(trap: Trap, path: Path) -> list[str]:
    """Write the trap to the path in each of torch's and numpy's formats, one after the other."""
    inside = {"model": {"_encoder.0.weight": torch.ones(3), "x": trap}, "state": trap}
    yield "pickle", path.write_bytes(pickle.dumps(trap))
    yield "torch", torch.save(inside, path)
    yield "old torch", torch.save(inside, path, _use_new_zipfile_serialization=False)
    with path.open("wb") as file:
        np.save(file, np.array([trap], dtype=object), allow_pickle=True)
    yield "npy", None
    with path.open("wb") as file:
        np.savez(file, x=np.array([trap], dtype=object))
    yield "npz", None


def readers(folder: Path) -> dict[Path, object]:
    """What reads which file: a run's state, official checkpoints and data, our checkpoints and data sets."""
    settings = model_config("hopper")
    model = build_model(settings.settings, settings.tasks)
    save_checkpoint(folder / "checkpoint", model.state_dict(), {"config": settings.model_dump(mode="json")})
    data = write_episodes(folder / "data", "hopper")
    run = Run(folder / "run", settings)
    found = {
        run.state_folder / "state.pt": run.load_state,
        folder / "official.pt": lambda: load_official(folder / "official.pt", model),
        folder / "tdmpc2.pt": lambda: open_file(folder / "tdmpc2.pt", "mt30"),
    }
    found |= {folder / "checkpoint" / name: lambda: load_checkpoint(folder / "checkpoint") for name in CHECKPOINT}
    return found | {data / name: lambda: Episodes.open(data, verify=False) for name in (*FILES, "meta.json")}


CHECKPOINT = ("model.safetensors", "config.json")


def test_pickles_are_never_executed(tmp_path, faults, marker, thorough):
    found = readers(tmp_path)
    with faults("pickle") as tally:
        for number, (name, trap) in enumerate(traps(marker).items()):
            pickle.loads(pickle.dumps(trap))
            assert marker.exists(), f"the trap {name} does not work"
            marker.unlink()
            for path, read in [*found.items()][:: 1 if thorough or number == 0 else 4]:
                whole = path.read_bytes() if path.exists() else None
                for how, _ in hide(trap, path):
                    with tally.fault(f"{name}, {how}, {path.name}"):
                        with pytest.raises(UserError, match=re.escape(path.parent.name)):
                            read()
                        assert not marker.exists()
                path.unlink() if whole is None else path.write_bytes(whole)


def files_below(folder: Path) -> set[Path]:
    """All files, wherever links lead."""
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("entry", ["../../out", "../out", "/out", "state.pt/../../out", "C:\\out"])
def test_archives_write_nothing_elsewhere(tmp_path, faults, entry):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    entry = f"{tmp_path}/out" if entry == "/out" else entry
    run = Run(inner / "run", model_config("hopper"), save_every=0.0)
    run.save_state(lambda: {"x": torch.ones(3)})
    state = run.state_folder / "state.pt"
    with zipfile.ZipFile(state, "a") as archive:
        archive.writestr(entry, "escaped")
    shutil.copy(state, inner / "official.pt")  # neither a checkpoint nor data
    settings = model_config("hopper")
    model = build_model(settings.settings, settings.tasks)
    before = files_below(tmp_path)
    with faults("path") as tally:
        with tally.fault(f"state, {entry}"):
            try:
                assert torch.equal(run.load_state()["x"], torch.ones(3))
            except UserError as error:  # torch refuses the entries that are not below state.pt/
                assert str(run.state_folder) in str(error)
            assert files_below(tmp_path) == before
        official = inner / "official.pt"
        for read in (lambda: load_official(official, model), lambda: open_file(official, "mt30")):
            with tally.fault(f"official, {entry}"):
                with pytest.raises(UserError, match="official"):
                    read()
                assert files_below(tmp_path) == before


@pytest.mark.parametrize("path", ["../secret.npy", "/etc/passwd", "obs.npy/../../secret.npy"])
def test_data_sets_name_no_files(tmp_path, faults, path):
    folder = write_episodes(tmp_path / "data", "hopper")
    meta = json.loads((folder / "meta.json").read_text())
    del meta["seal"]
    with faults("path") as tally:
        for change in ({"sha256": meta["sha256"] | {path: "0"}}, {"task": path}):
            (folder / "meta.json").write_text(json.dumps(meta | change))
            with tally.fault(f"{path}: {[*change]}"), pytest.raises(UserError, match=re.escape("meta.json")):
                Episodes.open(folder, expected_task="hopper")


def yaml_traps(marker: Path) -> dict[str, str]:
    """YAML that would make the marker, or fill the memory."""
    tenfold = "".join(f"x{n + 1}: &x{n + 1} [{', '.join([f'*x{n}'] * 10)}]\n" for n in range(30))
    merged = "".join(f"m{n + 1}: &m{n + 1} {{<<: [{', '.join([f'*m{n}'] * 10)}]}}\n" for n in range(30))
    return {
        "apply": f"a: !!python/object/apply:os.system ['touch {marker}']",
        "new": f"a: !!python/object/new:os.system ['touch {marker}']",
        "eval": f"a: !!python/object/apply:eval [\"open('{marker}', 'w')\"]",
        "popen": f"a: !!python/object/apply:subprocess.check_call [[touch, '{marker}']]",
        "path": f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]",
        "name": "a: !!python/name:os.system",
        "module": "a: !!python/module:os",
        "tuple": "a: !!python/tuple [1, 2]",
        "laughs": f"x0: &x0 [1, 2]\n{tenfold}",
        "merges": f"m0: &m0 {{a: 1}}\n{merged}",
        "itself": "a: &a [*a, *a]",
    }


def test_yaml_makes_nothing_but_settings(tmp_path, faults, marker):
    file = tmp_path / "hostile.yaml"
    classes = [lambda cls=cls: load(cls, file) for cls in (DataConfig, ModelConfig, RunConfig)]
    with faults("yaml") as tally:
        for name, text in yaml_traps(marker).items():
            file.write_text(text)
            for read in (*classes, lambda: Matrix("hostile", tmp_path)):
                with tally.fault(name):
                    with pytest.raises(UserError, match="hostile"):
                        read()
                    assert not marker.exists()


# Values without quotes in a shell's line are names that the project itself has, or match a wildcard's pattern.
UNQUOTED = {"wildcards.scale", "params.module", "params.suite", "params.tasks", "params.episodes", "resources.gpu"}


def test_rules_quote_what_they_hand_to_the_shell():
    lines = 0
    for file in sorted((ROOT / "workflows" / "rules").rglob("*.smk")):
        for block in re.findall(r"^ +shell:\n((?: +\".*\"\n)+)", file.read_text(), flags=re.MULTILINE):
            fields = re.findall(r"{([^}]+)}", block)
            assert {name for name in fields if not name.endswith(":q")} <= UNQUOTED, file
            lines += 1
    assert lines >= 20
    assert shell_calls() == []


def shell_calls() -> list[str]:
    """Lines of the project's own code that hand text to a shell or to Python."""
    forbidden = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
    found = []
    for file in (file for folder in ("pwm", "baselines", "workflows") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                with_shell = any(word.arg == "shell" for word in node.keywords)
                found += [f"{file}:{node.lineno}"] if with_shell or ast.unparse(node.func) in forbidden else []
    return found


def test_words_for_the_shell_are_no_names(tmp_path, faults):
    """Of tasks, suites, algorithms, variants, world models and scales; and no wildcard matches them."""
    text = (ROOT / "workflows" / "rules" / "common.smk").read_text()
    patterns = dict(re.findall(r'^    (\w+)="(.+)",$', text.partition("wildcard_constraints:")[2], flags=re.MULTILINE))
    assert set(patterns) == {"scale", "suite", "task", "tasks", "algorithm", "variant", "seed"}
    default = {"default": {}}
    suite = {"tasks": {"hopper": {}}, "seeds": 1, "world_models": default, "algorithms": {"pwm": default}}
    with faults("shell") as tally:
        for word in WORDS:
            changes = [suite | {"tasks": {word: {}}}, suite | {"algorithms": {word: {"default": {}}}}]
            changes += [suite | {"algorithms": {"pwm": {word: {}}}}, suite | {"world_models": {word: {}}}]
            for data in ({word: suite}, *({"locomotion": change} for change in changes)):
                (tmp_path / "hostile.yaml").write_text(json.dumps({"suites": data}))
                with (
                    tally.fault(f"{word}: {data}"),
                    pytest.raises(UserError, match=re.escape(word[0])),
                ):
                    Matrix("hostile", tmp_path)
            with tally.fault(f"scale {word}"), pytest.raises(UserError):
                Matrix(word, tmp_path)
            with tally.fault(f"wildcard {word}"):
                assert not [name for name, pattern in patterns.items() if re.fullmatch(pattern, word)]


def test_words_for_the_shell_in_paths_and_settings(tmp_path, faults, thorough):
    """The workflow in a folder with such a name, and with such a path among its settings."""
    if not thorough:
        pytest.skip("takes Snakemake; make faults runs it")
    folder = tmp_path / "a b;touch x&$(touch x)`touch x`'\"|*"
    folder.mkdir()
    copy_project(folder)
    scale = folder / "workflows" / "config" / "test.yaml"
    scale.write_text(scale.read_text() + 'tdmpc2_data: "$(touch x) `touch x`; touch x \'"\n')
    with faults("shell") as tally, tally.fault("collect"):
        target = "results/test/data/hopper/episodes/meta.json"
        done = snakemake(folder, "--config", "scale=test", "--", target, "results/test/settings.csv")
        assert done.returncode == 0, done.stderr
        assert (folder / target).exists() and not list(tmp_path.rglob("x"))
