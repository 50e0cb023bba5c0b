"""A disk that fills up during a stage: one line says so, nothing half-written is taken for whole, and it goes on later.

The disk is a small one in memory, of which a file of ballast leaves some bytes; with other amounts the stage fails at
other moments: while it begins, while it saves its state, while it writes its outputs.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import Tally
from interrupted import same_files
from support import TINY, TINY_POLICY, model_config, refusal, run_config, write_episodes

from pwm import evaluate, scores, statistics
from pwm.collect import collect
from pwm.config import CollectConfig, DataConfig
from pwm.data.episodes import FILES, META, Episodes
from pwm.errors import UserError, exit_on_user_error
from pwm.extract import extract
from pwm.integrity import seal, unseal
from pwm.matrix import Matrix
from pwm.pretrain import build_model, pretrain
from pwm.runs import Run, load_checkpoint

PAGE = 4096
SCALE = """
suites:
  mt30:
    tasks: {cartpole-swingup: {}}
    seeds: 2
    algorithms: {random: {default: {}}}
"""
EVAL = {"return_mean": 5.0, "return_std": 1.5, "success_last": 0.0, "success_any": 1.0, "episodes": 10}
EVAL |= {"eval_wall_s": 2.5, "simulator": "mujoco 3.3.0"}


class Disk:
    """A small disk at `folder`, which is full but for some bytes after `fill`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    def fill(self, leave: int) -> None:
        """Leave so many bytes free, in whole pages."""
        self.clear()
        free = os.statvfs(self.folder).f_bavail * PAGE
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - leave, PAGE))

    def clear(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"a small disk cannot be mounted: {error}")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    monkeypatch.chdir(folder)
    yield Disk(folder)
    monkeypatch.undo()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def amounts(thorough) -> list[int]:
    """Bytes that are left, from none to more than any stage here needs."""
    pages = np.unique(np.geomspace(1, 2500, 36).astype(int)).tolist()
    return [PAGE * count for count in ([0, *pages] if thorough else [0, 20, 120])]


def ended(work: Callable[[], None], capsys) -> bool:
    """Whether the work was done; if not, it must have ended as a command does, in one line about the disk."""
    capsys.readouterr()
    try:
        exit_on_user_error(work)()
    except SystemExit as end:
        last = capsys.readouterr().err.splitlines()[-1]
        assert end.code in (1, 2) and last.startswith("error: "), last
        assert "no disk space left" in last or "GB are free" in last or "No space left" in last, last
        return False
    return True


def with_ever_more(
    disk: Disk,
    amounts: list[int],
    tally: Tally,
    capsys,
    *,
    work: Callable[[int], object],
    left: Callable[[int], object],
    whole: Callable[[int], object],
    before: Callable[[int], object] = lambda number: None,
) -> None:
    """Try a stage with ever more space left, until it has enough.

    Args:
        disk, amounts, tally, capsys: of the test.
        work: the stage; the number is the try's.
        left: checks what it left when it had not enough.
        whole: checks what it made at last, when it was started again with the space given back.
        before: called before the disk is filled.
    """
    for number, leave in enumerate(amounts):
        before(number)
        disk.fill(leave)
        enough = False
        with tally.fault(f"{leave} bytes left"):
            enough = ended(lambda number=number: work(number), capsys)
            if not enough:
                left(number)
                disk.clear()
                work(number)
            whole(number)
        disk.clear()
        if enough:
            assert number  # the first ones had to fail
            tally.tried -= 1  # nothing was lacking in this one
            return


def refused_or(read: Callable[[], object]) -> None:
    """What a stage left is refused, or passes the check that `read` is."""
    with suppress(UserError):
        read()


def training(disk: Disk, name: str) -> tuple[Callable[[Path], object], str]:
    """A stage's work in a folder, and where its checkpoint lies there."""
    data = Episodes.open(write_episodes(disk.folder / "data", "hopper"))
    if name == "pretrain":
        config = model_config("hopper")
        return lambda out: pretrain(Run(out, config, save_every=0.0), [data]), "."
    model, config = model_config("hopper"), run_config("hopper")

    def work(out: Path) -> None:
        torch.manual_seed(9)
        weights = build_model(model.settings, model.tasks).eval()
        extract(Run(out, config, save_every=0.0), weights, model, data)

    return work, "policy"


