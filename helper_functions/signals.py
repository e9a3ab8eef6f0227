"""Signals that stop a process: deferred during a training loop, which saves its state first; an exception elsewhere."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from helper_functions.training.distribution import world_size

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process received SIGINT or SIGTERM.

    Args:
        number: of the signal.
        step: the gradient step at which everything was saved; None where nothing was saved because of the signal.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(number, step)
        self.number, self.step = number, step


@dataclasses.dataclass
class RunUnderWay:
    """The process's current run, for the last line of a script: its folder, its arguments, its last checkpoint."""

    folder: Path | None = None
    args_class: type | None = None
    step: int | None = None


run_under_way = RunUnderWay()


class _Pending:
    """The signal that was received and not yet raised, and how many blocks defer it."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deferrals = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; a second one has its default effect, which ends the process at once."""
        for each in SIGNALS:
            if signal.getsignal(each) == self.receive:
                signal.signal(each, signal.SIG_DFL)
        self.signal = number
        if not self.deferrals:
            self.raise_pending()

    def raise_pending(self, step: int | None = None) -> None:
        number, self.signal = self.signal, None
        raise Stopped(number, step)


_pending = _Pending()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `Stopped`, or are deferred; a signal that is ignored (nohup) stays ignored."""
    numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {each: signal.getsignal(each) for each in numbers if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, _pending.receive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, a signal is deferred until `Stops` finds it, or until the end of the block, which raises it.

    All ranks enter and leave the block together.
    """
    _pending.deferrals += 1
    try:
        yield
    finally:
        _pending.deferrals -= 1
    if not _pending.deferrals:
        _pending.signal = _highest()
        if _pending.signal is not None:
            _pending.raise_pending()


class Stops:
    """Polls for a signal at each step; all ranks see it at the same step, the one after any of them received it.

    The ranks exchange it asynchronously during the step, so none of them waits.
    """

    def __init__(self) -> None:
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def asked(self, last: bool = False) -> int | None:
        """The signal's number, or None.

        Args:
            last: this is the last poll, so the ranks wait for the exchange.
        """
        if world_size() == 1:
            return _pending.signal
        found = None
        if self._sent is not None:
            value, work = self._sent
            work.wait()
            found, self._sent = int(value) or None, None
        if found is None and last:
            found = _highest()
        elif found is None:
            value = torch.tensor(_pending.signal or 0)
            self._sent = value, dist.all_reduce(value, dist.ReduceOp.MAX, async_op=True)
        _pending.signal = found or _pending.signal
        return found

    def stop(self, step: int | None) -> None:
        """Raise the signal as `Stopped`, with the step at which everything was saved, if it was."""
        _pending.raise_pending(step)


def _highest() -> int | None:
    """The signal that any rank has received."""
    if world_size() == 1:
        return _pending.signal
    value = torch.tensor(_pending.signal or 0)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value) or None
