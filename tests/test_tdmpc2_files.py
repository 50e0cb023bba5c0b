"""TD-MPC2's official files: found whole or not at all, downloaded where asked; no test needs the network."""

import shutil
from types import SimpleNamespace

from support import refusal

from pwm.data.tdmpc2_files import download, find_files, official_set


def test_files_are_found(tmp_path):
    """The official ones in the order of their numbers, all or none; somebody's own by any name."""
    where = ["huggingface.co/datasets/nicklashansen/tdmpc2", "20 GB", str(tmp_path / "mt30"), "download=true"]
    refusal(lambda: find_files(tmp_path, "mt30"), "no .pt file", *where)
    folder = tmp_path / "mt80"
    folder.mkdir()
    for k in range(20):
        refusal(lambda: find_files(tmp_path, "mt80"), "34 GB") if k else None
        (folder / f"chunk_{k}.pt").touch()
    assert [path.name for path in find_files(tmp_path, "mt80")] == [f"chunk_{k}.pt" for k in range(20)]
    assert find_files(folder, "mt80") == find_files(tmp_path, "mt80")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/walker-walk.pt").touch()
    assert [path.name for path in find_files(tmp_path / "own", "mt30")] == ["walker-walk.pt"]
    assert [official_set(task) for task in ("walker-walk", "mw-push", "hopper")] == ["mt30", "mt80", None]


def test_download(tmp_path, monkeypatch):
    """Asked for by its name with the room there is, only what is missing; a failure says how to go on."""
    asked = []

    def fetch(repository, *, allow_patterns, local_dir, repo_type, dry_run=False):
        asked.append((repository, repo_type, allow_patterns, dry_run))
        if dry_run:
            return [SimpleNamespace(file_size=10**9, will_download=k < 3) for k in range(4)]
        (local_dir / "mt30").mkdir(parents=True)
        for k in range(4):
            (local_dir / f"mt30/chunk_{k}.pt").touch()

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 10**9 - 1))
        refusal(lambda: download(tmp_path / "a", "mt30"), "takes 3.0 GB")
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 10**9))
        download(tmp_path / "a", "mt30")
    assert set(asked) == {("nicklashansen/tdmpc2", "dataset", "mt30/*.pt", dry) for dry in (True, False)}
    asked.clear()
    download(tmp_path / "a", "mt30")
    assert asked == []

    def fail(*_, **__):
        raise OSError("no\nroute")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    refusal(lambda: download(tmp_path / "b", "mt30"), "no route", "go on")
