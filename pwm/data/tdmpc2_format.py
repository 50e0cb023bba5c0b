"""TD-MPC2's multi-task data format, in and out.

python -m pwm.data.tdmpc2_format import --suite mt30 --files FOLDER_OR_FILES --out results/SCALE/data [--download]
python -m pwm.data.tdmpc2_format export --suite mt30 --data results/SCALE/data --out FOLDER

A file is a `tensordict.TensorDict` saved by torch, of E episodes of one length T with T + 1 rows each: 500 decisions in
`mt30`, 100 in `mt80`.

    obs     [E, T + 1, O] float   the suite's widest task's O; a task's own entries first, then zeros
    action  [E, T + 1, A] float   row t + 1 is the action taken in row t; row 0 holds none
    reward  [E, T + 1]    float   likewise
    task    [E, T + 1]    integer the task's place in the suite
"""

import argparse
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from tqdm import tqdm

from pwm.data.episodes import Episodes, EpisodeWriter, check_room, room
from pwm.data.tdmpc2_files import OFFICIAL, download, find_files
from pwm.envs.tasks import SUITES, Task, get_task
from pwm.errors import UserError, exit_on_user_error

KEYS = ("obs", "action", "reward", "task")
# What files of tensordict 0.1 to 0.2 call it and a builtin; 0.3 and later need names that tensordict itself allows.
OLD_NAMES = [(TensorDict, "tensordict.tensordict.TensorDict"), (set, "__builtin__.set")]
ROUNDING = 1e-4  # by how much an action may leave [-1, 1]; it is clipped
BLOCK = 256  # episodes in memory at a time


def open_file(path: Path, suite: str) -> dict[str, Tensor]:
    """The tensors of one file, mapped from the disk and checked but for the numbers in them; shapes as above.

    Raises:
        UserError: the file is missing, truncated, or holds anything else than these tensors.
    """
    try:
        with torch.serialization.safe_globals(OLD_NAMES):
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if type(data) is not TensorDict:
            raise TypeError(f"a {type(data).__name__}, not a TensorDict")
        tensors = dict(data.items())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; name TD-MPC2's .pt files or their folder") from None
    except Exception as error:  # a damaged or hostile file makes torch and tensordict raise many kinds
        known = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds {known[1]}" if known else " ".join(str(error).split())[:100]
        raise _refused(path, f"truncated or no TensorDict of plain tensors: {reason}") from None
    problem = _problem(tensors, suite)
    if problem:
        raise _refused(path, problem)
    return tensors


def _problem(tensors: dict[str, Tensor], suite: str) -> str | None:
    """What is wrong with the names, types, shapes or task indices of a file's tensors."""
    if set(tensors) != set(KEYS):
        return f"it holds {', '.join(sorted(map(str, tensors)))}, expected {', '.join(KEYS)}"
    tasks, rows = [get_task(name) for name in SUITES[suite]], OFFICIAL[suite].decisions + 1
    widths = {"obs": (max(t.observation_dim for t in tasks),), "action": (max(t.action_dim for t in tasks),)}
    episodes = None
    for key in KEYS:
        tensor = tensors[key]
        if type(tensor) is not Tensor or tensor.layout != torch.strided:
            return f"{key} is no plain tensor"
        episodes = len(tensor) if episodes is None and tensor.dim() else episodes
        shape = (episodes, rows, *widths.get(key, ()))
        if tuple(tensor.shape) != shape or not episodes:
            return f"{key} is {list(tensor.shape)}, expected [episodes, {', '.join(map(str, shape[1:]))}] for {suite}"
        whole = key == "task"
        if tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_floating_point() == whole:
            return f"{key} is {tensor.dtype}, expected {'integers' if whole else 'floating-point numbers'}"
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            return f"{key} has more entries than the file has numbers"
    first = tensors["task"][:, 0]
    if not bool((tensors["task"] == first[:, None]).all()):
        return "task changes within an episode"
    if first.min() < 0 or first.max() >= len(tasks):
        return f"task indices {int(first.min())} to {int(first.max())}, {suite} has 0 to {len(tasks) - 1}"
    return None


