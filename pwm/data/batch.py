"""What the world model learns from, apart from where it is drawn: tensors alone."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B windows of H steps, time first, float32; `obs[h + 1]` follows `action[h]`, which earned `reward[h]`."""

    obs: Tensor  # [H + 1, B, O]
    action: Tensor  # [H, B, A]
    reward: Tensor  # [H, B]
    terminated: Tensor  # [H, B], 1 where the task ended the episode: only ever in a window's last step
    task: Tensor  # [B] int64, index of the data set
