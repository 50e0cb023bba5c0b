"""What every trainer here does with its gradients and its learning rate."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def apply_gradients(
    optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor], limit: float
) -> Tensor:
    """Clip the gradients' global norm to `limit`, take one optimiser step, return the norm before clipping."""
    parameters = list(parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(parameters, limit)
    optimiser.step()
    return norm


def linear_decay(start: float, end: float, progress: float) -> float:
    """The learning rate after a share `progress` of training."""
    return start + (end - start) * progress
