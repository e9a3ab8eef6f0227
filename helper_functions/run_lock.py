"""One process at a time in a folder: a lock that names its holder, and that the end of a process frees."""

import contextlib
import errno
import fcntl
import os
import socket
import weakref
from pathlib import Path
from typing import TextIO

from helper_functions.errors import UserError

NAME = "run.lock"
# File systems without locks, as some network file systems are: there, nobody is refused.
WITHOUT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_held: "weakref.WeakValueDictionary[str, RunLock]" = weakref.WeakValueDictionary()


class RunLock:
    """The lock of a folder, on `run.lock` in it, which holds the process's id.

    By `flock`, so that it ends with the process however that ends; over NFS, Linux makes a lock of the whole file of
    it, which other machines see. A process that has it already shares it. It is given back by `release`, at the end of
    a `with` block, or when nobody refers to it any more.

    Args:
        folder: that exists.
        what: the request that is refused, for the error.

    Raises:
        UserError: another process is at work there.
    """

    def __init__(self, folder: Path, what: str) -> None:
        place = os.path.realpath(folder)
        self._shared = _held.get(place)
        if self._shared is None or not self._shared.release.alive:
            path = Path(folder) / NAME
            file = _take(path, what)
            self.release = weakref.finalize(self, _give_back, file, path, os.getpid())
            _held[place] = self
        else:
            self.release = self._shared.release

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _take(path: Path, what: str) -> TextIO:
    while True:
        file = open(path, "a+")  # noqa: SIM115  # for as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "of unknown number"
            raise UserError(f"{what}: process {holder} is at work there; wait for its end, or end it") from None
        except OSError as error:
            if error.errno not in WITHOUT:
                raise
        # Its last holder may have removed it meanwhile: what is locked then is nobody's.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        file.close()
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _give_back(file: TextIO, path: Path, process: int) -> None:
    if process == os.getpid():  # a fork has it, too
        with contextlib.suppress(OSError):
            path.unlink()
    file.close()
