"""Two workflows in one checkout, a checkout that cannot be written, results on another disk, other numbers of cores."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import Killable, results
from project_copy import copy_project, snakemake

pytestmark = pytest.mark.xdist_group("workflow")

LINKED = ("results/test", "figures", "state", ".snakemake")
SHORT = "results/test/runs/locomotion/hopper/sac/default/seed0/eval.json"
DATA, SETTINGS = "data/hopper/episodes/meta.json", "tables/hyperparameters.md"


def test_two_at_once(tmp_path, faults):
    """While one is at work, a second of its scale says so; one of another scale completes, and so does the first."""
    copy_project(tmp_path)
    scales = tmp_path / "workflows" / "config"
    shutil.copy(scales / "test.yaml", scales / "other.yaml")
    tables = {scale: f"results/{scale}/{SETTINGS}" for scale in ("test", "other")}
    words = {scale: ["--config", f"scale={scale}", "--", table] for scale, table in tables.items()}
    first = Killable(tmp_path, ["snakemake", "--cores", "1", *words["test"]], tmp_path / "log")
    try:
        assert first.run_until(1)
        first.stop()
        with faults("two") as tally:
            with tally.fault("one scale"):
                second = snakemake(tmp_path, *words["test"])
                said = [line for line in second.stderr.splitlines() if "another Snakemake is at work" in line]
                assert second.returncode == 1 and len(said) == 1 and said[0].startswith("warning: "), second.stderr
                assert "cannot be locked" in second.stderr
            with tally.fault("two scales"):
                other = snakemake(tmp_path, *words["other"])
                assert other.returncode == 0, other.stderr
                first.go_on()
                first.finish()
                made = [(tmp_path / table).read_text().replace(scale, "") for scale, table in tables.items()]
                assert made[0] == made[1]
    finally:
        first.clean_up()


def mounted(*words: str) -> None:
    """Mount something, or skip the test where that is not allowed."""
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"nothing can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"nothing can be mounted: {done.stderr.strip()}")


@pytest.fixture
def checkout(tmp_path) -> Iterator[Path]:
    """A copy of the project that nobody can write into, beside a disk of its own in memory, `disk`."""
    source, checkout, disk = (tmp_path / name for name in ("source", "checkout", "disk"))
    for folder in (source, checkout, disk):
        folder.mkdir()
    copy_project(source)
    for name in LINKED:  # they lead nowhere, but in the test that makes their targets
        (source / name).symlink_to(disk / "linked" / name)
    mounts = [["-t", "tmpfs", "-o", "size=256m", "tmpfs", disk], ["--bind", source, checkout]]
    done = []
    try:
        for words in mounts:
            mounted(*map(str, words))
            done.append(words[-1])
        mounted("-o", "remount,ro,bind", str(checkout))
        yield checkout
    finally:
        for mount in reversed(done):
            subprocess.run(["umount", "--lazy", str(mount)], check=True)


def written(folder: Path) -> list[str]:
    """Everything in a folder."""
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("way", ["directory", "links"])
def test_a_checkout_that_cannot_be_written(checkout, faults, project, thorough, way):
    """With results in another folder, and with those of its folders that are written into on another disk."""
    if way == "links" and not thorough:
        pytest.skip("takes another workflow; make faults runs it")
    with pytest.raises(OSError, match="Read-only file system"):
        (checkout / "x").touch()
    before = written(checkout)
    disk = checkout.parent / "disk"
    elsewhere = disk / "own" if way == "directory" else disk / "linked"
    if way == "links":
        for name in LINKED:
            (elsewhere / name).mkdir(parents=True)
    words = ["--directory", str(elsewhere)] if way == "directory" else []
    targets = [f"results/test/{DATA}"]
    if thorough:
        targets += [SHORT, f"results/test/{SETTINGS}", "figures/test/ball_wall.pdf"]
    with faults("read-only") as tally, tally.fault(way):
        done = snakemake(checkout, *words, "--config", "scale=test", "--", *targets)
        assert done.returncode == 0, done.stderr[-3000:]
        made, usual = results(elsewhere), results(project)
        assert made and not [name for name in made if made[name] != usual[name]]
        assert all((elsewhere / target).stat().st_size for target in targets)
        assert written(checkout) == before


def test_a_checkout_that_cannot_be_written_says_so(checkout):
    (checkout.parent / "source" / ".snakemake").unlink()
    done = snakemake(checkout, "--config", "scale=demo")
    line = done.stderr.splitlines()[-1]  # one that Snakemake itself has to say comes before
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line.startswith(f"error: {checkout}") and "Read-only file system" in line and "--directory FOLDER" in line


def test_one_core_and_two(project, tmp_path, faults, thorough):
    """Jobs one after the other, in another folder; `project` had two at once."""
    copy_project(tmp_path)
    target = "results/test/scores.csv" if thorough else SHORT
    words = ["snakemake", "--cores", "1", "--config", "scale=test", "--", target]
    workflow = Killable(tmp_path, words, tmp_path / "log")
    try:
        with faults("cores") as tally, tally.fault("one core"):
            workflow.finish()
            made, usual = results(tmp_path), results(project)
            assert made and ("scores.csv" in made or not thorough)
            assert not [name for name in made if made[name] != usual[name]]
    finally:
        workflow.clean_up()
