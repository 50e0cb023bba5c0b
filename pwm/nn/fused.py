"""Bias, dropout, LayerNorm and Mish or SimNorm in one pass over memory on a CPU: fused.cpp, compiled when first wanted.

A chain of torch's operations goes over the numbers of a layer a dozen times, which beside fast matrix products is most
of an update. Here they are read and written once, and the gradient computes again what it needs.
"""

import ctypes
import functools
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pwm.compiled import compiled
from pwm.errors import UserError

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]
WIDE = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h

ORDERS = MISH_OF_NORM, NORM_OF_MISH, SIMNORM_OF_NORM = "Mish(LayerNorm)", "LayerNorm(Mish)", "SimNorm(LayerNorm)"

_wanted = False
_cast: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}


@contextmanager
def fused_layers(wanted: bool) -> Iterator[None]:
    """Inside, layers of float32 weights on a CPU are computed by `fused_layer` if that is `wanted` and `available`.

    What it casts of weights is kept until the outermost of these ends.
    """
    global _wanted
    before, _wanted = _wanted, wanted and available()
    try:
        yield
    finally:
        _wanted = before
        if not before:
            _cast.clear()


def fused(weight: Tensor) -> bool:
    """Whether the layer of this weight is to be computed by `fused_layer`."""
    return _wanted and weight.device.type == "cpu" and weight.dtype == torch.float32


class _Layer(ctypes.Structure):
    """`Layer` of fused.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("members", "rows", "features")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
        *((name, ctypes.c_int) for name in ("group", "threads")),
    )


class _Member(ctypes.Structure):
    """`Member` of fused.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("product", "output", "kept", "mean", "inverse_std", "bias", "weight", "shift"),
            *("gradient", "of_product", "of_bias", "of_weight", "of_shift"),
        )
    )


@functools.cache
def available() -> bool:
    """Whether fused.cpp can be compiled here. Where not, a line says so once, and results differ by rounding alone."""
    try:
        _library()
    except UserError as reason:
        print(f"warning: layers are not fused, which is slower: {reason}", file=sys.stderr)
        return False
    return True


@functools.cache
def _library() -> ctypes.CDLL:
    """fused.cpp, compiled by each process for the processor it runs on, which takes two seconds.

    Raises:
        UserError: there is no C++ compiler that can.
    """
    library = compiled(SOURCE, [*FLAGS, *WIDE])
    _keep_freed_memory()
    for function in (library.forward, library.backward):
        function.argtypes = [ctypes.POINTER(_Layer), ctypes.POINTER(_Member), ctypes.c_int, ctypes.c_bool]
    return library


def _keep_freed_memory() -> None:
    """Let glibc hand the memory of one update to the next, which costs nothing, instead of back to the system, which
    clears every page anew."""
    if platform.libc_ver()[0] == "glibc":
        for option, size in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**30)):
            ctypes.CDLL(None).mallopt(option, size)


def kept(shape: tuple[int, int], dropout: float) -> Tensor:
    """What dropout leaves: bytes that are 1, and 0 with the probability `dropout`, independently.

    The gaps between dropped numbers are drawn, which are geometric, instead of every number: few where few are dropped.
    """
    count = shape[0] * shape[1]
    mean, deviation = count * dropout, (count * dropout * (1.0 - dropout)) ** 0.5
    draws = int(mean + 8.0 * deviation) + 8  # that they end before the last number has a chance of 1e-15
    dropped = torch.empty(draws, dtype=torch.int64).geometric_(dropout).cumsum(0) - 1
    mask = torch.ones(count, dtype=torch.uint8)
    mask[dropped[dropped < count]] = 0
    return mask.view(shape)


