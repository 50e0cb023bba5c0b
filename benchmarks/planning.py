"""TD-MPC2's planning and update against the plain versions: python -m benchmarks.planning

At the 5M size, for one task of 6 actions. The plain version plans for one environment after the other.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch

from baselines.tdmpc2 import Planning
from benchmarks.plain import PlainPlanner
from benchmarks.timing import ROUNDS, table
from benchmarks.updates import ACTION_DIMS, HEADER, OBSERVATION_DIM, compare, conditions, model_updates, versions
from pwm.config import WorldModelConfig
from pwm.nn.world_model import WorldModel
from pwm.planning import Planner
from pwm.runs import default_device

HORIZON = 3


def plans(environments: int, device: torch.device, **sizes: int) -> dict[str, Callable[[], object]]:
    """A decision in so many environments, by the paper's search unless `sizes` say otherwise."""
    model = WorldModel(WorldModelConfig(size="5"), OBSERVATION_DIM, ACTION_DIMS["single"]).to(device).eval()
    task = torch.zeros(environments, dtype=torch.long, device=device)
    with torch.no_grad():
        z = model.encode(torch.randn(environments, OBSERVATION_DIM, device=device), task)
    begins = torch.ones_like(task, dtype=torch.bool)
    rivals: dict[str, Callable[[], object]] = {}
    for version, settings in versions(device).items():
        settings = {"precision": "float32", **Planning(**sizes).model_dump(), **settings}
        planner = Planner(copy.deepcopy(model), 0.99, HORIZON, **settings, seed=0)
        rivals[version] = partial(planner, z, task, begins)
        if "plain" not in rivals:  # it copies the networks
            rivals["plain"] = partial(PlainPlanner(planner).plan, z, task)
    return rivals


def report(device: torch.device, rounds: int = ROUNDS) -> str:
    """The table, in Markdown."""
    rows, peaks = [], []
    for title, make in (
        ("a decision, 1 environment", lambda: plans(1, device)),
        ("a decision, 10 environments", lambda: plans(10, device)),
        ("an update, B 256, H 3", lambda: model_updates("5", "single", 256, device, HORIZON)),
    ):
        more, peak = compare(title, make(), device, rounds)
        rows, peaks = rows + more, [*peaks, peak]
    return f"{conditions(peaks, device, rounds)}\n\n{table(HEADER, rows)}"


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__.splitlines()[0]).parse_args()
    print("\n" + report(default_device()))
