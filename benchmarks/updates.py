"""PWM's policy and world-model updates against the plain versions: python -m benchmarks.updates

It needs no package but torch. FLOPs are those of matrix products, counted while an update of ours runs; their rate is
set against that of one large product of the same precision, measured in turns with the updates. On a GPU also the
updates of the large world models, which the paper has for many tasks, and time and memory by size.
"""

import argparse
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.plain import PlainModel, PlainPolicy
from benchmarks.timing import ROUNDS, rates, table
from pwm.agent import PolicyTrainer
from pwm.config import MODEL_SIZES, ExtractConfig, PretrainConfig, WorldModelConfig
from pwm.data.batch import Batch
from pwm.model_learning import ModelTrainer
from pwm.nn.actor_critic import Actor, Critic
from pwm.nn.cuda_graph import CudaGraph
from pwm.nn.fused import available
from pwm.nn.world_model import WorldModel

SECONDS = 1.0  # of one measurement: after another's turn the first updates find the caches cold
PRODUCT = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices that the machine's rate is measured with
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
VERSIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "float32, compiled": {"compile": True},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
}
OBSERVATION_DIM, ACTION_DIMS = 24, {"single": [6], "multi": [6] * 30}
EXTRACTION = 10_000  # policy updates a task (paper, section 2)


def versions(device: torch.device) -> dict[str, dict[str, Any]]:
    """Settings of the versions of ours that this machine can run; on a GPU only one is compiled, for half a minute."""
    if device.type == "cuda":
        return {name: settings for name, settings in VERSIONS.items() if name != "float32, compiled"}
    return {name: settings for name, settings in VERSIONS.items() if "compile" not in settings or available()}