def import_files(files: Sequence[Path], suite: str, out: Path, tasks: Sequence[str] = ()) -> None:
    """Shard files by task: each task's episodes become the data set `<out>/<task>/episodes`.

    All files are checked and counted first; then each is read once, `BLOCK` episodes at a time. A refusal leaves every
    set as it was.

    Args:
        files: of the suite.
        suite: `mt30` or `mt80`, which fixes the order of tasks and the episodes' length.
        out: folder of data sets.
        tasks: the ones to import; none named: all that the files hold.

    Raises:
        UserError: a file is not what it should be, a task is not in it, or the disk is too small.
    """
    names = SUITES[suite]
    for name in tasks:
        if get_task(name).name not in names:
            raise UserError(f"task '{name}' is not of suite '{suite}'; import it from the files of its own")
    index = {path: open_file(path, suite)["task"][:, 0].numpy().astype(np.int64) for path in files}
    counts = np.bincount(np.concatenate(list(index.values())), minlength=len(names))
    wanted = {name: int(counts[names.index(name)]) for name in tasks or names}
    if lacking := [name for name, count in wanted.items() if tasks and not count]:
        raise UserError(f"{files[0].parent}: no episode of {', '.join(lacking)}; add the file that has them")
    sizes = {
        name: (count, OFFICIAL[suite].decisions, get_task(name).observation_dim, get_task(name).action_dim)
        for name, count in wanted.items()
        if count
    }
    out.mkdir(parents=True, exist_ok=True)
    check_room(out / "episodes", sum(room(*size) for size in sizes.values()))
    writers: dict[str, EpisodeWriter] = {}
    try:
        for name, (count, decisions, observation_dim, action_dim) in sizes.items():
            folder = out / name / "episodes"
            writers[name] = EpisodeWriter(folder, name, observation_dim, action_dim, decisions, count)
        with tqdm(total=sum(wanted.values()), desc=f"{suite} episodes", unit="episode", mininterval=2.0) as bar:
            for path in files:
                for name, episode in _read(path, suite, index[path], set(writers)):
                    writers[name].add(*episode, terminated=False)
                    bar.update()
        for writer in writers.values():
            writer.commit({"source": "TD-MPC2", "suite": suite, "files": [path.name for path in files]}, seed=0)
    finally:
        for writer in writers.values():
            writer.discard()


