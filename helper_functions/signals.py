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
    """The process received the signal `number`; `step` is that at which everything was saved because of it, if any."""

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(number, step)
        self.number, self.step = number, step


@dataclasses.dataclass
class RunUnderWay:
    """The process's current run, for the last line of a script: its folder, its arguments, its last checkpoint."""

    folder: Path | None = None
    args: object = None
    step: int | None = None


run_under_way = RunUnderWay()


class _Pending:
    """The signal that was received and not yet raised, and how many blocks defer it.

    In a block that defers it, all ranks see it at the same step, the one after any of them received it: they exchange
    it asynchronously during the step, so none of them waits.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deferrals = 0
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; a second one has its default effect, which ends the process at once."""
        for each in SIGNALS:
            if signal.getsignal(each) == self.receive:
                signal.signal(each, signal.SIG_DFL)
        self.signal = number
        if not self.deferrals:
            self.stop()

    def asked(self, last: bool = False) -> int | None:
        """The signal's number, or None; called at each step, with `last` where the ranks wait for the exchange."""
        if world_size() == 1:
            return self.signal
        found = None
        if self._sent is not None:
            value, work = self._sent
            work.wait()
            found, self._sent = int(value) or None, None
        if found is None:
            value = torch.tensor(self.signal or 0)
            work = dist.all_reduce(value, dist.ReduceOp.MAX, async_op=not last)
            if last:
                found = int(value) or None
            else:
                self._sent = value, work
        self.signal = found or self.signal
        return found

    def stop(self, step: int | None = None) -> None:
        """Raise the signal as `Stopped`, with the step at which everything was saved, if it was."""
        number, self.signal = self.signal, None
        raise Stopped(number, step)


pending = _Pending()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `Stopped`, or are deferred; a signal that is ignored (nohup) stays ignored."""
    numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {each: signal.getsignal(each) for each in numbers if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, pending.receive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, a signal is deferred until `pending.stop` raises it, or until the end of the block.

    All ranks enter and leave the block together.
    """
    pending.deferrals += 1
    try:
        yield
    finally:
        pending.deferrals -= 1
    if not pending.deferrals and pending.asked(last=True) is not None:
        pending.stop()
