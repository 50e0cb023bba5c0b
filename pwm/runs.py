"""A stage's run: its folder, metrics, progress, resumable state and seeding.

While a stage works, everything it writes lies in `state/<run>/<config hash>/`, which no rule declares and nothing
deletes. When it is done, its outputs are renamed into the run's folder and the state is removed.
"""

import csv
import hashlib
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from pwm.config import Config, dump
from pwm.errors import UserError
from pwm.integrity import file_checksum, seal, unseal
from pwm.locks import hold
from pwm.nn import processes
from pwm.provenance import provenance
from pwm.yaml_files import read_yaml

CHECKPOINT_FORMAT = 1
CHECK_EVERY = 50  # updates whose metrics are read back from the device together
EXPLODED = 1e12  # no metric of a healthy run comes near it


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int) -> None:
    """Seed torch's and numpy's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that a half-written one is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def save_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Write `model.safetensors` and `config.json` (with a format version and a checksum of each) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, weights)
    saved = {"format": CHECKPOINT_FORMAT, **config, "weights_sha256": file_checksum(weights)}
    write_atomically(folder / "config.json", seal(saved))


def saved_config(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint.

    Raises:
        UserError: it is missing, damaged or of another format.
    """
    path = folder / "config.json"
    mend = f"delete {folder} and run the rule that makes it again"
    try:
        saved = unseal(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: checkpoint is missing; {mend}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: checkpoint is damaged ({error}); {mend}") from None
    if saved.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: checkpoint format is {saved.get('format')}, expected {CHECKPOINT_FORMAT}; {mend}")
    return saved


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: tensors by name, and the config.

    Raises:
        UserError: a file is missing, damaged or of another format.
    """
    saved, path = saved_config(folder), folder / "model.safetensors"
    mend = f"delete {folder} and run the rule that makes it again"
    checksum = saved.pop("weights_sha256", None)  # none in checkpoints made before
    try:
        if checksum not in (None, file_checksum(path)):
            raise ValueError("checksum differs")
        return load_file(path), saved
    except FileNotFoundError:
        raise UserError(f"{path}: checkpoint is missing; {mend}") from None
    except Exception as error:  # safetensors raises its own kinds for every sort of damage
        raise UserError(f"{path}: checkpoint is damaged ({error}); {mend}") from None


def check_same_config(mine: Config, other: dict[str, Any], where: Path) -> None:
    """Refuse to mix the files of two configs.

    Args:
        mine: the config in use.
        other: what `where` holds, as plain data.
        where: the file to name.

    Raises:
        UserError: they differ; names the first key that does.
    """
    plain = mine.model_dump(mode="json")
    for key in [*plain, *other]:
        if plain.get(key) != other.get(key):
            raise UserError(
                f"{where}: is of another config ('{key}' differs); use another folder or run its rule again"
            )


class Run:
    """One stage at work on one config.

    Args:
        out: the run's folder.
        config: its resolved config; its hash names the state folder.
        tensorboard: also write TensorBoard event files beside the metrics.
        save_every: seconds between saves of the state.
        model: folder of the world model that a baseline's run starts from, if any.
    """

    def __init__(
        self, out: Path, config: Config, tensorboard: bool = False, save_every: float = 60.0, model: Path | None = None
    ) -> None:
        if out.is_file():
            raise UserError(f"{out} is a file; name the run's folder")
        if (out / "config.yaml").exists():
            check_same_config(config, read_yaml(out / "config.yaml"), out / "config.yaml")
        self.out, self.config, self.save_every, self.model = out, config, save_every, model
        digest = hashlib.sha256(dump(config).encode()).hexdigest()[:16]
        self.state_folder = _state_root(out) / digest
        # A run whose Snakemake was killed may still be at work on the same state. Of several processes of one run the
        # first alone writes, and the others follow when it has the lock.
        self.writes = processes.rank() == 0
        self._lock = hold(self.state_folder / "lock", str(out)) if self.writes else None
        processes.wait_for_all()
        self.device = default_device()
        self.rows: list[dict[str, Any]] = []
        self._watched: list[tuple[int, Mapping[str, Any]]] = []
        self._elapsed_before = self._paused = 0.0
        self._started = self._saved = time.time()
        self._writer = None
        if tensorboard and self.writes:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(out / "tensorboard"))
        seed_everything(config.seed)

    @property
    def wall_time(self) -> float:
        """Seconds of training so far, over all interruptions; pauses (evaluations) are not counted."""
        return self._elapsed_before + time.time() - self._started - self._paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Work inside is not training time."""
        began = time.time()
        yield
        self._paused += time.time() - began

    def bar(self, total: int, start: int, unit: str) -> tqdm:
        """A progress bar with rate and remaining time."""
        name = getattr(self.config, "task", None) or ",".join(self.config.tasks)
        shown = {"desc": f"{name} seed {self.config.seed}", "unit": unit, "disable": not self.writes}
        return tqdm(total=total, initial=start, mininterval=2.0, dynamic_ncols=True, **shown)

    def progress(self, total: int, start: int = 0) -> Iterator[int]:
        """Count the updates from `start` to `total` behind a progress bar."""
        with self.bar(total, start, "update") as bar:
            for step in range(start, total):
                yield step
                bar.update()

    def watch(self, update: int, metrics: Mapping[str, torch.Tensor | float]) -> None:
        """Keep an update's metrics for `check`, which is due after a number of them."""
        self._watched.append((update, metrics))
        if len(self._watched) == CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """Look through the metrics watched since the last check; done before a state is saved, which is so a good one.

        Raises:
            FloatingPointError: one is not finite or exploded; names update and metric.
        """
        for update, metrics in self._watched:
            for name, value in metrics.items():
                if not abs(float(value)) < EXPLODED:
                    where = f"update {update}: {name} is {float(value):.3g}"
                    raise FloatingPointError(
                        f"{where}: training diverged; the last good state is in {self.state_folder}"
                    )
        self._watched.clear()

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.csv; wall_time_s is filled in. A first row may lack the later ones' columns.

        Raises:
            FloatingPointError: as `check`.
        """
        row = {key: float(v) if isinstance(v, torch.Tensor | np.floating) else v for key, v in row.items()}
        self._watched.append((row["updates"], row))
        self.check()
        row["wall_time_s"] = round(self.wall_time, 2)
        self.rows.append(row)
        if self.writes:
            self._write_metrics(self.state_folder / "metrics.csv")
        if self._writer:
            for key, value in row.items():
                self._writer.add_scalar(key, value, row["updates"])
            self._writer.flush()

    def _write_metrics(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[-1]))
            writer.writeheader()
            writer.writerows(self.rows)

    def save_state(self, make_state: Callable[[], dict[str, Any]]) -> None:
        """Save everything needed to go on, if the last save is old enough: written whole or not at all.

        Args:
            make_state: gives tensors, numbers, text and containers of them; the RNGs and the metrics are added.
        """
        if not self.writes or time.time() - self._saved < self.save_every:
            return
        self.check()
        kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
        whole = {
            "state": make_state(),
            "rows": self.rows,
            "elapsed": self.wall_time,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy_rng": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        }
        temporary = self.state_folder / "state.pt.tmp"
        try:
            with temporary.open("wb") as file:  # torch's own way to write to a path does not say that a disk is full
                torch.save(whole, file)
        except BaseException:
            temporary.unlink()  # what there is of it would keep the disk full
            raise
        state = self.state_folder / "state.pt"
        if state.exists():
            state.replace(self.state_folder / "previous.pt")
        temporary.replace(state)
        self._saved = time.time()

    def load_state(self) -> dict[str, Any] | None:
        """The state a killed run left, or if that is damaged the one before, with metrics and RNGs restored; None where
        there is none.

        Raises:
            UserError: all there is is damaged.
        """
        paths = [self.state_folder / name for name in ("state.pt", "previous.pt")]
        paths = [path for path in paths if path.exists()]
        if not paths:
            return None
        for path in paths:
            try:
                whole = self._read_state(path)
                break
            except Exception as error:  # torch raises many kinds for a damaged file
                print(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})", file=sys.stderr)
        else:
            raise UserError(f"{self.state_folder}: no state there can be read; delete it to start this run anew")
        self.go_on(whole["rows"], whole["elapsed"])
        torch.set_rng_state(whole["torch_rng"].cpu())
        if whole["cuda_rng"]:
            torch.cuda.set_rng_state_all([rng.cpu() for rng in whole["cuda_rng"]])
        kind, keys, *rest = whole["numpy_rng"]
        np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
        print(f"resuming from {path}", file=sys.stderr)
        return whole["state"]

    def go_on(self, rows: list[dict[str, Any]], elapsed: float) -> None:
        """Take up the metrics and the seconds of training that a killed run had."""
        self.rows, self._elapsed_before = rows, elapsed

    def _read_state(self, path: Path) -> dict[str, Any]:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch itself does not compare checksums
                raise ValueError(f"checksum of {damaged}")
        return torch.load(path, map_location=self.device, weights_only=True)

    def finish(
        self, checkpoint: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None, **facts: Any
    ) -> None:
        """Move the outputs into place, each by one rename and the manifest last, and drop the state.

        Args:
            checkpoint: folder inside `out` for the weights; `out` itself where it is ".".
            tensors: as in `save_checkpoint`.
            config: what the checkpoint's config.json holds beside the run's own config.
            facts: further entries of the manifest.
        """
        self.check()
        if not self.writes:
            return
        staged = self.state_folder / "final"
        shutil.rmtree(staged, ignore_errors=True)
        save_checkpoint(staged / checkpoint, tensors, {"config": self.config.model_dump(mode="json"), **(config or {})})
        (staged / "config.yaml").write_text(dump(self.config), encoding="utf-8")
        if self.rows:
            self._write_metrics(staged / "metrics.csv")
            facts["metrics_sha256"] = file_checksum(staged / "metrics.csv")
        last = {key: self.rows[-1][key] for key in ("env_steps", "updates") if self.rows and key in self.rows[-1]}
        times = {"device": str(self.device), "train_wall_s": round(self.wall_time, 2)}
        manifest = provenance(self.config, self._started, **times, **last, **facts)
        (staged / "manifest.json").write_text(seal(manifest), encoding="utf-8")
        for item in sorted(_files(staged), key=lambda path: path.name == "manifest.json"):
            target = self.out / item.relative_to(staged)
            if item.name == "config.yaml" and target.exists():  # the same, and an input that must not look newer
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            arriving = target.with_name(target.name + ".tmp")  # a move to another disk is a copy
            shutil.move(item, arriving)
            arriving.replace(target)
        if self._writer:
            self._writer.close()
        self.discard_state()

    def discard_state(self) -> None:
        """Drop the state: the run's outputs are in place."""
        shutil.rmtree(self.state_folder)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _state_root(out: Path) -> Path:
    """state/<run> for results/<run>; state/<out> for any other folder, so that states never collide."""
    parts = out.parts
    if "results" in parts:
        at = len(parts) - 1 - parts[::-1].index("results")
        return Path(*parts[:at], "state", *parts[at + 1 :])
    return Path("state") / out.resolve().relative_to("/")
