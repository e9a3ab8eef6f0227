"""Ranks: the processes of one run on several devices or machines, as torchrun starts them."""

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from helper_functions.errors import UserError
from helper_functions.safe_files.printable import printable

T = TypeVar("T")

# Set by torchrun for each of its processes.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Longest wait for another rank. The death of a process is detected at once; this is for machines that vanish, and is
# longer than rank 0 takes to write a checkpoint or to download a data set.
TIMEOUT = timedelta(minutes=20)


def world_size() -> int:
    """How many ranks there are; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is rank 0, the only one that writes and prints."""
    return rank() == 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Inside, a process that torchrun has started belongs to a process group: NCCL on CUDA devices, Gloo on CPUs.

    The output of ranks other than 0 is discarded. A process that torchrun has not started runs alone.
    """
    if dist.is_initialized() or not all(name in os.environ for name in VARIABLES):
        yield
        return
    # If this module is first imported inside a process group, it keeps the group alive; the group's threads then may
    # abort the process at the end of the interpreter.
    importlib.import_module("torch._dynamo")
    # Without a backend's name, torch takes one for each kind of device that it finds.
    dist.init_process_group(timeout=TIMEOUT)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_main() else nowhere):
            yield
    finally:
        dist.destroy_process_group()


def on_main(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate a function without result: only rank 0 executes it."""

    @functools.wraps(function)
    def on_rank_0(*args, **kwargs) -> None:
        if is_main():
            function(*args, **kwargs)

    return on_rank_0


@on_main
def say(*texts: object, **options) -> None:
    """Print on rank 0; control characters other than newlines are escaped."""
    print(*(printable(str(text), keep="\n") for text in texts), **options)


def from_main(compute: Callable[[], T]) -> T:
    """The result of `compute`, which rank 0 alone calls, on every rank; its UserError or OSError likewise.

    Tensors in it are on the CPU.
    """
    if world_size() == 1:
        return compute()
    outcome: list = [None, None]
    if is_main():
        try:
            outcome[0] = compute()
        except (UserError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def agree(values: Tensor) -> Tensor:
    """Replace the values by rank 0's, in place: ranks that differ by a rounding could decide differently."""
    if world_size() > 1:
        dist.broadcast(values, src=0)
    return values


@contextlib.contextmanager
def first_on_machine() -> Iterator[None]:
    """The first rank of each machine executes the block before the others, which then find what it downloaded."""
    rank_here = dist.get_node_local_rank(fallback_rank=0)
    if rank_here:
        _meet()
    try:
        yield
    finally:
        if not rank_here:
            _meet()


def _meet() -> None:
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def wait_for_main() -> None:
    """Wait until rank 0 arrives here: torchrun kills all ranks as soon as one exits with an error."""
    from_main(lambda: None)
