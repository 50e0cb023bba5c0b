"""How wrong a world model is when it sees only the first observation of a window: loss on the data does not tell.

python -m pwm.open_loop --model FOLDER --data EPISODES [EPISODES ...]
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pwm.data.windows import Batch, WindowSampler
from pwm.errors import exit_on_user_error
from pwm.nn.world_model import WorldModel
from pwm.pretrain import load_model, open_data, to_device

WINDOWS, HORIZON, SHOWN = 2000, 16, (1, 4, 8, 16)  # windows a task


@torch.no_grad()
def open_loop_error(model: WorldModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Errors after 1 to H steps from E(s_0) under the window's actions.

    Args:
        model: E, F and R.
        batch: windows, on the model's device.

    Returns:
        Of the latent [H]: E‖z_h − E(s_h)‖² over the latent's variance in the windows; and of the reward [H]:
        E(R(z_{h−1}, a_{h−1}) − r_{h−1})² over its variance, both in the task's own units.
    """
    target = torch.stack([model.encode(obs, batch.task) for obs in batch.obs])  # [H + 1, B, Z]
    z = model.unroll(target[0], batch.action, batch.task)
    latent = (z[1:] - target[1:]).square().sum(-1).mean(1) / target[1:].var((0, 1)).sum()
    reward = model.decode_reward(model.reward(z[:-1], batch.action, batch.task))
    return latent, (reward - batch.reward).square().mean(1) / batch.reward.var()


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
        latent, reward = open_loop_error(model, of_task(batch, index))
        for step in SHOWN:
            print(f"{task} after {step:2} steps: latent {latent[step - 1]:.1%}, reward {reward[step - 1]:.1%}")


if __name__ == "__main__":
    main()
