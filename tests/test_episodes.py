"""The data format: what is written is read back, and damage ends in one line that names the file and the mend."""

import errno
import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwm.data.episodes import FILES, Episodes, EpisodeWriter
from pwm.errors import UserError
from pwm.integrity import unseal

TASK, OBS, ACT, STEPS = "walker-walk", 4, 2, 6


def random_episodes(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n + 1, OBS)), rng.normal(size=(n, ACT)), rng.normal(size=n), n % 2 == 0) for n in lengths]


def write(folder, episodes, collector=None, seed=3):
    writer = EpisodeWriter(folder, TASK, OBS, ACT, STEPS, len(episodes))
    for episode in episodes:
        writer.add(*episode)
    writer.commit(collector or {"policy": "random", "noise": [0, 0.3]}, seed)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "set", random_episodes([6, 2, 5]))
    return tmp_path / "set"


def refusal(folder, **arguments):
    with pytest.raises(UserError) as caught:
        Episodes.open(folder, **arguments)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, STEPS), min_size=1, max_size=5), seed=st.integers(0, 2**16))
def test_round_trip(tmp_path_factory, lengths, seed):
    folder = tmp_path_factory.mktemp("episodes") / "deep" / "set"
    episodes = random_episodes(lengths, seed)
    write(folder, episodes)
    data = Episodes.open(folder, expected_task=TASK, observation_dim=OBS, action_dim=ACT)
    assert data.length.tolist() == lengths
    for index, (obs, action, reward, terminated) in enumerate(episodes):
        n = len(reward)
        for array, values in ((data.obs, obs), (data.action, action), (data.reward, reward)):
            rows = len(values)
            assert array.dtype == np.float32 and np.array_equal(array[index, :rows], values.astype(np.float32))
            assert not array[index, rows:].any()
        assert data.terminated[index].tolist() == [0.0] * (n - 1) + [float(terminated)] + [0.0] * (STEPS - n)
    rewards = [np.float32(reward).astype(float) for _, _, reward, _ in episodes]
    returns = [float(sum(reward)) for reward in rewards]
    assert np.allclose(data.returns(), returns, rtol=1e-12) and data.returns().dtype == np.float64
    statistics = data.meta.statistics
    assert np.isclose(statistics.return_mean, np.mean(returns), rtol=1e-12)
    assert np.allclose([statistics.return_min, statistics.return_max], [min(returns), max(returns)], rtol=1e-12)
    assert np.isclose(statistics.reward_std, np.std(np.concatenate(rewards)), rtol=1e-12)


