"""PWM's policy and value: a tanh-Gaussian actor and an ensemble of critics, both on the world model's latent."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pwm.nn.fused import NORM_OF_MISH, fused
from pwm.nn.layers import EnsembleLayerNorm, EnsembleLinear, Mish, MishNormMLP, Standardise


class Actor(nn.Module):
    """π(a | z): an MLP of Linear + Mish + LayerNorm for the mean, a state-independent log-std, tanh squashing.

    Args:
        latent_dim: size of z.
        action_dim: size of the action, all in [−1, 1].
        units: hidden widths; [400, 200, 100] in the paper.
        log_std: initial log standard deviation; −1 in the paper.
        log_std_min: its floor; −1.427 in the paper.
        standardised: read z standardised by moments that are set later, which the paper does not.
    """

    def __init__(
        self,
        latent_dim: int,
        action_dim: int,
        units: Sequence[int],
        log_std: float = -1.0,
        log_std_min: float = -1.427,
        standardised: bool = False,
    ) -> None:
        super().__init__()
        self.standardise = Standardise(1, latent_dim) if standardised else None
        self.mean = MishNormMLP(latent_dim, units, action_dim)
        self.log_std = nn.Parameter(torch.full((action_dim,), log_std))
        self.log_std_min = log_std_min

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Reparameterised action tanh(μ(z) + σ ε); deterministic without noise.

        Args:
            z: [..., Z].
            noise: [..., A] standard normal ε, or None for the mode.

        Returns:
            [..., A] in (−1, 1).
        """
        mean = self.mean(z if self.standardise is None else self.standardise(z, 0))
        if noise is None:
            return torch.tanh(mean)
        return torch.tanh(mean + self.log_std.exp() * noise)

    @torch.no_grad()
    def clamp_log_std(self) -> None:
        """Lift the log-std to its floor, after every update: clamped where it is read it could never rise again."""
        self.log_std.clamp_(min=self.log_std_min)


class Critic(nn.Module):
    """K value functions of a latent, each an MLP of Linear + Mish + LayerNorm with orthogonal initial weights.

    Args:
        latent_dim: size of z.
        units: hidden widths; [400, 200] in the paper.
        members: ensemble size K; 3 in the paper.
        standardised: as for the actor.
    """

    def __init__(self, latent_dim: int, units: Sequence[int], members: int, standardised: bool = False) -> None:
        super().__init__()
        self.standardise = Standardise(1, latent_dim) if standardised else None
        gain = 2.0**0.5
        layers: list[nn.Module] = []
        widths = [latent_dim, *units]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [EnsembleLinear(members, inputs, outputs, gain), Mish(), EnsembleLayerNorm(members, outputs)]
        self.values = nn.Sequential(*layers, EnsembleLinear(members, widths[-1], 1, gain))
        self.members = members

    def forward(self, z: Tensor) -> Tensor:
        """All members' values of z [B, Z]: [K, B]."""
        xs = [z if self.standardise is None else self.standardise(z, 0)]
        *hidden, last = self.values
        for linear, activation, norm in zip(*[iter(hidden)] * 3, strict=True):
            if fused(linear.weight):
                xs = linear.fused(xs, norm, NORM_OF_MISH)
            else:
                xs = norm([activation(x) for x in linear(xs)])
        return torch.stack(last(xs)).squeeze(-1)

    def minimum(self, z: Tensor) -> Tensor:
        """The value PWM uses, min_k V_k(z): [B, Z] → [B]."""
        return self(z).amin(0)
