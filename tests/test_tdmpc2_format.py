"""TD-MPC2's data format: what its own code reads of ours, what we read of its files, and what is refused."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from support import refusal, write_episodes
from tensordict import TensorDict

from pwm.data.episodes import Episodes
from pwm.data.tdmpc2_format import export_episodes, import_files, main
from pwm.envs.tasks import SUITES, get_task

MT30 = SUITES["mt30"]


def official(episodes, suite="mt30", seed=0):
    """Tensors as in an official file: random episodes of the tasks named, each a task's name; row 0 of NaN."""
    rng, rows = np.random.default_rng(seed), {"mt30": 501, "mt80": 101}[suite]
    widths = {"mt30": (24, 6), "mt80": (39, 6)}[suite]
    tensors = {
        "obs": torch.from_numpy(rng.normal(size=(len(episodes), rows, widths[0])).astype(np.float32)),
        "action": torch.from_numpy(rng.uniform(-1, 1, (len(episodes), rows, widths[1])).astype(np.float32)),
        "reward": torch.from_numpy(rng.normal(size=(len(episodes), rows)).astype(np.float32)),
        "task": torch.tensor([SUITES[suite].index(name) for name in episodes])[:, None].repeat(1, rows),
    }
    tensors["action"][:, 0] = tensors["reward"][:, 0] = torch.nan
    for k, name in enumerate(episodes):
        tensors["obs"][k, :, get_task(name).observation_dim :] = 0
        tensors["action"][k, :, get_task(name).action_dim :] = 0
    return tensors