def test_folder_holds_what_the_format_says(folder):
    assert {path.name for path in folder.iterdir()} == {*FILES, "meta.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["set"]
    meta = json.loads((folder / "meta.json").read_text())
    sizes = [meta[key] for key in ("episodes", "episode_length", "observation_dim", "action_dim", "seed")]
    assert sizes == [3, STEPS, OBS, ACT, 3] and meta["task"] == TASK
    assert meta["collector"] == {"policy": "random", "noise": [0, 0.3]} and meta["versions"]["numpy"] == np.__version__
    for name in FILES:
        assert meta["sha256"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert np.load(folder / name, allow_pickle=False).dtype == (np.int64 if name == "length.npy" else np.float32)


def test_same_episodes_give_the_same_bytes(folder, tmp_path):
    write(tmp_path / "again", random_episodes([6, 2, 5]))
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_arrays_cannot_be_written(folder):
    data = Episodes.open(folder)
    for array in (data.obs, data.action, data.reward, data.terminated, data.length):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_other_task_or_sizes_are_refused(folder):
    assert "task is 'walker-walk', expected 'fish-swim'" in refusal(folder, expected_task="fish-swim")
    assert "observation_dim is 4, expected 5" in refusal(folder, observation_dim=5)
    assert "action_dim is 2, expected 1" in refusal(folder, action_dim=1)


def test_absent_folder(tmp_path):
    assert "run the collect rule" in refusal(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "meta.json is damaged: the file is missing" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("name", FILES)
def test_damaged_file(folder, name):
    path, whole = folder / name, (folder / name).read_bytes()
    mend = f"delete the folder {folder} and run the collect rule again"
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    message = refusal(folder)
    assert str(path) in message and mend in message
    if name != "length.npy":  # there the flipped byte is a length out of range
        assert "checksum differs" in message
    for kept in (0, 5, 60, len(whole) - 1):
        path.write_bytes(whole[:kept])
        for verify in (True, False):
            message = refusal(folder, verify=verify)
            assert f"{path} is damaged: truncated" in message and mend in message
    path.unlink()
    assert f"{path} is damaged: the file is missing" in refusal(folder, verify=False)
    path.mkdir()
    assert str(path) in refusal(folder, verify=False)
    assert len(list(folder.iterdir())) == len(FILES) + 1  # nothing was deleted


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    if not folder.exists():
        write(folder, random_episodes([6, 2, 5]))
    path = folder / data.draw(st.sampled_from(FILES))
    whole = path.read_bytes()
    # Headers, the first 128 bytes, are where a reader can stumble.
    position = data.draw(st.integers(0, 127) | st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    try:
        assert str(path) in refusal(folder)
    finally:
        path.write_bytes(whole)


def test_pickles_are_never_loaded(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    for value in (np.array([Trap()] * 3, dtype=object), np.array(Trap(), dtype=object)):
        np.save(folder / "length.npy", value, allow_pickle=True)
        assert "length.npy is damaged" in refusal(folder, verify=False)
    np.savez(folder / "length.npy.npz", np.zeros(3))
    (folder / "length.npy.npz").rename(folder / "length.npy")
    assert "length.npy is damaged" in refusal(folder, verify=False)
    (folder / "length.npy").write_bytes(pickle.dumps(Trap()))
    assert "length.npy is damaged" in refusal(folder, verify=False)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, STEPS)),
        np.zeros((3, STEPS + 1), np.float32),
        np.zeros((2, STEPS), np.float32),
        np.zeros((3, STEPS), ">f4"),
    ],
    ids=["float64", "longer", "fewer", "big-endian"],
)
def test_wrong_shape_or_type(folder, array):
    np.save(folder / "reward.npy", array)
    assert "reward.npy is damaged: holds" in refusal(folder, verify=False)


def test_column_order_is_refused(folder):
    """It would have to be copied into memory to be read by rows."""
    np.save(folder / "reward.npy", np.zeros((3, STEPS), np.float32, order="F"))
    assert "reward.npy is damaged: holds float32 [3, 6] in column order" in refusal(folder, verify=False)


@pytest.mark.parametrize("value", [-1, STEPS + 1])
def test_length_out_of_range(folder, value):
    np.save(folder / "length.npy", np.array([1, value, 2]))
    assert f"length.npy is damaged: lengths outside 0 to {STEPS}" in refusal(folder, verify=False)


def test_damaged_meta(folder):
    path = folder / "meta.json"
    good = json.loads(path.read_text())
    for text in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100000):
        path.write_bytes(text)
        assert f"{path} is damaged" in refusal(folder)
    for key in good.keys() - {"policy_returns", "seal"}:  # older sets have none
        path.write_text(json.dumps({name: value for name, value in good.items() if name != key}))
        assert f"{key}: Field required" in refusal(folder)
    bad = {
        "format_version": [0, 2, "1", None],
        "task": [7],
        "episodes": ["3", 3.5, -3, 0],
        "seed": ["x"],
        "statistics": [{}, good["statistics"] | {"return_mean": float("nan")}],
        "sha256": [{}, {"../obs.npy": "0"}, good["sha256"] | {"/etc/passwd": "0"}],
    }
    for key, values in bad.items():
        for value in values:
            path.write_text(json.dumps(good | {key: value}))
            assert f"format version 1, {key}" in refusal(folder)
    path.write_text(json.dumps(good | {"episodes": 10**30}))
    assert "damaged" in refusal(folder)
    path.write_text(json.dumps(good))
    Episodes.open(folder)


def test_writer_refuses_what_does_not_fit(tmp_path):
    writer = EpisodeWriter(tmp_path / "set", TASK, OBS, ACT, STEPS, 2)
    obs, action, reward = np.zeros((4, OBS)), np.zeros((3, ACT)), np.zeros(3)
    wrong = [
        (obs[:3], action, reward),  # one observation short
        (obs[:, :2], action, reward),
        (obs, action[:, :1], reward),  # would broadcast
        (obs, action, np.array([0, np.nan, 0])),
        (obs, action * 0 + 1e39, reward),  # infinite in float32
        (np.zeros((1, OBS)), np.zeros((0, ACT)), np.zeros(0)),
        (np.zeros((8, OBS)), np.zeros((7, ACT)), np.zeros(7)),
    ]
    for arrays in wrong:
        with pytest.raises(ValueError), np.errstate(over="ignore"):
            writer.add(*arrays, False)
    writer.add(obs, action, reward, False)
    with pytest.raises(ValueError, match="1 of the 2 episodes"):
        writer.commit({}, 0)
    assert not (tmp_path / "set").exists()
    writer.add(obs, action, reward, False)
    with pytest.raises(ValueError, match="already holds"):
        writer.add(obs, action, reward, False)
    writer.commit({}, 0)
    assert Episodes.open(tmp_path / "set").length.tolist() == [3, 3]


