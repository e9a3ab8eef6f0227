"""One process at a time in a folder."""

import contextlib
import errno
import os
import socket
import weakref
from pathlib import Path

from filelock import FileLock, Timeout

from helper_functions.errors import UserError

NAME = "run.lock"
# Raised by file systems without locks, as some network file systems are.
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class RunLock(contextlib.AbstractContextManager):
    """The lock of a folder, on the file `run.lock` in it, which names its holder.

    The lock ends with the process, however that ends; the same process may take it again. A file system without locks
    refuses nobody. Raises UserError, which begins with the request `what`, where another process holds the lock.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.path = Path(folder).resolve(strict=True) / NAME
        self._lock = FileLock(self.path, mode=0o644, thread_local=False, is_singleton=True, fallback_to_soft=False)
        try:
            self._lock.acquire(timeout=0)
            self.path.write_text(f"{os.getpid()} on {socket.gethostname()}\n")
        except Timeout:
            holder = self.path.read_text().strip() or "(unknown)"
            raise UserError(f"{what}: process {holder} uses this folder; wait until it ends, or end it") from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise

        # Also when nothing refers to it any more: a run that is refused leaves nothing behind.
        self._finalizer = weakref.finalize(self, _give_back, self._lock, self.path, os.getpid())

    def release(self, *_: object) -> None:
        """Give the folder back."""
        self._finalizer()

    __exit__ = release


def _give_back(lock: FileLock, path: Path, process: int) -> None:
    if process == os.getpid():  # a fork holds it as well
        if lock.lock_counter <= 1:
            path.unlink(missing_ok=True)
        lock.release()
