"""What the processes of one job share, where torchrun started several (`WORLD_SIZE` in the environment).

Each computes the gradients of its share of a batch; their mean is that of the whole batch, as long as the shares are of
one size. All start from the same seed, so that weights, optimisers and random numbers stay the same in all of them, and
the first one's checkpoints are everybody's.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def rank() -> int:
    """This process's number; 0 is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def join() -> None:
    """Meet the other processes, if there are any: by NCCL, a GPU for each, or by Gloo where there is no GPU.

    To be called before anything is done on a GPU: the process then sees its own alone. Threads are shared out, too.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return
    local = int(os.environ["LOCAL_RANK"])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[local] if visible else str(local)
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["LOCAL_WORLD_SIZE"])))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def wait_for_all() -> None:
    """Go on when all processes are here."""
    if distributed.is_initialized():
        distributed.barrier()


def mean(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors' means over all processes, in one exchange; the tensors themselves where there is one process."""
    if not distributed.is_initialized():
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = (flat / world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def randn(*shape: int, device: torch.device) -> Tensor:
    """Standard normal numbers for this process's share of a batch (second axis), out of those of the whole batch."""
    steps, size, *rest = shape
    return torch.randn(steps, size * world_size(), *rest, device=device)[:, rank() :: world_size()]
