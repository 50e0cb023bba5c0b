"""How wrong a world model is when it sees only the first observation of a window: loss on the data does not tell.

python -m pwm.open_loop --model FOLDER --data EPISODES [EPISODES ...]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pwm.data.batch import Batch
from pwm.data.windows import WindowSampler
from pwm.errors import exit_on_user_error
from pwm.nn.world_model import WorldModel
from pwm.pretrain import load_model, open_data, to_device

WINDOWS, HORIZON, SHOWN = 2000, 16, (1, 4, 8, 16)  # windows a task
RIDGE = 1e-6  # of `linear_fit`, in squares of x
RIDGE = 1e-6


class OpenLoop(NamedTuple):
    """What is wrong after 1 to H steps from E(s_0) under the windows' actions, as shares of a variance, [H] each.

    A latent may leave out what is hard to predict and look better for it, so that shares of its variance compare the
    steps of one model; shares of the observation's and the reward's also compare models.
    """

    latent: Tensor  # ‖z_h − E(s_h)‖²
    observation: Tensor  # (f(z_h) − s_h)², mean over the components; f is the linear map that fits s_h to E(s_h) best
    reward: Tensor  # (R(z_{h−1}, a_{h−1}) − r_{h−1})², in the task's own units
    still: Tensor  # (s_0 − s_h)², as of the observation: if nothing moved


@torch.no_grad()
def open_loop_error(model: WorldModel, batch: Batch) -> OpenLoop:
    """Unroll the model from the first observations of windows, on the model's device."""
    target = torch.stack([model.encode(obs, batch.task) for obs in batch.obs])  # [H + 1, B, Z]
    z = model.unroll(target[0], batch.action, batch.task)
    latent = (z[1:] - target[1:]).square().sum(-1).mean(1) / target[1:].var((0, 1)).sum()
    std, mean = torch.std_mean(batch.obs.double(), (0, 1))
    obs = ((batch.obs - mean) / std)[..., std > 0]
    read = linear_fit(target.flatten(0, 1), obs.flatten(0, 1))
    observation, still = ((guess - obs[1:]).square().mean((1, 2)) for guess in (read(z[1:]), obs[:1]))
    reward = model.decode_reward(model.reward(z[:-1], batch.action, batch.task), batch.task)
    return OpenLoop(latent, observation, (reward - batch.reward).square().mean(1) / batch.reward.var(), still)


def linear_fit(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The map x W + b closest to y in squares; x [N, X] and y [N, Y], or [..., X] and [..., Y] when it is used."""

    def extended(x: Tensor) -> Tensor:
        return torch.cat([x.double(), torch.ones_like(x[..., :1], dtype=torch.float64)], -1)

    own = extended(x)
    ridge = RIDGE * len(own) * torch.eye(own.shape[1], dtype=own.dtype, device=own.device)  # SimNorm's columns depend
    weights = torch.linalg.solve(own.T @ own + ridge, own.T @ y.double())
    return lambda x: extended(x) @ weights


def of_task(batch: Batch, index: int) -> Batch:
    """The windows of one of the batch's tasks."""
    own = batch.task == index
    *parts, task = batch
    return Batch(*(part[:, own] for part in parts), task[own])


@exit_on_user_error
def main() -> None:
    """Print a line for every task and some numbers of steps."""
    parser = argparse.ArgumentParser(prog="python -m pwm.open_loop", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data sets, in the order of its tasks")
    args = parser.parse_args()
    model, model_config = load_model(args.model)
    data = open_data(args.data, model_config.tasks)
    sampler = WindowSampler(data, WINDOWS * len(data), HORIZON, 0, model.observation_dim, model.action_dim)
    batch = to_device(sampler.sample(), model.action_mask.device)
    print("share of the variance that is wrong")
    for index, task in enumerate(model_config.tasks):
        found = open_loop_error(model, of_task(batch, index))
        for step in SHOWN:
            shares = [f"{name} {share[step - 1]:.1%}" for name, share in found._asdict().items()]
            print(f"{task} after {step:2} steps: {', '.join(shares)}")


if __name__ == "__main__":
    main()
