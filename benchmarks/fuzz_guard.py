"""One case of fuzzing under guard: it ends in time, in a value or a UserError, and writes, starts and calls nothing."""

import contextlib
import dataclasses
import faulthandler
import io
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from os import O_APPEND, O_CREAT, O_RDWR, O_TRUNC, O_WRONLY
from pathlib import Path

from benchmarks.fuzz_cases import Target
from helper_functions.errors import UserError
from helper_functions.safe_files.printable import one_line, printable

SECONDS = 5.0  # of computing, for one case
PATIENCE = 60.0  # seconds by the clock, for one that waits; a busy machine makes others wait as well
WRITING = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND
# Audit events of what a parser of somebody else's bytes has no business with.
FORBIDDEN = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill",
    "subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip


class Forbidden(BaseException):
    """A case wrote, started or called something; no handler of ordinary errors may hide it."""


class TooLong(BaseException):
    """A case was not through in time."""


@dataclasses.dataclass
class Tally:
    """What has become of the cases of one target.

    `failures`: by where they happened, the message and the bytes of the smallest case.
    """

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0
    failures: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)

    def summary(self) -> dict:
        """Without the cases' bytes."""
        return {**dataclasses.asdict(self), "failures": [f"{k}: {self.failures[k][0]}" for k in sorted(self.failures)]}


class Guard:
    """Runs the cases of one target.

    Args:
        target: what reads them.
        folder: where the one that is being read lies; it is still there after a crash.
        die: whether a case that hangs in compiled code, which no signal reaches, ends the process.
    """

    def __init__(self, target: Target, folder: Path, die: bool) -> None:
        self.target, self.die, self.tally = target, die, Tally()
        self.path = folder / target.file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        target.prepare(folder)
        sys.dont_write_bytecode = True  # modules that are imported late

    def __call__(self, data: bytes) -> None:
        """Read one case and count what has become of it."""
        self.path.write_bytes(data)
        tally, started = self.tally, time.process_time()
        tally.cases += 1
        try:
            with _watched(self.die), contextlib.redirect_stdout(io.StringIO()):
                self.target.read(self.path)
            tally.accepted += 1
        except UserError as error:
            tally.refused += 1
            if not (line := one_line(str(error))) or printable(line) != line:
                self._fail("a refusal that is no printable line", line, data)
        except SystemExit as error:  # of --help
            tally.accepted += not error.code
            if error.code:
                self._fail("SystemExit", str(error.code), data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(_where(error), str(error)[:300], data)
        tally.slowest = max(tally.slowest, time.process_time() - started)

    def _fail(self, where: str, message: str, data: bytes) -> None:
        self.tally.failed += 1
        known = self.tally.failures.get(where)
        if known is None or len(data) < len(known[1]):
            self.tally.failures[where] = message, data


def _where(error: BaseException) -> str:
    frame = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__][-1]
    return f"{type(error).__name__} in {frame.name}, {Path(frame.filename).name}:{frame.lineno}"


@contextlib.contextmanager
def _watched(die: bool) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TooLong(f"more than {SECONDS:g} s, or a wait of {PATIENCE:g} s")

    _install()
    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE)}
    earlier = {number: signal.signal(number, too_long) for number in clocks}
    if die:
        faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)
    for clock, limit in clocks.values():
        # Again and again: Python drops what is raised in a destructor.
        signal.setitimer(clock, limit, limit)
    _State.watching = True
    try:
        yield
    finally:
        _State.watching = False
        for number, (clock, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, earlier[number])
        if die:
            faulthandler.cancel_dump_traceback_later()


class _State:
    installed = watching = False


def _install() -> None:
    """Audit hooks cannot be taken away again, so that there is one, which looks away between cases."""
    if not _State.installed:
        sys.addaudithook(_audit)
        _State.installed = True


def _audit(event: str, arguments: tuple) -> None:
    if not _State.watching:
        return
    if event in FORBIDDEN or event.startswith("shutil."):
        raise Forbidden(f"{event} {arguments}"[:200])
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        raise Forbidden(f"{arguments[0]} is opened for writing"[:200])
