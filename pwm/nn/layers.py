"""Building blocks of the networks: SimNorm, Mish, normed linear layers and ensembles of MLPs.

Shapes: `...` is any number of leading batch dimensions, D the feature size, K the ensemble size.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pwm.nn.fused import MISH_OF_NORM, NORM_OF_MISH, SIMNORM_OF_NORM, fused, fused_layer, fused_layers


def simnorm(x: Tensor, group: int) -> Tensor:
    """Simplicial normalisation: softmax within consecutive groups of features (paper, section 2).

    Args:
        x: [..., D], D a multiple of `group`.
        group: features per simplex; 8 in the paper.

    Returns:
        [..., D], each group non-negative and summing to 1.
    """
    # Softmax over an axis in the middle is vectorised over the groups; over a last axis of 8 it is far slower on CPUs.
    groups = x.unflatten(-1, (-1, group)).transpose(-1, -2).contiguous()
    return F.softmax(groups, dim=-2).transpose(-1, -2).flatten(-2)


PIECE = 2**16  # numbers that stay in a core's cache while `_MishFunction` passes over them


class _MishFunction(torch.autograd.Function):
    """Mish with one exponential and few passes over memory; the derivative is computed along with the value.

    With w = eˣ and n = w (w + 2): tanh(log(1 + w)) = n / (n + 2), and the derivative of x n / (n + 2) is
    (n + 4 x w (w + 1) / (n + 2)) / (n + 2). The clamp keeps w² finite in float32; beyond it the factor is 1.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        y, slope = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
        whole = torch.compiler.is_compiling() or x.device.type != "cpu"
        size = max(x.numel(), 1) if whole else PIECE * torch.get_num_threads()
        for part, value, n in zip(*(numbers.flatten().split(size) for numbers in (x, y, slope)), strict=True):
            w = part.clamp(max=20.0).exp_()
            torch.add(w, 2.0, out=n).mul_(w)
            r = (n + 2.0).reciprocal_()
            torch.mul(n, r, out=value).mul_(part)
            if ctx.needs_input_grad[0]:
                n.addcmul_(w.neg_().add_(n).mul_(part), r, value=4.0).mul_(r)  # w (w + 1) = n - w
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


def mish(x: Tensor) -> Tensor:
    """Mish activation x · tanh(softplus(x)), elementwise; on a CPU once differentiable, and faster than torch's own."""
    torchs_own = x.is_cuda or torch._C._functorch.is_batchedtensor(x)  # vmap knows nothing of ours
    return F.mish(x) if torchs_own else _MishFunction.apply(x)


def products_in(precision: str, device: torch.device) -> torch.autocast:
    """Inside, matrix products take and give numbers of this precision ("float32" or "bfloat16"), summed in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def computed(precision: str, compile: bool, device: torch.device) -> Iterator[None]:
    """Inside, networks are computed as these settings say: `products_in`, and `fused_layers` on a CPU."""
    with products_in(precision, device), fused_layers(compile and device.type == "cpu"):
        yield


def full_precision(product: Tensor) -> Tensor:
    """What follows a product is computed in float32 (or float64, if the product is)."""
    return product.float() if product.dtype == torch.bfloat16 else product


class Linear(nn.Linear):
    """Linear layer that gives full precision."""

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(super().forward(x))


class SimNorm(nn.Module):
    """`simnorm` as a layer."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return simnorm(x, self.group)


class Mish(nn.Module):
    """`mish` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return mish(x)


class Standardise(nn.Module):
    """(x − mean) / std, component by component, with moments of each task. At first nothing is changed.

    Args:
        tasks: number of tasks.
        features: D; components beyond a task's own, which are padding, stay zero.
    """

    def __init__(self, tasks: int, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tasks, features))
        self.register_buffer("std", torch.ones(tasks, features))

    def fit(self, task: int, mean: Tensor, std: Tensor) -> None:
        """Set the moments [d] of one task's own components."""
        self.mean[task, : len(mean)] = mean
        self.std[task, : len(std)] = std

    def forward(self, x: Tensor, task: Tensor | int) -> Tensor:
        """[..., B, D] of tasks [B], or of one."""
        return (x - self.mean[task]) / self.std[task]


class NormedLinear(nn.Module):
    """Linear, LayerNorm (or none), activation: the layer of TD-MPC2's world model."""

    def __init__(self, inputs: int, outputs: int, activation: nn.Module, layer_norm: bool = True) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs) if layer_norm else nn.Identity()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if fused(self.linear.weight) and isinstance(self.norm, nn.LayerNorm):
            if isinstance(self.activation, Mish):
                return _fused(x, self.linear, self.norm, MISH_OF_NORM)
            if isinstance(self.activation, SimNorm):
                return _fused(x, self.linear, self.norm, SIMNORM_OF_NORM, self.activation.group)
        return self.activation(self.norm(self.linear(x)))


def _fused(x: Tensor, linear: nn.Linear, norm: nn.LayerNorm, order: str, group: int = 0) -> Tensor:
    """`fused_layer` of one network: [..., in] → [..., out]."""
    parts = linear.weight, linear.bias, norm.weight, norm.bias
    (y,) = fused_layer([x.flatten(0, -2)], *parts, order, epsilon=norm.eps, group=group)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], -1)


