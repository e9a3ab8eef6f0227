"""Ranks: the processes of one run on several devices or machines, as torchrun starts them, and what they agree on."""

import contextlib
import functools
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.rendezvous import rendezvous

from helper_functions.errors import UserError
from helper_functions.safe_files.printable import one_line, printable

T = TypeVar("T")

# What torchrun sets for each of its processes.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Longest wait for another rank. One that dies closes its connection, which shows at once; this is for machines that
# vanish, and more than rank 0 takes to write a checkpoint or to download a data set.
TIMEOUT = timedelta(minutes=20)
# Seconds in which rank 0 comes to say what every rank has come to, and torchrun to see which rank died first.
PATIENCE = 3.0
# Keys in the store that all ranks share.
SAID, HEARD = "what rank 0 says is wrong", "ranks that have heard it"


def world_size() -> int:
    """How many ranks there are; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this one among all of them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """The number of this one among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Whether this is rank 0, which alone writes and prints."""
    return rank() == 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Inside, a process that torchrun has started is one of the ranks: over NCCL on CUDA devices, over Gloo on CPUs.

    What ranks other than 0 print is dropped. Any other process runs alone, as ever.
    """
    if dist.is_initialized() or not all(name in os.environ for name in VARIABLES):
        yield
        return
    # First imported inside of a process group, as by an optimizer, it would keep hold of it for good: threads of the
    # group would outlive it, and may abort the process where they meet the end of the interpreter.
    importlib.import_module("torch._dynamo")
    store, number, size = next(rendezvous("env://", timeout=TIMEOUT))
    # Without a backend's name there is one for each kind of device that torch has been built for and finds.
    dist.init_process_group(store=store, rank=number, world_size=size, timeout=TIMEOUT)
    try:
        with contextlib.ExitStack() as stack:
            if number:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    finally:
        dist.destroy_process_group()


def on_main(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate a function that writes or prints, and gives nothing: on ranks other than 0 a call does nothing."""

    @functools.wraps(function)
    def there_alone(*args, **kwargs) -> None:
        if is_main():
            function(*args, **kwargs)

    return there_alone


@on_main
def say(*texts: object, **options) -> None:
    """Print on rank 0; control characters other than the end of a line are shown, not sent to the terminal."""
    print(*(printable(str(text), keep="\n") for text in texts), **options)


def from_main(compute: Callable[[], T]) -> T:
    """What `compute` gives on rank 0, which alone calls it, on every rank; its UserError or OSError likewise.

    Tensors in it lie on the CPU.
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
    """Rank 0's values, in place: what a decision rests on must not differ by a rounding from one device to another."""
    if world_size() > 1:
        dist.broadcast(values, src=0)
    return values


@contextlib.contextmanager
def first_on_machine() -> Iterator[None]:
    """The first rank of each machine passes through the block before the others: what it fetches is then there."""
    if local_rank():
        _meet()
    try:
        yield
    finally:
        if not local_rank():
            _meet()


def _meet() -> None:
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def wait_for_main() -> None:
    """Return when rank 0 has come here, too: torchrun ends all ranks as soon as one leaves with an error."""
    from_main(lambda: None)


def complain(line: str) -> None:
    """Print one line to standard error: rank 0 does; another rank where rank 0 says nothing within a few seconds."""
    line = one_line(line)
    if world_size() == 1:
        print(line, file=sys.stderr)
        return
    store = _get_default_store()
    if is_main():
        print(line, file=sys.stderr, flush=True)
        store.set(SAID, line)
        # The store may end with this process.
        _wait(lambda: store.add(HEARD, 0) == world_size() - 1)
    elif _wait(lambda: store.check([SAID])):
        store.add(HEARD, 1)
    else:
        print(f"rank {rank()}: {line}", file=sys.stderr, flush=True)


def _wait(condition: Callable[[], bool]) -> bool:
    """Whether a condition came true within `PATIENCE`."""
    until = time.monotonic() + PATIENCE
    with contextlib.suppress(dist.DistError):  # the store has ended
        while time.monotonic() < until:
            if condition():
                return True
            time.sleep(0.05)
    return False


def lost_rank(error: RuntimeError) -> str | None:
    """What an error says of another rank that no longer answers, None where it is about something else."""
    message = str(error)
    # Gloo has no exception of its own, but its messages begin with the file that they come from.
    if not (isinstance(error, dist.DistError) or "/gloo/" in message):
        return None
    reason = message.partition("] ")[2] if "/gloo/" in message else message
    return reason.splitlines()[0].partition(". ")[0]
