"""Files cut off or with one bit turned, anywhere in them: refused by name, or read as they were written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from faults import damaged
from support import model_config, write_episodes

from pwm import scores, statistics
from pwm.config import Config, DataConfig, ModelConfig, RunConfig, dump, load
from pwm.data.episodes import Episodes
from pwm.errors import UserError
from pwm.integrity import seal
from pwm.matrix import Matrix, ModelId, RunId
from pwm.pretrain import build_model
from pwm.runs import Run, load_checkpoint, save_checkpoint

SCALE = """
suites:
  locomotion:
    tasks: {hopper: {}}
    seeds: 1
    world_models: {default: {}}
    algorithms: {pwm: {default: {}}}
"""
RUN = RunId("locomotion", "hopper", "pwm", "default", 0)
EVAL = {"score": 0.5, "return_mean": 5.25, "return_std": 1.5, "success_last": 0.0, "success_any": 1.0, "episodes": 10}
EVAL |= {"eval_wall_s": 2.5, "simulator": "mujoco 3.3.0", "returns": [1.5, 9.0], "score_rule": "return"}
POINTS = [{"env_steps": 320 * k, "updates": 10 * k, "return": k / 3, "success": 0.25} for k in range(5)]


@pytest.fixture
def rng():
    return np.random.default_rng(20250)


@pytest.fixture
def times(thorough):
    """How often each file is damaged."""
    return 300 if thorough else 10


@pytest.fixture(autouse=True)
def states_lie_in_the_tests_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(read, file: Path) -> bool:
    """Whether `read()` refuses in one line that names the file or its folder; if not, it says that all is the same."""
    try:
        same = read()
    except UserError as error:
        assert "\n" not in str(error)
        assert str(file) in str(error) or str(file.parent) in str(error)
        return True
    assert same, "damage is neither noticed nor harmless"
    return False


def test_data_sets(tmp_path, faults, rng, times):
    folder = write_episodes(tmp_path / "data", "hopper", policy_returns=(1.5, 2.5))
    names = ("obs", "action", "reward", "terminated", "length")
    whole = Episodes.open(folder)
    arrays = [np.array(getattr(whole, name)) for name in names]

    def same() -> bool:
        data = Episodes.open(folder, expected_task="hopper")
        equal = (np.array_equal(getattr(data, name), array) for name, array in zip(names, arrays, strict=True))
        return data.meta == whole.meta and all(equal)

    assert same()
    with faults("data") as tally:
        for file in sorted(folder.iterdir()):
            for how in damaged(file, times, rng):
                with tally.fault(how):
                    refused(same, file)


def test_checkpoints(tmp_path, faults, rng, times):
    settings = model_config("hopper")
    tensors = build_model(settings.settings, settings.tasks).state_dict()
    config = {"config": settings.model_dump(mode="json")}
    save_checkpoint(tmp_path / "model", tensors, config)

    def same() -> bool:
        found, saved = load_checkpoint(tmp_path / "model")
        equal = found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
        return equal and saved == {"format": 1} | config

    assert same()
    with faults("checkpoint") as tally:
        for file in sorted((tmp_path / "model").iterdir()):
            for how in damaged(file, 2 * times, rng):
                with tally.fault(how):
                    refused(same, file)


def test_states(tmp_path, faults, rng, times, capsys):
    run = Run(tmp_path / "run", model_config("hopper"), save_every=0.0)
    tensors = {number: torch.randn(50) for number in (1, 2)}
    for number, tensor in tensors.items():
        torch.manual_seed(number)
        run.rows.append({"updates": number})
        run.save_state(lambda number=number, tensor=tensor: {"number": number, "nested": [{"x": tensor, "name": "a"}]})
    newest, older = (run.state_folder / name for name in ("state.pt", "previous.pt"))

    def loaded() -> int:
        """Which of the two states was loaded; it must be whole."""
        state = run.load_state()
        number = state["number"]
        assert state.keys() == {"number", "nested"} and torch.equal(state["nested"][0]["x"], tensors[number])
        assert run.rows == [{"updates": k + 1} for k in range(number)]
        random = torch.get_rng_state()
        torch.manual_seed(number)
        assert torch.equal(random, torch.get_rng_state())
        return number

    assert loaded() == 2
    with faults("state") as tally:
        for how in damaged(newest, 3 * times, rng):
            capsys.readouterr()
            with tally.fault(how):
                number = loaded()
                assert (number == 2) != (f"{newest}: cannot be read" in capsys.readouterr().err)
        newest.write_bytes(b"")
        for how in damaged(older, times, rng):
            with tally.fault(f"both, {how}"):
                refused(lambda: loaded() == 1, run.state_folder / "lock")


@pytest.fixture
def scale(tmp_path):
    """The matrix of a small scale."""
    (tmp_path / "small.yaml").write_text(SCALE)
    return Matrix("small", tmp_path)


def test_results_of_a_run(tmp_path, faults, rng, times, scale):
    folder = tmp_path / "results" / "small" / "runs" / RUN.path
    run = Run(folder, scale.resolved(RUN))
    for point in POINTS:
        run.log(dict(point))
    run.finish(Path("policy"), {"x": torch.ones(2)})
    (folder / "eval.json").write_text(seal(EVAL))
    row, curve = scores.score_row("small", RUN, folder), scores.curve_rows("small", RUN, folder)
    assert row["score"] == 0.5 and row["updates"] == 40 and curve["return"].tolist() == [k / 3 for k in range(5)]

    def same() -> bool:
        again = scores.score_row("small", RUN, folder)
        pd.testing.assert_frame_equal(scores.curve_rows("small", RUN, folder), curve, check_exact=True)
        return again == row

    with faults("results") as tally:
        for name in ("eval.json", "manifest.json", "metrics.csv"):
            for how in damaged(folder / name, 2 * times, rng):
                with tally.fault(how):
                    refused(same, folder / name)


def test_configs(tmp_path, faults, rng, times, scale):
    """What a flipped digit changes in a setting shows at the latest when the runs are collated."""
    out = tmp_path / "results" / "small"
    model = ModelId("locomotion", "default", "hopper", 0)
    kinds: dict[str, tuple[type[Config], object]] = {
        f"runs/{RUN.path}": (RunConfig, RUN),
        f"models/{model.path}": (ModelConfig, model),
        "data/hopper": (DataConfig, "hopper"),
    }
    for folder, (_, key) in kinds.items():
        (out / folder).mkdir(parents=True)
        (out / folder / "config.yaml").write_text(dump(scale.resolved(key)), encoding="utf-8")
    scores.check_configs(scale, out)
    with faults("config") as tally:
        for folder, (cls, key) in kinds.items():
            file = out / folder / "config.yaml"

            def same(file=file, cls=cls, key=key) -> bool:
                config = load(cls, file)
                scores.check_configs(scale, out)
                return config == scale.resolved(key)

            for how in damaged(file, times, rng):
                with tally.fault(how):
                    refused(same, file)


def test_collated_files(tmp_path, faults, rng, times, monkeypatch, scale):
    """The CSV files that figures and tables are drawn from, beside the list of their checksums."""
    out = tmp_path / "results" / "small"
    run = Run(out / "runs" / RUN.path, scale.resolved(RUN))
    for point in POINTS:
        run.log(dict(point))
    run.finish(Path("policy"), {"x": torch.ones(2)})
    (out / "runs" / RUN.path / "eval.json").write_text(seal(EVAL))
    write_episodes(out / "data" / "hopper" / "episodes", "hopper")
    monkeypatch.setattr(scores, "Matrix", lambda name: scale)
    scores.collate("small", out, partial=False)
    readers = dict.fromkeys(("scores", "data"), statistics.load_scores)
    readers |= {"curves": statistics.load_curves, "expected": statistics.load_expected}
    with faults("collated") as tally:
        for name, read in readers.items():
            file = out / f"{name}.csv"
            whole = read(file)

            def same(read=read, file=file, whole=whole) -> bool:
                return read(file).equals(whole)

            assert len(whole) and same()
            for how in damaged(file, times, rng):
                with tally.fault(how):
                    refused(same, file)
            for how in damaged(out / "checksums.json", times, rng):
                with tally.fault(how):
                    refused(same, file)