def seconds(rivals: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median time of a call of each, waiting for work on a GPU that is only handed in."""

    def waited_for(work: Callable[[], object]) -> Callable[[], int]:
        def call() -> int:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return 1

        return call

    for work in rivals.values() if device.type == "cuda" else ():
        for _ in range(CudaGraph.WARM_UP):
            work()
    found = rates({name: waited_for(work) for name, work in rivals.items()}, SECONDS, rounds)
    return {name: 1.0 / rate for name, rate in found.items()}


def large_products(device: torch.device) -> dict[str, Callable[[], object]]:
    """The matrix product that the machine's rate is measured with, by precision."""
    size = PRODUCT[device.type]

    def product(dtype: torch.dtype) -> Callable[[], object]:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return lambda: a @ b

    return {f"product, {name}": product(dtype) for name, dtype in PRECISIONS.items()}


class ProductCounter(TorchDispatchMode):
    """Counts the FLOPs of matrix products, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def flops(work: Callable[[], object]) -> int:
    """Of the matrix products in a call."""
    with ProductCounter() as counter:
        work()
    return counter.flops


def policy_update(
    size: str, tasks: str, batch_size: int, device: torch.device, settings: dict[str, Any]
) -> tuple[PolicyTrainer, partial]:
    """A trainer and its paper's update (H 16, 3 critics, 8 × 4 minibatches) through a world model of some size."""
    dims = ACTION_DIMS[tasks]
    model = WorldModel(WorldModelConfig(size=size), OBSERVATION_DIM, dims).to(device).eval()
    task = torch.randint(len(dims), (batch_size,), device=device)
    with torch.no_grad():
        z = model.encode(torch.randn(batch_size, OBSERVATION_DIM, device=device), task)
    config = ExtractConfig(batch_size=batch_size, **settings)
    actor = Actor(model.config.latent_dim, model.action_dim, config.actor_units).to(device)
    critic = Critic(model.config.latent_dim, config.critic_units, config.critics).to(device)
    trainer = PolicyTrainer(model, actor, critic, config)
    return trainer, partial(trainer.update, z, task)


def policy_updates(size: str, tasks: str, batch_size: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """All versions of it. On a CPU the first is the paper's single-task one: z 512, units [512, 512]."""
    rivals: dict[str, Callable[[], object]] = {}
    for version, settings in versions(device).items():
        trainer, rivals[version] = policy_update(size, tasks, batch_size, device, settings)
        if "plain" not in rivals:  # it copies the networks
            rivals["plain"] = partial(PlainPolicy(trainer).update, *rivals[version].args)
    return rivals


def model_update(
    size: str, tasks: str, batch_size: int, device: torch.device, settings: dict[str, Any], horizon: int = 16
) -> tuple[ModelTrainer, partial]:
    """A trainer and its update on windows of H steps: PWM's own objective, or TD-MPC2's full one where the size has
    Q-functions."""
    dims = ACTION_DIMS[tasks]
    batch = Batch(
        torch.randn(horizon + 1, batch_size, OBSERVATION_DIM, device=device),
        torch.rand(horizon, batch_size, max(dims), device=device) * 2 - 1,
        torch.randn(horizon, batch_size, device=device),
        torch.zeros(horizon, batch_size, device=device),
        torch.randint(len(dims), (batch_size,), device=device),
    )
    model = WorldModel(WorldModelConfig(size=size), OBSERVATION_DIM, dims).to(device)
    config = PretrainConfig(world_model=model.config, **settings)
    trainer = ModelTrainer(model, config, torch.full((len(dims),), 0.99, device=device))
    return trainer, partial(trainer.update, batch, 0.0)


def model_updates(
    size: str, tasks: str, batch_size: int, device: torch.device, horizon: int = 16
) -> dict[str, Callable[[], object]]:
    """All versions of it."""
    rivals: dict[str, Callable[[], object]] = {}
    for version, settings in versions(device).items():
        trainer, rivals[version] = model_update(size, tasks, batch_size, device, settings, horizon)
        if "plain" not in rivals:  # it copies the networks
            plain = PlainModel(trainer.model, trainer.config, trainer.discount)
            rivals["plain"] = partial(plain.update, rivals[version].args[0])
    return rivals


HEADER = ["update", "version", "ms", "ratio to plain", "GFLOP/s", "of the product's rate"]


def compare(
    title: str, rivals: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> tuple[list[list[str]], dict[str, float]]:
    """A row of the table for every version of some work, `plain` and `float32` among them.

    Returns:
        The rows, and the FLOP/s of one large product, by precision.
    """
    work, rows = flops(rivals["float32"]), []
    took = seconds({**rivals, **large_products(device)}, device, rounds)
    peak = {name: 2 * PRODUCT[device.type] ** 3 / took[f"product, {name}"] for name in PRECISIONS}
    for name in rivals:
        precision = VERSIONS.get(name, {}).get("precision", "float32")
        share = f"{work / took[name] / peak[precision]:.0%}"
        ratio = f"{took['plain'] / took[name]:.2f}"
        rows.append([title, name, f"{1000 * took[name]:,.1f}", ratio, f"{work / took[name] / 1e9:,.0f}", share])
        print(" · ".join(rows[-1]), flush=True)
    return rows, peak


def conditions(peaks: list[dict[str, float]], device: torch.device, rounds: int) -> str:
    """What a table's numbers depend on, in one line."""
    spans = []
    for name in PRECISIONS:
        rates = [f"{peak[name] / 1e9:,.0f}" for peak in sorted(peaks, key=lambda peak: peak[name])]
        spans.append(f"{name} {rates[0]} to {rates[-1]} GFLOP/s")
    threads = torch.get_num_threads()
    return f"Medians of {rounds}; {device}, threads: {threads}; one large product, in turns: {', '.join(spans)}."


def report(device: torch.device, rounds: int = ROUNDS) -> str:
    """The tables, in Markdown."""
    works = {
        "policy, single-task, B 256": lambda: policy_updates("single", "single", 256, device),
        "world model, single-task, B 256": lambda: model_updates("single", "single", 256, device),
        "world model, 5M multi-task, B 1024": lambda: model_updates("5", "multi", 1024, device),
    }
    if device.type == "cuda":
        works |= {
            "policy, 5M multi-task, B 512": lambda: policy_updates("5", "multi", 512, device),
            "policy, 48M multi-task, B 512": lambda: policy_updates("48", "multi", 512, device),
            "world model, 48M multi-task, B 1024": lambda: model_updates("48", "multi", 1024, device),
        }
    rows, peaks = [], []
    for title, make in works.items():
        more, peak = compare(title, make(), device, rounds)
        rows, peaks = rows + more, [*peaks, peak]
        free(device)
    tables = [conditions(peaks, device, rounds), table(HEADER, rows)]
    return "\n\n".join(tables + ([by_size(device, rounds)] if device.type == "cuda" else []))


def free(device: torch.device) -> None:
    """Give the memory of what is not used any more back, recorded graphs' too."""
    gc.collect()
    if device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def by_size(device: torch.device, rounds: int) -> str:
    """Time and memory of the fastest version on a GPU, for all multi-task sizes, in Markdown."""
    settings, rows = VERSIONS["bfloat16, compiled"], []
    for size in MODEL_SIZES:
        if size == "single":
            continue
        row = [f"{size}M"]
        for make, batch_size in ((policy_update, 512), (model_update, 1024)):
            free(device)
            update = make(size, "multi", batch_size, device, settings)[1]
            took = seconds({"ours": update}, device, rounds)["ours"]
            row += [f"{1000 * took:.1f}", f"{1 / took:,.0f}"]
            row += [f"{EXTRACTION * took / 60:.1f}"] if make is policy_update else []
            row.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f}")
            del update
        rows.append(row)
        print(" · ".join(row), flush=True)
    policy = ["policy update, ms", "a second", f"{EXTRACTION:,}, minutes", "GiB"]
    header = ["world model", *policy, "world-model update, ms", "a second", "GiB"]
    return f"bfloat16, compiled; B 512 and 1024, H 16.\n\n{table(header, rows)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.updates", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measurements of each")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("\n" + report(torch.device(args.device), args.rounds))


if __name__ == "__main__":
    main()
