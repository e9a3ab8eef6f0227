"""Parts of a batch: which rows each rank computes, and the rows of all of them put together again."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

# Sizes of all ranks' parts of the batch whose forward pass is under way; None where each computes by itself.
_sizes: list[int] | None = None


def split_sizes(count: int, ranks: int) -> list[int]:
    """How many of `count` rows each rank computes: as equal as can be, the longer parts first."""
    return [count // ranks + (number < count % ranks) for number in range(ranks)]


@contextlib.contextmanager
def shared_pass(sizes: list[int] | None) -> Iterator[None]:
    """Inside, a forward pass sees this rank's part of a batch; None: all of it, as every other rank does."""
    global _sizes
    before, _sizes = _sizes, sizes
    try:
        yield
    finally:
        _sizes = before


def current_sizes() -> list[int] | None:
    """Sizes of all ranks' parts in the pass that is under way, None where it is not shared."""
    return _sizes


def own_part(sizes: list[int]) -> slice:
    """The rows of the whole batch that this rank computes."""
    start = sum(sizes[: dist.get_rank()])
    return slice(start, start + sizes[dist.get_rank()])


def whole(rows: Tensor) -> Tensor:
    """The rows `[B, ...]` of the whole batch from those of this rank's part, with their gradient; in a shared pass.

    Elsewhere the rows themselves. The gradient of this rank's rows comes back times the number of ranks, since
    DistributedDataParallel takes the mean over ranks of what each finds.
    """
    return rows if _sizes is None else _Whole.apply(rows, _sizes)


def stacked(values: Tensor) -> Tensor:
    """Tensors of one shape from all ranks, `[ranks, ...]`, without gradient."""
    found = values.new_empty(dist.get_world_size(), *values.shape)
    dist.all_gather(list(found.unbind()), values.contiguous())
    return found


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.part = own_part(sizes)
        # Collectives want one shape.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat([part[:size] for part, size in zip(stacked(padded), sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.part] * dist.get_world_size(), None