def save(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(TensorDict(tensors, batch_size=tensors["task"].shape[:2]), path)
    return path


def test_import_sorts_episodes_by_task(tmp_path):
    """Three files, tasks in any order: every episode arrives once, in order, with its own dimensions."""
    tasks = [["walker-walk", "cup-catch", "walker-walk"], ["pendulum-spin", "cup-catch"], ["cup-catch"]]
    parts = [official(names, seed=k) for k, names in enumerate(tasks)]
    files = [save(tmp_path / f"chunk_{k}.pt", part) for k, part in enumerate(parts)]
    import_files(files, "mt30", tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cup-catch", "pendulum-spin", "walker-walk"]
    for name in ("cup-catch", "pendulum-spin", "walker-walk"):
        task, data = get_task(name), Episodes.open(tmp_path / "data" / name / "episodes", expected_task=name)
        places = [(k, row) for k, names in enumerate(tasks) for row, other in enumerate(names) if other == name]
        assert data.length.tolist() == [500] * len(places) and not data.terminated.any()
        for e, (k, row) in enumerate(places):
            np.testing.assert_array_equal(data.obs[e], parts[k]["obs"][row, :, : task.observation_dim])
            np.testing.assert_array_equal(data.action[e], parts[k]["action"][row, 1:, : task.action_dim])
            np.testing.assert_array_equal(data.reward[e], parts[k]["reward"][row, 1:])
        assert data.meta.collector == {"source": "TD-MPC2", "suite": "mt30", "files": [f.name for f in files]}
        assert data.meta.statistics.success_mean is None
    import_files(files, "mt30", tmp_path / "one", ["cup-catch"])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["cup-catch"]
    one = Episodes.open(tmp_path / "one/cup-catch/episodes").meta
    assert one.sha256 == Episodes.open(tmp_path / "data/cup-catch/episodes").meta.sha256


def test_other_number_types_and_rounded_actions(tmp_path):
    """Half precision and small integers are read; an action just outside its range is brought back."""
    tensors = official(["mw-reach"] * 2, "mt80")
    half = {key: value.half() for key, value in tensors.items() if key != "task"} | {"task": tensors["task"].char()}
    half["action"][0, 5, 0] = 1.0
    tensors["action"][1, 7, 2] = -1.00005
    for name, content in (("half", half), ("single", tensors)):
        import_files([save(tmp_path / f"{name}.pt", content)], "mt80", tmp_path / name)
        data = Episodes.open(tmp_path / name / "mw-reach/episodes")
        assert data.obs.shape == (2, 101, 39) and np.abs(data.action).max() <= 1
        np.testing.assert_array_equal(data.obs, content["obs"].float())
    assert data.action[1, 6, 2] == -1.0


def tdmpc2_buffer(files):
    """What TD-MPC2's offline trainer does with its files until it draws from them: all rows, with their episode."""
    parts, episodes = [], 0
    for file in files:
        td = torch.load(file, weights_only=False)
        index = torch.arange(episodes, episodes + len(td), dtype=torch.int64)
        td["episode"] = index.unsqueeze(-1).expand(-1, td["reward"].shape[1])
        episodes += len(td)
        parts.append(td.reshape(td.shape[0] * td.shape[1]))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("suite", "names"), [("mt30", ["reacher-easy", "fish-swim"]), ("mt80", ["fish-swim", "mw-push"])]
)
def test_tdmpc2_reads_what_is_exported(tmp_path, suite, names):
    """Drawn as TD-MPC2 draws a sequence, the numbers are those of our episodes; and they come back by import."""
    for name in names:
        length = get_task(name).episode_length
        write_episodes(tmp_path / "data" / name / "episodes", name, (length, length), seed=3)
    export_episodes(tmp_path / "data", suite, tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.pt" for name in names)
    rows = {"mt30": 501, "mt80": 101}[suite]
    buffer = tdmpc2_buffer(files)
    assert set(buffer.keys()) == {"obs", "action", "reward", "task", "episode"}
    assert buffer["obs"].shape[1] == {"mt30": 24, "mt80": 39}[suite] and buffer["obs"].dtype == torch.float32
    for name in names:
        task, data = get_task(name), Episodes.open(tmp_path / "data" / name / "episodes")
        mine = buffer[buffer["task"] == SUITES[suite].index(name)]
        pieces = task.episode_length // (rows - 1)
        assert len(mine) == 2 * pieces * rows
        rng = np.random.default_rng(0)
        for _ in range(20):
            e, piece, start = rng.integers(2), rng.integers(pieces), rng.integers(rows - 4)
            first = (e * pieces + piece) * rows + start
            slices = mine[first : first + 4]  # horizon 3
            assert len(slices["episode"].unique()) == 1
            at = piece * (rows - 1) + start
            own_obs, own_action = task.observation_dim, task.action_dim
            np.testing.assert_array_equal(slices["obs"][:, :own_obs], data.obs[e, at : at + 4])
            np.testing.assert_array_equal(slices["action"][1:, :own_action], data.action[e, at : at + 3])
            np.testing.assert_array_equal(slices["reward"][1:], data.reward[e, at : at + 3])
            assert not slices["obs"][:, own_obs:].any() and not slices["action"][1:, own_action:].any()
    begins = buffer.reshape(-1, rows)[:, 0]
    assert begins["action"].isnan().all() and begins["reward"].isnan().all()
    import_files(files, suite, tmp_path / "again")
    for name in names:
        before, after = (Episodes.open(tmp_path / folder / name / "episodes") for folder in ("data", "again"))
        np.testing.assert_array_equal(after.action.reshape(before.action.shape), before.action)
        np.testing.assert_array_equal(after.reward.ravel(), before.reward.ravel())


def test_export_refuses_what_the_format_cannot_hold(tmp_path):
    refusal(lambda: export_episodes(tmp_path, "mt30", tmp_path / "out"), str(tmp_path), "no data set of a task of mt30")
    folder = write_episodes(tmp_path / "data/fish-swim/episodes", "fish-swim", (500, 499))
    refusal(lambda: export_episodes(tmp_path / "data", "mt30", tmp_path / "out"), str(folder), "500 decisions")
    write_episodes(folder, "fish-swim", (500,))
    refusal(lambda: export_episodes(tmp_path / "data", "mt30", tmp_path / "data"), "exists already")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


# What files of old versions of tensordict hold, by their class: the version's names for a tensordict's parts.
class _StringOnlyDict(dict):
    pass


def old_pickle(path, tensors, module, name, state):
    """A file whose pickle names the class `module.name` and sets `state`, as that version of tensordict wrote it."""
    fakes = {"tensordict.tensordict": {}, "tensordict.utils": {}, "tensordict._td": {}}
    cls = type("TensorDict", (), {"__module__": module})
    fakes[module]["TensorDict"] = cls
    fakes["tensordict.utils"]["_StringOnlyDict"] = _StringOnlyDict
    _StringOnlyDict.__module__ = "tensordict.utils"
    instance = cls()
    instance.__dict__.update(state(tensors))
    saved = {key: sys.modules.get(key) for key in fakes}
    try:
        for key, content in fakes.items():
            sys.modules[key] = ModuleType(key)
            vars(sys.modules[key]).update(content)
        torch.save(instance, path)
    finally:
        for key, module_before in saved.items():
            sys.modules.pop(key)
            if module_before is not None:
                sys.modules[key] = module_before
    return path


def common(tensors):
    return {"_batch_size": tensors["task"].shape, "_device": torch.device("cpu"), "_is_locked": False}


OLD = {
    "0.1": (
        "tensordict.tensordict",
        lambda t: {"_tensordict": dict(t), "_is_shared": None, "_is_memmap": False, "_names": None, **common(t)},
    ),
    "0.2": (
        "tensordict.tensordict",
        lambda t: {
            "_tensordict": _StringOnlyDict(t),
            "_is_shared": False,
            "_is_memmap": False,
            "_td_dim_names": None,
            "_lock_id": set(),
            "_locked_tensordicts": [],
            **common(t),
        },
    ),
    "0.3": ("tensordict._td", lambda t: {"_tensordict": _StringOnlyDict(t), "_td_dim_names": None, **common(t)}),
}


@pytest.mark.parametrize("version", OLD)
def test_files_of_old_versions_are_read(tmp_path, version):
    tensors = official(["cup-spin", "hopper-hop"])
    module, state = OLD[version]
    file = old_pickle(tmp_path / "old.pt", tensors, module, "TensorDict", state)
    import_files([file], "mt30", tmp_path / "data")
    np.testing.assert_array_equal(
        Episodes.open(tmp_path / "data/hopper-hop/episodes").reward[0], tensors["reward"][1, 1:]
    )


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def changed(**changes):
    """An otherwise good file's tensors with some replaced; None takes one out."""
    tensors = official(["walker-walk", "cup-catch"])
    return {key: value for key, value in (tensors | changes).items() if value is not None}


def with_value(key, at, value):
    tensor = official(["walker-walk", "cup-catch"])[key].clone()
    tensor[at] = value
    return {key: tensor}


WRONG = {
    "a key missing": ({"reward": None}, ["it holds action, obs, task, expected"]),
    "a key too many": ({"done": torch.zeros(2, 501)}, ["done"]),
    "rows": (official(["mw-reach"] * 2, "mt80"), ["obs is [2, 101, 39]", "501, 24", "mt30"]),
    "width": ({"action": torch.zeros(2, 501, 7)}, ["action is [2, 501, 7]"]),
    "task per episode": ({"task": torch.zeros(2, 501, 1, dtype=torch.int64)}, ["task is [2, 501, 1]"]),
    "integer rewards": ({"reward": torch.zeros(2, 501, dtype=torch.int64)}, ["reward is torch.int64"]),
    "boolean tasks": ({"task": torch.zeros(2, 501, dtype=torch.bool)}, ["task is torch.bool"]),
    "sparse": ({"reward": torch.zeros(2, 501).to_sparse()}, ["reward is no plain tensor"]),
    "holes": ({"obs": torch.zeros(1, 1, 24).expand(2, 501, 24)}, ["obs has more entries"]),
    "unknown task": (with_value("task", 1, 30), ["task indices", "0 to 29"]),
    "negative task": (with_value("task", 1, -1), ["task indices -1"]),
    "task changes": (with_value("task", (1, 9), 0), ["task changes"]),
    "NaN": (with_value("reward", (1, 9), torch.nan), ["episode 1 (cup-catch)", "reward holds values"]),
    "infinite": (with_value("obs", (0, 0, 0), torch.inf), ["episode 0 (walker-walk)", "obs holds values"]),
    "action": (with_value("action", (1, 1, 0), 1.1), ["action leaves [-1, 1]"]),
    "padding": (with_value("obs", (1, 3, 8), 0.1), ["episode 1 (cup-catch)", "beyond the task's 8"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_contents_are_refused(tmp_path, case):
    """One line that names the file; a set that stood there stays, and nothing new is left."""
    changes, parts = WRONG[case]
    good = save(tmp_path / "good.pt", official(["cup-catch"]))
    import_files([good], "mt30", tmp_path / "data")
    before = Episodes.open(tmp_path / "data/cup-catch/episodes").meta
    bad = save(tmp_path / "bad.pt", changed(**changes))
    refusal(lambda: import_files([good, bad], "mt30", tmp_path / "data"), str(bad), *parts)
    assert [str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").rglob("*.tmp")] == []
    assert Episodes.open(tmp_path / "data/cup-catch/episodes").meta == before


def test_wrong_files_are_refused(tmp_path):
    good = save(tmp_path / "good.pt", official(["cup-catch"]))
    whole = good.read_bytes()
    bad, sprung = tmp_path / "bad.pt", tmp_path / "sprung"
    contents = [whole[: len(whole) // 2], whole[:-1], b"", b"chunk"]
    for content in contents:
        bad.write_bytes(content)
        refusal(lambda: import_files([bad], "mt30", tmp_path / "data"), str(bad), "truncated", "download it again")
    for content in (Trap(sprung), {"obs": Trap(sprung)}, SimpleNamespace(obs=1)):
        torch.save(content, bad)
        refusal(lambda: import_files([bad], "mt30", tmp_path / "data"), str(bad), "no TensorDict")
    for content in ([1, 2], {"obs": torch.zeros(3)}, torch.zeros(3)):
        torch.save(content, bad)
        refusal(lambda: import_files([bad], "mt30", tmp_path / "data"), str(bad), "not a TensorDict")
    refusal(lambda: import_files([tmp_path / "none.pt"], "mt30", tmp_path / "data"), "none.pt", "no such file")
    refusal(lambda: import_files([good], "mt30", tmp_path / "data", ["fish-swim"]), "no episode of fish-swim")
    refusal(lambda: import_files([good], "mt30", tmp_path / "data", ["mw-push"]), "'mw-push'", "'mt30'")
    refusal(lambda: import_files([good], "mt30", tmp_path / "data", ["cup-cach"]), "cup-cach", "cup-catch")
    assert not sprung.exists() and not (tmp_path / "data").exists()


def test_too_little_disk_is_refused_first(tmp_path, monkeypatch):
    """cup-catch: 500 × (8 + 2 + 1 + 1) + 8 numbers of 4 bytes and a length of 8 each; both ways."""
    file = save(tmp_path / "chunk.pt", official(["cup-catch"] * 3))
    usage = shutil.disk_usage(tmp_path)
    needed = 3 * ((500 * 12 + 8) * 4 + 8)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
        refusal(lambda: import_files([file], "mt30", tmp_path / "data"), "GB are free")
        assert not list((tmp_path / "data").rglob("*"))
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
        import_files([file], "mt30", tmp_path / "data")
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
        refusal(
            lambda: export_episodes(tmp_path / "data", "mt30", tmp_path / "out"), str(tmp_path / "out"), "GB are free"
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunk.pt", "data"]


def test_command(tmp_path, monkeypatch, capsys):
    """Import of a folder, export, and a refusal: one line, exit code 2."""
    save(tmp_path / "files/own.pt", official(["cup-catch"]))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tdmpc2_format", *map(str, words)])
        main()

    run("import", "--suite", "mt30", "--files", tmp_path / "files", "--out", tmp_path / "data")
    run("export", "--suite", "mt80", "--data", tmp_path / "data", "--out", tmp_path / "out")
    meta = json.loads((tmp_path / "data/cup-catch/episodes/meta.json").read_text())
    assert meta["episodes"] == 1 and torch.load(tmp_path / "out/cup-catch.pt", weights_only=True).shape == (5, 101)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run("import", "--suite", "mt80", "--files", tmp_path / "files", "--out", tmp_path / "data")
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