class MishNormMLP(nn.Sequential):
    """Linear, Mish, LayerNorm, again and again, and at the end Linear: the layers of PWM's actor."""

    def __init__(self, inputs: int, units: Sequence[int], outputs: int) -> None:
        widths, layers = [inputs, *units], []
        for a, b in itertools.pairwise(widths):
            layers += [Linear(a, b), Mish(), nn.LayerNorm(b)]
        super().__init__(*layers, Linear(widths[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self
        for linear, activation, norm in zip(*[iter(hidden)] * 3, strict=True):
            x = _fused(x, linear, norm, NORM_OF_MISH) if fused(linear.weight) else norm(activation(linear(x)))
        return last(x)


# The layers of an ensemble hold the weights of all K members, stacked, and take and give one tensor [B, D] per member:
# on a CPU that is faster than one batched product, and a member's numbers stay in the cache.


class EnsembleLinear(nn.Module):
    """K independent linear layers. Zero bias at first.

    Args:
        members: K.
        inputs, outputs: widths.
        gain: of orthogonal initial weights; None: a truncated normal of std 0.02, as in the world model.
    """

    def __init__(self, members: int, inputs: int, outputs: int, gain: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        if gain is None:
            nn.init.trunc_normal_(self.weight, std=0.02)
        else:
            for k in range(members):
                nn.init.orthogonal_(self.weight.data[k], gain)

    def forward(self, xs: Sequence[Tensor], members: Tensor | None = None) -> list[Tensor]:
        """Of all K members, or of those whose indices [k] are given: [B, in] each, or one for all → [B, out] each."""
        biases, weights = _pick(self.bias, members), _pick(self.weight, members)
        parts = zip(biases, xs if len(xs) > 1 else [xs[0]] * len(weights), weights, strict=True)
        return [_affine(*part) for part in parts]

    def fused(
        self,
        xs: Sequence[Tensor],
        norm: "EnsembleLayerNorm",
        order: str,
        members: Tensor | None = None,
        dropout: float = 0.0,
    ) -> list[Tensor]:
        """`fused_layer` with the norm that stands behind it."""
        which = range(len(self.weight)) if members is None else members.tolist()
        return fused_layer(xs, self.weight, self.bias, norm.weight, norm.bias, order, which, dropout)


class EnsembleLayerNorm(nn.Module):
    """LayerNorm with its own scale and shift per member."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, features))
        self.bias = nn.Parameter(torch.zeros(members, 1, features))

    def forward(self, xs: Sequence[Tensor], members: Tensor | None = None) -> list[Tensor]:
        """As for `EnsembleLinear`, [B, D] each."""
        parts = zip(xs, _pick(self.weight, members), _pick(self.bias, members), strict=True)
        return [F.layer_norm(x, x.shape[-1:], weight[0], bias[0]) for x, weight, bias in parts]


def _affine(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """x W + b in full precision; with one output as a product with a vector, whose gradients are faster."""
    if weight.shape[1] == 1:
        return full_precision(x @ weight.squeeze(1)).unsqueeze(1) + bias
    return full_precision(torch.addmm(bias, x, weight))


def _pick(parameter: Tensor, members: Tensor | None) -> Sequence[Tensor]:
    return (parameter if members is None else parameter[members]).unbind(0)


class EnsembleNormedLinear(nn.Module):
    """`NormedLinear` with Mish of K members, with dropout behind the linear layer."""

    def __init__(self, members: int, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.linear = EnsembleLinear(members, inputs, outputs, gain=None)
        self.norm = EnsembleLayerNorm(members, outputs)
        self.dropout = dropout

    def forward(self, xs: Sequence[Tensor], members: Tensor | None = None) -> list[Tensor]:
        if fused(self.linear.weight):
            dropout = self.dropout if self.training else 0.0
            return self.linear.fused(xs, self.norm, MISH_OF_NORM, members, dropout)
        xs = self.linear(xs, members)
        if self.dropout:
            xs = [F.dropout(x, self.dropout, self.training) for x in xs]
        return [mish(x) for x in self.norm(xs, members)]


class EnsembleMLP(nn.Module):
    """K MLPs of the world model's layers, with dropout in the first, ending in a linear layer of zero weight.

    Args:
        members: K.
        inputs, units, outputs: widths.
        dropout: probability, in training only.
    """

    def __init__(self, members: int, inputs: int, units: Sequence[int], outputs: int, dropout: float) -> None:
        super().__init__()
        self.members = members
        self.layers = nn.ModuleList()
        for i, (a, b) in enumerate(itertools.pairwise([inputs, *units])):
            self.layers.append(EnsembleNormedLinear(members, a, b, dropout if i == 0 else 0.0))
        self.layers.append(EnsembleLinear(members, units[-1], outputs, gain=None))
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """[..., in] → [K, ..., out], or [k, ..., out] of the members whose indices [k] are given."""
        ys = [x.flatten(0, -2)]
        for layer in self.layers:
            ys = layer(ys, members)
        return torch.stack(ys).unflatten(1, x.shape[:-1])