class _FusedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        order, which, dropout, epsilon, group, *xs = rest
        low = torch.is_autocast_enabled("cpu")  # products in bfloat16
        ctx.order, ctx.which, ctx.kinds = (ORDERS.index(order), low), which, [x.dtype for x in xs]
        xs = [x.to(torch.bfloat16) if low else x for x in xs]
        weights = [_in_low_precision(weight, k) if low else _matrix(weight, k) for k in which]
        products = [xs[i % len(xs)] @ matrix for i, matrix in enumerate(weights)]
        (rows, features), kind = products[0].shape, torch.float32 if order == SIMNORM_OF_NORM else products[0].dtype
        outputs = [torch.empty(rows, features, dtype=kind) for _ in which]
        moments = torch.empty(2, len(which), rows)
        mask = kept((len(which) * rows, features), dropout) if dropout else None
        ctx.layer = _Layer(len(which), rows, features, 1.0 / (1.0 - dropout), epsilon, group, torch.get_num_threads())
        ctx.members = (_Member * len(which))()
        for i, (k, member) in enumerate(zip(which, ctx.members, strict=True)):
            member.product, member.output = products[i].data_ptr(), outputs[i].data_ptr()
            member.mean, member.inverse_std = _row(moments, i), _row(moments, len(which) + i)
            member.bias, member.weight, member.shift = _row(bias, k), _row(scale, k), _row(shift, k)
            member.kept = None if mask is None else mask.data_ptr() + i * rows * features
        _library().forward(ctx.layer, ctx.members, *ctx.order)
        ctx.parameters, ctx.buffers = (weight, bias, scale, shift), (moments, mask)
        ctx.save_for_backward(*weights, *products, *xs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        count, saved = len(ctx.which), ctx.saved_tensors
        weights, products, xs = saved[:count], saved[count : 2 * count], saved[2 * count :]
        weight, bias, *_ = ctx.parameters
        gradients = [gradient.contiguous() for gradient in gradients]
        of_products = products  # written over them, in memory that is still in the cache
        torch.autograd.graph.increment_version(products)  # a second backward is then refused
        of_weight, of_rest = None, [None] * 3
        if any(ctx.needs_input_grad[:4]):
            whole = weight.dim() == 2 or count == len(weight)
            of_weight = (torch.empty_like if whole else torch.zeros_like)(weight, dtype=xs[0].dtype)
            of_rest = torch.zeros(3, *bias.shape).unbind()
        for i, (k, member) in enumerate(zip(ctx.which, ctx.members, strict=True)):
            member.gradient, member.of_product = gradients[i].data_ptr(), of_products[i].data_ptr()
            if of_weight is not None:
                member.of_bias, member.of_weight, member.of_shift = (_row(part, k) for part in of_rest)
        _library().backward(ctx.layer, ctx.members, *ctx.order)
        of_xs: list[Tensor | None] = [None] * len(xs)
        for i, k in enumerate(ctx.which):
            if of_weight is not None:
                torch.mm(xs[i % len(xs)].t(), of_products[i], out=_matrix(of_weight, k))
            if ctx.needs_input_grad[9 + i % len(xs)]:
                of_x = of_products[i] @ weights[i].t()
                of_xs[i % len(xs)] = of_x.to(ctx.kinds[i % len(xs)]) if i < len(xs) else of_xs[0].add_(of_x)
        return None if of_weight is None else of_weight.float(), *of_rest, *[None] * 5, *of_xs


def _matrix(weight: Tensor, k: int) -> Tensor:
    """W_k [in, out]."""
    return weight.t() if weight.dim() == 2 else weight[k]


def _row(numbers: Tensor, k: int) -> int:
    """Where the k-th row of float32 numbers begins, [K, ..., D]; or the only one, [D]."""
    return numbers.data_ptr() + 4 * k * numbers.shape[-1]


def _in_low_precision(weight: Tensor, k: int) -> Tensor:
    """W_k, cast once for as long as the weights stay as they are."""
    key = weight.data_ptr(), weight._version, k
    if key not in _cast:
        _cast[key] = _matrix(weight, k).to(torch.bfloat16), weight  # which is held, so that its address stays its own
    return _cast[key][0]


def fused_layer(
    xs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    order: str,
    members: Sequence[int] = (0,),
    dropout: float = 0.0,
    epsilon: float = 1e-5,
    group: int = 0,
) -> list[Tensor]:
    """Mish(LayerNorm(y)), LayerNorm(Mish(y)) or SimNorm(LayerNorm(y)), y = dropout(x W + b), of an ensemble's members.

    Args:
        xs: of each member [N, in], or one for all.
        weight: of all K members, [K, in, out], or of one network as torch.nn.Linear has it, [out, in].
        bias: [K, ..., out], or [out]; all parameters are of float32 numbers.
        scale, shift: LayerNorm's, likewise.
        order: which of the three, of `ORDERS`.
        members: which of the K.
        dropout: probability.
        epsilon: LayerNorm's.
        group: SimNorm's number of features in a group.

    Returns:
        [N, out] of each member; under autocast, as the product, of bfloat16 numbers, but for SimNorm's.
    """
    return list(_FusedLayer.apply(weight, bias, scale, shift, order, members, dropout, epsilon, group, *xs))
