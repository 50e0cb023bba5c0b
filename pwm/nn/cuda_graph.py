"""Updates as CUDA graphs: on a GPU, the kernels of these networks run for less time than it takes to launch them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Step = Callable[..., dict[str, Tensor]]


class CudaGraph:
    """A function of tensors whose kernels are recorded once and then launched together.

    The first `WARM_UP` calls run the function as it is, in which time torch compiles, allocates and chooses kernels.
    The next one records it. From then on the function's Python is not run any more, so that it may not depend on values
    of tensors, nor on anything else that changes between calls. What it reads and writes beside its arguments, such as
    weights, has to stay where it is in memory.
    """

    WARM_UP = 3

    def __init__(self, function: Step, generator: torch.Generator | None = None) -> None:
        """`generator`: what the function draws from, where that is not torch's own."""
        self._function, self._generator = function, generator
        self._calls = 0
        self._stream = torch.cuda.Stream()  # work on the default stream cannot be recorded
        self._graph: torch.cuda.CUDAGraph | None = None
        self._arguments: list[Tensor] = []
        self._results: dict[str, Tensor] = {}

    def __call__(self, *arguments: Tensor) -> dict[str, Tensor]:
        """The function's results, for arguments of the same shapes in every call."""
        if self._calls < self.WARM_UP:
            self._calls += 1
            return self._beside(arguments)
        if self._graph is None:
            self._record(arguments)
        for mine, new in zip(self._arguments, arguments, strict=True):
            mine.copy_(new)
        self._graph.replay()
        return {name: result.clone() for name, result in self._results.items()}

    def _beside(self, arguments: Iterable[Tensor]) -> dict[str, Tensor]:
        """A plain call, on the stream that is recorded later."""
        self._stream.wait_stream(torch.cuda.current_stream())
        # A network is compiled with and without gradients, and for every shape of its input.
        with torch.cuda.stream(self._stream), torch._dynamo.config.patch(recompile_limit=64):
            results = self._function(*arguments)
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _record(self, arguments: Iterable[Tensor]) -> None:
        self._arguments = [argument.clone() for argument in arguments]
        self._graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            self._graph.register_generator_state(self._generator)
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._results = self._function(*self._arguments)


def graphed(
    step: Step,
    wanted: bool,
    device: torch.device,
    networks: Iterable[nn.Module],
    generator: torch.Generator | None = None,
) -> Step:
    """`step` as a CUDA graph, its networks by torch.compile, if that is wanted and on a GPU; else as it is.

    Args:
        step: an update or a search, of tensors.
        wanted: the setting `compile`.
        device: where it runs.
        networks: the parts whose forward and backward passes are to be compiled, in place.
        generator: as for `CudaGraph`.
    """
    if not wanted or device.type != "cuda":
        return step
    for network in networks:
        network.compile(dynamic=False)
    return CudaGraph(step, generator)
