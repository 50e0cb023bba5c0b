"""Bias, dropout, LayerNorm and Mish in one pass over memory on a CPU: fused.cpp, compiled when it is first wanted.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pwm.errors import UserError

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
WIDE = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []

_wanted = False


@contextmanager
def fused_layers(wanted: bool) -> Iterator[None]:
    """Inside, layers of float32 weights on a CPU are computed by `normed_mish` if that is `wanted`.

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


def fused(weight: Tensor) -> bool:
    """Whether the layer of this weight is to be computed by `normed_mish`."""
    return _wanted and weight.device.type == "cpu" and weight.dtype == torch.float32


class _Layer(ctypes.Structure):
    """`Layer` of fused.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "features")),
        *((name, ctypes.c_void_p) for name in ("bias", "weight", "shift", "kept")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
        ("threads", ctypes.c_int),
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
        function.argtypes = [ctypes.POINTER(_Layer), *[ctypes.c_bool] * 2, *[ctypes.c_void_p] * pointers]
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


class _NormedMish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, product: Tensor, bias: Tensor, weight: Tensor, shift: Tensor, dropout: float, *options: Any
    ) -> Tensor:
        epsilon, mish_first = options
        mask = kept(tuple(product.shape), dropout) if dropout else None
        ctx.layer = _Layer(
            *product.shape,
            *(None if part is None else part.data_ptr() for part in (bias, weight, shift, mask)),
            1.0 / (1.0 - dropout),
            epsilon,
            torch.get_num_threads(),
        )
        ctx.order = mish_first, product.dtype == torch.bfloat16
        output, (mean, inverse_std) = torch.empty_like(product), torch.empty(2, len(product))
        pointers = (part.data_ptr() for part in (product, output, mean, inverse_std))
        _library().forward(ctx.layer, *ctx.order, *pointers)
        ctx.save_for_backward(product, mean, inverse_std, bias, weight, shift, mask)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        product, mean, inverse_std, *_ = ctx.saved_tensors
        gradient = gradient.to(product.dtype).contiguous()
        of_product, sums = torch.empty_like(product), torch.zeros(ctx.layer.threads, 3, product.shape[1])
        pointers = (part.data_ptr() for part in (product, gradient, mean, inverse_std, of_product, sums))
        _library().backward(ctx.layer, *ctx.order, *pointers)
        return of_product, *sums.sum(0), None, None, None


def normed_mish(
    product: Tensor,
    bias: Tensor,
    weight: Tensor,
    shift: Tensor,
    dropout: float = 0.0,
    epsilon: float = 1e-5,
    mish_first: bool = False,
) -> Tensor:
    """Mish(LayerNorm(dropout(product + bias))), or LayerNorm(Mish(product + bias)) where `mish_first`.

    Args:
        product: [N, D], of float32 or bfloat16 numbers; what comes between is float32.
        bias: [D] of the linear layer, as all parameters of float32.
        weight, shift: [D] of LayerNorm.
        dropout: probability.
        epsilon: LayerNorm's.
        mish_first: the order.

    Returns:
        [N, D], of numbers like the product's.
    """
    parts = (part.contiguous() for part in (product, bias, weight, shift))
    return _NormedMish.apply(*parts, dropout, epsilon, mish_first)
