"""What every trainer here does with its gradients and its learning rate."""

import os
import shutil
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from pwm.errors import UserError

Loss = TypeVar("Loss", bound=Callable)


def compiled(loss: Loss, wanted: bool, device: torch.device) -> Loss:
    """The loss by torch.compile if that is wanted, else as it is.

    Raises:
        UserError: code for a CPU is wanted and there is no C++ compiler.
    """
    if not wanted:
        return loss
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise UserError("compile: true needs a C++ compiler on a CPU; install g++ or set compile: false")
    return torch.compile(loss)


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
