"""Discrete regression of rewards and values: two-hot targets over bins in symlog space (TD-MPC2, DreamerV3)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def symlog(x: Tensor) -> Tensor:
    """sign(x) · log(1 + |x|), the inverse of `symexp`."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """sign(x) · (exp(|x|) − 1), the inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(x.abs())


def two_hot(x: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Encode scalars as weights on the two bins next to symlog(x).

    Args:
        x: [...], in the reward's own units.
        low, high: the first and last bin, in symlog space; values outside are clamped.
        bins: number of equally spaced bins.

    Returns:
        [..., bins], non-negative, summing to 1, with expectation symlog(x) over the bins.
    """
    position = (symlog(x).clamp(low, high) - low) * ((bins - 1) / (high - low))
    lower = position.floor().clamp(max=bins - 2)
    upper_weight = (position - lower).unsqueeze(-1)
    index = lower.long().unsqueeze(-1)
    target = torch.zeros(*x.shape, bins, dtype=x.dtype, device=x.device)
    return target.scatter(-1, index, 1.0 - upper_weight).scatter(-1, index + 1, upper_weight)


def expectation(logits: Tensor, low: float, high: float) -> Tensor:
    """Mean of softmax(logits) over the bins, [..., bins] → [...], in symlog space.

    This is what PWM's policy gradient reads as the reward: the final symexp is left out (paper, section 2).
    `symexp` of it is the reward in its own units.
    """
    bins = torch.linspace(low, high, logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return (F.softmax(logits, dim=-1) * bins).sum(-1)  # no matrix product, which may be of low precision


def two_hot_loss(logits: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Cross-entropy between softmax(logits) [..., bins] and the two-hot encoding of x [...]: [...]."""
    target = two_hot(x, low, high, logits.shape[-1])
    return -(target * F.log_softmax(logits, dim=-1)).sum(-1)