@pytest.mark.parametrize("stage", ["pretrain", "extract"])
def test_training(disk, faults, amounts, capsys, stage):
    """It ends bit for bit as one that always had space."""
    work, checkpoint = training(disk, stage)
    work(disk.folder / "whole")
    out = lambda number: disk.folder / f"out{number}"  # noqa: E731

    def left(number: int) -> None:
        assert not (out(number) / "manifest.json").exists()
        refused_or(lambda: load_checkpoint(out(number) / checkpoint))

    with faults("disk") as tally:
        with_ever_more(
            disk,
            amounts,
            tally,
            capsys,
            work=lambda number: work(out(number)),
            left=left,
            whole=lambda number: same_files(disk.folder / "whole", out(number), checkpoint),
        )


LEARNER = {
    "algorithm": "pwm",
    "model": {"world_model": TINY, "updates": 6, "batch_size": 4, "horizon": 3},
    "policy": {"updates": 12, "horizon": 4, **TINY_POLICY, "online": {"num_envs": 3, "model_batch_size": 4}},
    "random_steps": 30,
    "checkpoints": 2,
}


@pytest.mark.parametrize("mixture", [{"random": 3}, {"checkpoints": 2}], ids=["random", "learner"])
def test_collect(disk, faults, amounts, capsys, mixture):
    settings = CollectConfig(mixture=mixture, learner=LEARNER)
    config = DataConfig(scale="test", task="hopper", seed=1, settings=settings)
    out = lambda number: disk.folder / f"out{number}"  # noqa: E731
    work = lambda number: collect(Run(out(number), config, save_every=0.0), out(number))  # noqa: E731
    work(999)
    made = Episodes.open(out(999)).meta

    def whole(number: int) -> None:
        assert Episodes.open(out(number)).meta == made
        assert {file.name for file in out(number).iterdir()} == {*FILES, META}

    with faults("disk") as tally:
        left = lambda number: refusal(lambda: Episodes.open(out(number)), "there is no data set")  # noqa: E731
        with_ever_more(disk, amounts, tally, capsys, work=work, left=left, whole=whole)


def test_evaluate(disk, faults, amounts, capsys, monkeypatch):
    run = disk.folder / "run"
    training(disk, "extract")[0](run)
    monkeypatch.setattr("sys.argv", ["evaluate", "--run", str(run), "--episodes", "2"])

    def scored() -> dict[str, object]:
        content = unseal((run / "eval.json").read_bytes())
        return {key: value for key, value in content.items() if key != "eval_wall_s"}

    def whole(number: int) -> None:
        assert scored() == made

    def left(number: int) -> None:
        assert not (run / "eval.json").exists()

    evaluate.main()
    made = scored()
    with faults("disk") as tally:
        with_ever_more(
            disk,
            amounts,
            tally,
            capsys,
            work=lambda number: evaluate.main(),
            left=left,
            whole=whole,
            before=lambda number: (run / "eval.json").unlink(),
        )


def write_run(folder: Path, number: int, score: float) -> None:
    """A finished run with a long learning curve and this score."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(seal(EVAL | {"score": score}))
    manifest = {"env_steps": 640, "updates": 20, "train_wall_s": 33.25, "device": "cpu", "commit": "abc"}
    (folder / "manifest.json").write_text(seal(manifest))
    rows = [f"{k},{k},{k}.5,{score},{number}.0" for k in range(500)]
    (folder / "metrics.csv").write_text("env_steps,updates,wall_time_s,return,success\n" + "\n".join(rows) + "\n")


def test_collate(disk, faults, amounts, capsys, monkeypatch):
    """Over the files of an earlier collation: what is there afterwards is all of one, or refused."""
    (disk.folder / "small.yaml").write_text(SCALE)
    matrix, out = Matrix("small", disk.folder), disk.folder / "out"
    monkeypatch.setattr(scores, "Matrix", lambda scale: matrix)
    write_episodes(out / "data" / "cartpole-swingup" / "episodes", "cartpole-swingup")

    def prepare(number: int) -> None:
        for seed, run in enumerate(matrix.runs()):
            write_run(out / "runs" / run.path, seed, float(number))

    def read() -> set[float]:
        """The score that is there, of which the curves must tell as well."""
        found = {*statistics.load_scores(out / "scores.csv")["score"]}
        assert found == {*statistics.load_curves(out / "curves.csv")["return"]} and len(found) == 1
        return found

    def left(number: int) -> None:
        assert number == 0 or (out / "scores.csv").exists()
        refused_or(read)

    def whole(number: int) -> None:
        assert read() == {float(number)}

    with faults("disk") as tally:
        with_ever_more(
            disk,
            amounts,
            tally,
            capsys,
            work=lambda number: scores.collate("small", out, partial=False),
            left=left,
            whole=whole,
            before=prepare,
        )
