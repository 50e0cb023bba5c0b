"""TD-MPC2's official multi-task data: which files there are, whether they are here, where they come from.

Light to import: no torch.
"""

import re
from pathlib import Path
from typing import NamedTuple

from pwm.envs.tasks import SUITES
from pwm.errors import UserError

REPOSITORY = "nicklashansen/tdmpc2"  # a data set repository on huggingface.co; a set's files lie in <set>/


class Official(NamedTuple):
    """One set."""

    files: int
    size: str  # as its authors give it
    decisions: int  # of an episode; a file has one row more, for the first observation
    episodes: int  # of each task that is taken from it

    @property
    def names(self) -> list[str]:
        """The files' names."""
        return [f"chunk_{k}.pt" for k in range(self.files)]


OFFICIAL = {"mt30": Official(4, "20 GB", 500, 23_000), "mt80": Official(20, "34 GB", 100, 40_000)}


def official_set(task: str) -> str | None:
    """The set that a task's official episodes are taken from; None where there are none."""
    # Deviation D14: DMControl always from MT30, whole; MT80 has the same number of steps of it, cut into 100 each.
    return next((name for name in OFFICIAL if task in SUITES[name]), None)


def find_files(folder: Path, name: str) -> list[Path]:
    """The `.pt` files of the set `name`, in `folder` or in its folder `name`, sorted by their numbers.

    Raises:
        UserError: there are none, or some of the official ones are missing.
    """
    inner = folder / name if (folder / name).is_dir() else folder
    found = sorted(inner.glob("*.pt"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    official = OFFICIAL[name].names
    names = {path.name for path in found}
    missing = [file for file in official if file not in names]
    if missing and names <= set(official):  # not somebody's own files
        what = f"{len(missing)} of {len(official)} files are" if found else "no .pt file is"
        raise UserError(
            f"{inner}: {what} there; TD-MPC2's {name} ({OFFICIAL[name].size}) is {name}/ of "
            f"huggingface.co/datasets/{REPOSITORY}: put it in {folder / name}, or have it downloaded there "
            f"(snakemake --config download=true, or --download)"
        )
    return found


def download(folder: Path, name: str) -> None:
    """Fetch what is missing of the set's files into `<folder>/<name>/`, going on where an earlier download ended.

    Raises:
        UserError: the disk is too small, or the download failed.
    """
    if all((folder / name / file).exists() for file in OFFICIAL[name].names):
        return
    from huggingface_hub import snapshot_download

    from pwm.data.episodes import check_room

    folder.mkdir(parents=True, exist_ok=True)
    source = {"repo_type": "dataset", "allow_patterns": f"{name}/*.pt", "local_dir": folder}
    try:
        plan = snapshot_download(REPOSITORY, dry_run=True, **source)
        check_room(folder / name, sum(file.file_size for file in plan if file.will_download))
        snapshot_download(REPOSITORY, **source)
    except UserError:
        raise
    except Exception as error:  # of several libraries
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"{folder / name}: the download of {name} from huggingface.co/datasets/{REPOSITORY} failed ({reason}); "
            f"start it again to go on"
        ) from None
