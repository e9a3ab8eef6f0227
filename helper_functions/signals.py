"""Signals that ask a process to stop: held back while a step or an epoch's end is under way, an exception elsewhere."""

import contextlib
import dataclasses
import shlex
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
    """The process was asked to stop.

    Args:
        number: of the signal.
        step: the gradient step at which everything has been saved; None where nothing was saved on account of it.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(number, step)
        self.number, self.step = number, step


@dataclasses.dataclass
class RunUnderWay:
    """What a last line has to know of the process's run: its folder, whose it is, the step of its last checkpoint."""

    folder: Path | None = None
    args_class: type | None = None
    step: int | None = None

    def begin(self, folder: Path, args_class: type) -> None:
        """The process turns to the run in this folder, which has no checkpoint yet."""
        self.folder, self.args_class, self.step = folder, args_class, None

    def resume_command(self, script: str) -> str:
        """The command line that goes on with it."""
        return f"python {script} --resume {shlex.quote(str(self.folder))}"


run_under_way = RunUnderWay()


class _Mailbox:
    """The signal that has come, and whether it is held back."""

    def __init__(self) -> None:
        self.heard: int | None = None
        self.holders = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler; a further signal does what it does by default, which is to end the process at once."""
        for each in SIGNALS:
            if signal.getsignal(each) == self.receive:
                signal.signal(each, signal.SIG_DFL)
        self.heard = number
        if not self.holders:
            self.raise_heard()

    def raise_heard(self, step: int | None = None) -> None:
        number, self.heard = self.heard, None
        raise Stopped(number, step)


_mailbox = _Mailbox()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `Stopped`, or are held back; one that was ignored stays so (nohup)."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, _mailbox.receive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, a signal is held back for `Stops` to find; what none has found by the end is raised there.

    All ranks pass through the block, and leave it alike.
    """
    _mailbox.holders += 1
    try:
        yield
    finally:
        _mailbox.holders -= 1
    if not _mailbox.holders:
        raise_if_heard()


def raise_if_heard() -> None:
    """Raise a signal that was held back, on all ranks if any of them got one; they call it together.

    Raises:
        Stopped: with nothing saved on account of it.
    """
    _mailbox.heard = _highest(_mailbox.heard or 0) or None
    if _mailbox.heard is not None:
        _mailbox.raise_heard()


class Stops:
    """Whether a signal has come, asked at each step: of several ranks all learn of it at the same step, the next one.

    What they tell each other is under way while the step is taken, so that none of them waits for it.
    """

    def __init__(self) -> None:
        self._sent: tuple[torch.Tensor, dist.Work] | None = None

    def asked(self, last: bool = False) -> int | None:
        """The signal's number, or None.

        Args:
            last: nobody will ask again; ranks wait for each other's answer.
        """
        if world_size() == 1:
            return _mailbox.heard
        found = 0
        if self._sent is not None:
            value, work = self._sent
            work.wait()
            found, self._sent = int(value), None
        if not found and last:
            found = _highest(_mailbox.heard or 0)
        elif not found:
            value = torch.tensor(_mailbox.heard or 0)
            self._sent = value, dist.all_reduce(value, dist.ReduceOp.MAX, async_op=True)
        _mailbox.heard = found or _mailbox.heard
        return found or None

    def stop(self, step: int | None) -> None:
        """Raise what was found.

        Raises:
            Stopped: saying at which step everything was saved, if it was.
        """
        _mailbox.raise_heard(step)


def _highest(number: int) -> int:
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)
