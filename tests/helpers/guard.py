"""A watched call of a parser: it ends in time, in bounded memory, and writes, starts and connects nothing; a pickle."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from os import O_APPEND, O_CREAT, O_RDWR, O_TRUNC, O_WRONLY
from pathlib import Path

SECONDS = 20  # of computing
MEMORY = 4 * 2**30  # bytes of address space beyond what the process has
WRITING = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND
# Audit events that no parser of somebody else's bytes may cause.
FORBIDDEN = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill",
    "subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class", "tempfile.mkstemp", "tempfile.mkdtemp",
}  # fmt: skip


class Forbidden(BaseException):
    """The call wrote, started or connected something; no handler of ordinary errors hides it."""


class TooLong(BaseException):
    """The call took too long."""


class _Watch:
    installed = active = False


def _audit(event: str, arguments: tuple) -> None:
    if _Watch.active and (
        event in FORBIDDEN
        or event.startswith("shutil.")
        or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
    ):
        raise Forbidden(f"{event} {arguments}"[:200])


def _too_long(*_: object) -> None:
    raise TooLong(f"more than {SECONDS} s")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside, raise `Forbidden`, `TooLong` or MemoryError at the first offence."""
    if not _Watch.installed:  # a hook cannot be removed
        sys.addaudithook(_audit)
        _Watch.installed = True
    sys.dont_write_bytecode = True
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    earlier = signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _Watch.active = True
    try:
        yield
    finally:
        _Watch.active = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, earlier)


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)