def test_earlier_set_stays_until_the_new_one_is_complete(folder):
    before = Episodes.open(folder)
    for finish in (lambda writer: writer.discard(), lambda writer: writer.commit({}, 0)):
        writer = EpisodeWriter(folder, TASK, OBS, ACT, STEPS, 1)
        writer.add(*random_episodes([4])[0], success=True)
        assert len(Episodes.open(folder).length) == 3
        finish(writer)
    assert Episodes.open(folder).length.tolist() == [4] and Episodes.open(folder).meta.statistics.success_mean == 1.0
    assert before.length.tolist() == [6, 2, 5]  # an open reader keeps what it opened
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_destination(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", random_episodes([2]))
    assert Episodes.open(tmp_path / "empty").length.tolist() == [2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="mine: holds other files than a data set; name another folder"):
        EpisodeWriter(tmp_path / "mine", TASK, OBS, ACT, STEPS, 1)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        EpisodeWriter(tmp_path / "file" / "set", TASK, OBS, ACT, STEPS, 1)
    with pytest.raises(UserError, match="cannot be written"):
        EpisodeWriter(tmp_path / "file", TASK, OBS, ACT, STEPS, 1)


def test_no_room_is_one_line_before_any_work(tmp_path, monkeypatch):
    """The disk is only said to be full: a test that really fills it would take everyone down with it."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse, raising=False)
        with pytest.raises(UserError, match="set: cannot be written: No space left on device"):
            EpisodeWriter(tmp_path / "set", TASK, OBS, ACT, STEPS, 3)
    # 3 episodes: 84 observation numbers, 36 of actions, 18 rewards, 18 flags, all of 4 bytes, and 3 lengths of 8.
    usage = shutil.disk_usage(tmp_path)
    for free, fits in ((647, False), (648, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if fits:
            EpisodeWriter(tmp_path / "set", TASK, OBS, ACT, STEPS, 3)
        else:
            with pytest.raises(UserError, match="GB are free; make room there or take fewer episodes"):
                EpisodeWriter(tmp_path / "set", TASK, OBS, ACT, STEPS, 3)
            assert not list(tmp_path.iterdir())


def test_killed_writer_leaves_no_set_and_is_replaced(tmp_path):
    folder = tmp_path / "set"
    program = f"""
import numpy as np
from pwm.data.episodes import EpisodeWriter
writer = EpisodeWriter({str(folder)!r}, "walker-walk", 4, 2, 6, 1000)
for _ in range(500):
    writer.add(np.ones((7, 4)), np.ones((6, 2)), np.ones(6), False)
print("half", flush=True)
import time; time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["set.tmp"]
    assert "there is no data set" in refusal(folder)
    write(folder, random_episodes([3, 1]))
    assert Episodes.open(folder).length.tolist() == [3, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_opening_a_large_set_reads_next_to_nothing(folder):
    """4 GB of holes behind valid headers: opened in no time and within little memory, one row read at the far end."""
    meta = unseal((folder / "meta.json").read_bytes())
    meta |= {"episodes": 100, "episode_length": 10_000, "observation_dim": 1000}
    (folder / "meta.json").write_text(json.dumps(meta))
    shapes = {"obs": (100, 10_001, 1000), "action": (100, 10_000, ACT)}
    shapes |= {"reward": (100, 10_000), "terminated": (100, 10_000)}
    for name, shape in shapes.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.truncate(file.tell() + 4 * int(np.prod(shape)))
    np.save(folder / "length.npy", np.full(100, 10_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    data = Episodes.open(folder, verify=False)
    assert data.obs.nbytes > 4e9 and not data.obs[-1, -1].any() and not data.action[50, 5000].any()
    assert time.perf_counter() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB
    os.truncate(folder / "obs.npy", 200)
    assert "obs.npy is damaged: truncated" in refusal(folder, verify=False)