def _read(
    path: Path, suite: str, index: np.ndarray, wanted: set[str]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Task name and obs, action, reward, as `EpisodeWriter.add` takes them, of every wanted episode of a file."""
    tensors = open_file(path, suite)
    chosen = np.flatnonzero(np.isin(index, [SUITES[suite].index(name) for name in wanted]))
    for begin in range(0, len(chosen), BLOCK):
        rows = torch.from_numpy(chosen[begin : begin + BLOCK])
        obs, action, reward = (tensors[key][rows].to(torch.float32).numpy() for key in KEYS[:3])
        for k, row in enumerate(rows.tolist()):
            task = get_task(SUITES[suite][index[row]])
            episode = (obs[k], action[k, 1:, : task.action_dim], reward[k, 1:])
            if problem := _problem_in(episode, task):
                raise _refused(path, f"episode {row} ({task.name}): {problem}")
            own = obs[k, :, : task.observation_dim], np.clip(episode[1], -1.0, 1.0), reward[k, 1:]
            yield task.name, own


def _problem_in(episode: tuple[np.ndarray, ...], task: Task) -> str | None:
    """What is wrong with the numbers of an episode."""
    for key, values in zip(KEYS, episode, strict=False):
        if not np.isfinite(values).all():
            return f"{key} holds values that are not finite"
    if episode[0][:, task.observation_dim :].any():
        return f"obs has entries beyond the task's {task.observation_dim}"
    if np.abs(episode[1]).max() > 1.0 + ROUNDING:
        return "action leaves [-1, 1]"
    return None


def export_episodes(data: Path, suite: str, out: Path) -> None:
    """Write `<data>/<task>/episodes` of the suite's tasks that are there to `<out>/<task>.pt`.

    Longer episodes are cut into the suite's length, as TD-MPC2 cuts DMControl's for `mt80`; each piece begins with the
    observation that the one before ends with.

    Raises:
        UserError: no data set is there, an episode ended early, `out` exists, or the disk is too small.
    """
    decisions = OFFICIAL[suite].decisions
    folders = [folder for name in SUITES[suite] if (folder := data / name / "episodes").is_dir()]
    if not folders:
        raise UserError(f"{data}: no data set of a task of {suite} there; name a folder like results/demo/data")
    if out.exists():
        raise UserError(f"{out}: exists already; name a new folder")
    sets = [Episodes.open(folder, expected_task=folder.parent.name) for folder in folders]
    for episodes in sets:
        if (episodes.length != episodes.meta.episode_length).any() or episodes.meta.episode_length % decisions:
            raise UserError(
                f"{episodes.folder}: not all its episodes can be cut into {decisions} decisions, which the format needs"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    tasks = [get_task(name) for name in SUITES[suite]]
    widths = max(task.observation_dim for task in tasks), max(task.action_dim for task in tasks)
    pieces = sum(episodes.meta.episodes * (episodes.meta.episode_length // decisions) for episodes in sets)
    check_room(out, pieces * (decisions + 1) * (4 * (sum(widths) + 1) + 8))
    staging = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    for episodes in tqdm(sets, desc=f"{suite} files", unit="file"):
        torch.save(_tensors(episodes, suite, *widths), staging / f"{episodes.meta.task}.pt")
    staging.rename(out)


def _tensors(episodes: Episodes, suite: str, observation_dim: int, action_dim: int) -> TensorDict:
    """A data set in the layout above."""
    meta, decisions = episodes.meta, OFFICIAL[suite].decisions
    per_episode = meta.episode_length // decisions
    shape = (meta.episodes, per_episode, decisions + 1)
    obs = np.zeros((*shape, observation_dim), np.float32)
    action = np.zeros((*shape, action_dim), np.float32)
    reward = np.zeros(shape, np.float32)
    action[:, :, 0], reward[:, :, 0] = np.nan, np.nan
    for k in range(per_episode):
        first, last = k * decisions, (k + 1) * decisions
        obs[:, k, :, : meta.observation_dim] = episodes.obs[:, first : last + 1]
        action[:, k, 1:, : meta.action_dim] = episodes.action[:, first:last]
        reward[:, k, 1:] = episodes.reward[:, first:last]
    rows = (meta.episodes * per_episode, decisions + 1)
    arrays = {"obs": obs, "action": action, "reward": reward}
    tensors = {key: torch.from_numpy(array.reshape(*rows, *array.shape[3:])) for key, array in arrays.items()}
    return TensorDict({**tensors, "task": torch.full(rows, SUITES[suite].index(meta.task))}, batch_size=rows)


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not TD-MPC2's data: {' '.join(reason.split())}; download it again or leave it out")


@exit_on_user_error
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pwm.data.tdmpc2_format", description="TD-MPC2's data, in and out.")
    commands = parser.add_subparsers(dest="command", required=True)
    reader = commands.add_parser("import", help="shard TD-MPC2's files into data sets, one per task")
    reader.add_argument("--files", type=Path, nargs="+", required=True, help="one folder, or .pt files")
    reader.add_argument("--tasks", nargs="+", default=[], help="only these; default: all there are")
    reader.add_argument("--download", action="store_true", help="first fetch what is missing, into the folder")
    writer = commands.add_parser("export", help="write data sets as files that TD-MPC2 reads")
    writer.add_argument("--data", type=Path, required=True, help="folder of data sets, results/<scale>/data")
    for command in (reader, writer):
        command.add_argument("--suite", choices=OFFICIAL, required=True)
        command.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "export":
        export_episodes(args.data, args.suite, args.out)
        return
    files = args.files
    if len(files) == 1 and files[0].suffix != ".pt":
        if args.download:
            download(files[0], args.suite)
        files = find_files(files[0], args.suite)
    elif args.download:
        raise UserError("--download fetches into one folder; name that with --files")
    import_files(files, args.suite, args.out, args.tasks)


if __name__ == "__main__":
    main()
