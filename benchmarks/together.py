"""TD-MPC2's runs together against one alone, on a GPU: python -m benchmarks.together --runs 12

A decision and an update of each run at the 5M size, for one task of 6 actions, in bfloat16, compiled.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch

from baselines.tdmpc2 import Planning
from benchmarks.planning import HORIZON
from benchmarks.timing import ROUNDS, table
from benchmarks.updates import ACTION_DIMS, OBSERVATION_DIM, VERSIONS, model_update, seconds
from pwm.config import PretrainConfig, WorldModelConfig
from pwm.data.batch import Batch
from pwm.nn.world_model import WorldModel
from pwm.planning import Planner
from pwm.runs import default_device
from pwm.stacked import Stack, StackPlanner, StackTrainer

SETTINGS = VERSIONS["bfloat16, compiled"]
NETWORK, DISCOUNT = WorldModelConfig(size="5"), 0.99
HEADER = ["", "runs", "together, ms", "one alone, ms", "gain"]


def models_of(runs: int, device: torch.device) -> list[WorldModel]:
    """A model for each run."""
    return [WorldModel(NETWORK, OBSERVATION_DIM, ACTION_DIMS["single"]).to(device).eval() for _ in range(runs)]


def decisions(runs: int, device: torch.device, **sizes: int) -> list[Callable[[], object]]:
    """A decision of one run alone, and of so many together, each in one environment."""
    models = models_of(runs, device)
    search = Planning(**sizes).model_dump() | SETTINGS
    together = StackPlanner(Stack(models, SETTINGS["compile"]), DISCOUNT, HORIZON, **search)
    alone = Planner(models[0], DISCOUNT, HORIZON, **search, seed=0)
    obs, first = torch.randn(runs, 1, OBSERVATION_DIM, device=device), torch.ones(runs, 1, device=device).bool()
    task = torch.zeros(1, dtype=torch.long, device=device)

    @torch.no_grad()
    def decide() -> torch.Tensor:
        return alone(models[0].encode(obs[0], task), task, first[0])

    return [decide, partial(together, obs, first)]


def updates(runs: int, device: torch.device, batch_size: int) -> list[Callable[[], object]]:
    """An update of one run alone, and of so many together."""
    models, config = (
        Stack(models_of(runs, device), SETTINGS["compile"]),
        PretrainConfig(world_model=NETWORK, **SETTINGS),
    )
    together = StackTrainer(models, config, DISCOUNT)
    _, alone = model_update("5", "single", batch_size, device, SETTINGS, HORIZON)
    batch = Batch(*(torch.stack([part] * runs) for part in alone.args[0]))
    return [alone, partial(together.update, batch, 0.0)]


def report(runs: int, device: torch.device, rounds: int = ROUNDS) -> str:
    """The table, in Markdown."""
    rows = []
    for title, rivals in (
        ("a decision", decisions(runs, device)),
        ("an update, B 256, H 3", updates(runs, device, 256)),
    ):
        took = seconds(dict(zip(("alone", "together"), rivals, strict=True)), device, rounds)
        alone, together = (1000 * took[name] for name in ("alone", "together"))
        rows.append([title, f"{runs}", f"{together:.1f}", f"{alone:.1f}", f"{runs * alone / together:.1f}"])
    return table(HEADER, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.together", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12)
    print("\n" + report(parser.parse_args().runs, default_device()))
