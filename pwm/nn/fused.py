"""Bias, dropout, LayerNorm and Mish or SimNorm in one pass over memory on a CPU: fused.cpp, compiled when first wanted.

A chain of torch's operations goes over the numbers of a layer a dozen times, which beside fast matrix products is most
of an update. Here they are read and written once, and the gradient computes again what it needs.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pwm.errors import UserError

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
WIDE = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []

ORDERS = MISH_OF_NORM, NORM_OF_MISH, SIMNORM_OF_NORM = "Mish(LayerNorm)", "LayerNorm(Mish)", "SimNorm(LayerNorm)"

_wanted = False
_cast: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}


@contextmanager
def fused_layers(wanted: bool) -> Iterator[None]:
    """Inside, layers of float32 weights on a CPU are computed by `fused_layer` if that is `wanted`.

    What it casts of weights is kept until the outermost of these ends.

    Raises:
        UserError: it is, and there is no C++ compiler.
    """
    global _wanted
    if wanted:
        _library()
    before, _wanted = _wanted, wanted
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
        *((name, ctypes.c_int64) for name in ("rows", "features")),
        *((name, ctypes.c_void_p) for name in ("bias", "weight", "shift", "kept")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
        *((name, ctypes.c_int) for name in ("group", "threads")),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    """fused.cpp, compiled by each process for the processor that it runs on; it takes a second and leaves no file."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
    if compiler is None:
        raise UserError("compile: true needs a C++ compiler on a CPU; install g++ or set compile: false")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fused.so"
        done = subprocess.run([compiler, *FLAGS, *WIDE, SOURCE, "-o", target], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{compiler} cannot compile {SOURCE.name}; set compile: false. It says: {done.stderr}")
        library = ctypes.CDLL(str(target))
    for function, pointers in ((library.forward, 4), (library.backward, 6)):
        function.argtypes = [ctypes.POINTER(_Layer), ctypes.c_int, ctypes.c_bool, *[ctypes.c_void_p] * pointers]
    return library


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
        order, members, dropout, epsilon, group, *xs = rest
        low = torch.is_autocast_enabled("cpu")  # products in bfloat16
        ctx.order, ctx.members = (ORDERS.index(order), low), members
        ctx.parameters, ctx.kinds = (weight, bias, scale, shift), [x.dtype for x in xs]
        xs = [x.to(torch.bfloat16) if low else x for x in xs]
        weights = [_in_low_precision(weight, k) if low else weight[k] for k in members]
        ctx.layers, outputs, saved = [], [], []
        for i, k in enumerate(members):
            x = xs[i % len(xs)]
            product = x @ weights[i]
            mask = kept(tuple(product.shape), dropout) if dropout else None
            parts = *(part[k].data_ptr() for part in (bias, scale, shift)), None if mask is None else mask.data_ptr()
            layer = _Layer(*product.shape, *parts, 1.0 / (1.0 - dropout), epsilon, group, torch.get_num_threads())
            output = torch.empty_like(product, dtype=torch.float32 if order == SIMNORM_OF_NORM else None)
            moments = torch.empty(2, len(product))
            _library().forward(layer, *ctx.order, *_pointers(product, output, *moments))
            ctx.layers.append(layer)
            outputs.append(output)
            saved += [product, moments, mask]
        ctx.save_for_backward(*weights, *xs, *saved)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        members, inputs = len(ctx.members), len(ctx.kinds)
        saved = ctx.saved_tensors
        weights, xs, saved = saved[:members], saved[members : members + inputs], saved[members + inputs :]
        weight, *rest = ctx.parameters
        fresh = torch.empty_like if members == len(weight) else torch.zeros_like
        of_weight = fresh(weight, dtype=weights[0].dtype) if ctx.needs_input_grad[0] else None
        of_rest = [torch.zeros_like(part) for part in rest]
        of_xs: list[Tensor | None] = [None] * inputs
        for i, (k, layer, gradient) in enumerate(zip(ctx.members, ctx.layers, gradients, strict=True)):
            product, moments, _ = saved[3 * i : 3 * i + 3]
            gradient = gradient.contiguous()
            of_product, sums = torch.empty_like(product), torch.zeros(layer.threads, 3, layer.features)
            _library().backward(layer, *ctx.order, *_pointers(product, gradient, *moments, of_product, sums))
            for total, part in zip(of_rest, sums.sum(0), strict=True):
                total[k] += part
            if of_weight is not None:
                torch.mm(xs[i % inputs].t(), of_product, out=of_weight[k])
            if ctx.needs_input_grad[9 + i % inputs]:
                of_x = of_product @ weights[i].t()
                of_xs[i % inputs] = of_x.to(ctx.kinds[i % inputs]) if i < inputs else of_xs[0].add_(of_x)
        return None if of_weight is None else of_weight.float(), *of_rest, *[None] * 5, *of_xs


def _in_low_precision(weight: Tensor, k: int) -> Tensor:
    """W_k, cast once for as long as the weights stay as they are."""
    key = weight.data_ptr(), weight._version, k, *weight.stride()
    if key not in _cast:
        _cast[key] = weight[k].to(torch.bfloat16), weight  # which is held, so that its address stays its own
    return _cast[key][0]


def _pointers(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


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
        weight, bias: of all K members, [K, in, out] and [K, ..., out]; all parameters are of float32 numbers.
        scale, shift: LayerNorm's, [K, ..., out].
        order: which of the three, of `ORDERS`.
        members: which of the K.
        dropout: probability.
        epsilon: LayerNorm's.
        group: SimNorm's number of features in a group.

    Returns:
        [N, out] of each member; under autocast, as the product, of bfloat16 numbers, but for SimNorm's.
    """
    return list(_FusedLayer.apply(weight, bias, scale, shift, order, members, dropout, epsilon, group, *xs))
