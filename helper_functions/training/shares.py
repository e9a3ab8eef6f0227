"""Parts of a batch: which rows each rank computes, and how the rows of all ranks are put together."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

# Sizes of all ranks' parts in the current forward pass; None where each rank computes the whole batch.
_sizes: list[int] | None = None


def split_sizes(count: int, ranks: int) -> list[int]:
    """How many of `count` rows each rank computes: sizes differ by at most one, the larger parts first."""
    return [count // ranks + (number < count % ranks) for number in range(ranks)]


@contextlib.contextmanager
def shared_pass(sizes: list[int] | None) -> Iterator[None]:
    """Inside, a forward pass computes this rank's part of a batch; with None, the whole batch on every rank."""
    global _sizes
    before, _sizes = _sizes, sizes
    try:
        yield
    finally:
        _sizes = before


def current_sizes() -> list[int] | None:
    """Sizes of all ranks' parts in the current pass, None where it is not shared."""
    return _sizes


def own_part(sizes: list[int]) -> slice:
    """The rows of the whole batch that this rank computes."""
    start = sum(sizes[: dist.get_rank()])
    return slice(start, start + sizes[dist.get_rank()])


def whole(rows: Tensor) -> Tensor:
    """The rows `[B, ...]` of the whole batch from those of this rank's part, with their gradient; in a shared pass.

    Outside of one, the rows themselves. The gradient of this rank's rows is multiplied by the number of ranks, since
    DistributedDataParallel averages the gradients over ranks.
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
        # Collectives require one shape.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat([part[:size] for part, size in zip(stacked(padded), sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.part] * dist.get_world_size(), None
