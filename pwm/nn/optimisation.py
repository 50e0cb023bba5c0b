"""What every trainer here does with its gradients and its learning rate."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT


def adam(parameters: ParamsT, rate: float, device: torch.device, **options: Any) -> torch.optim.Adam:
    """Adam in one kernel. On a GPU its rates and counts of steps lie there, where a CUDA graph reads them."""
    on_gpu = device.type == "cuda"
    optimiser = torch.optim.Adam(parameters, rate, fused=True, capturable=on_gpu, **options)
    if on_gpu:
        for group in optimiser.param_groups:
            group["lr"] = torch.tensor(rate, device=device)
    return optimiser


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times the group's `scale` where it has one."""
    for group in optimiser.param_groups:
        own = rate * group.get("scale", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def permutation(n: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """A random order of n. torch.randperm draws a short one on the host, from where a CUDA graph cannot take it."""
    if device.type == "cpu":
        return torch.randperm(n, generator=generator)
    return torch.rand(n, device=device, generator=generator).argsort()


def apply_gradients(
    optimiser: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor], limit: float
) -> Tensor:
    """Clip the gradients' global norm to `limit`, take one optimiser step, return the norm before clipping."""
    parameters = list(parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.contiguous()  # compiled networks return some with padded rows, which Adam refuses
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if norm.is_cuda or not norm <= limit:  # on a GPU asking would wait for it
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    optimiser.step()
    return norm


def linear_decay(start: float, end: float, progress: float) -> float:
    """The learning rate after a share `progress` of training."""
    return start + (end - start) * progress


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Inside, no gradient of the modules' parameters is prepared for, which saves time and memory."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
