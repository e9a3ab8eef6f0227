"""Files that anybody may have named: nothing is waited for, and nothing read without end."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Opening a FIFO waits for who writes to it. Windows, which has none, has no such flag either.
_AT_ONCE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | Path) -> int:
    """Descriptor of a regular file, open for reading.

    Raises:
        OSError: it cannot be opened, or is a FIFO, which would be waited for, or a device, which may never end.
    """
    try:
        handle = os.open(path, _AT_ONCE)
    except ValueError:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "no regular file")
    return handle


@contextlib.contextmanager
def open_bytes(path: str | Path) -> Iterator[BinaryIO]:
    """Inside, a regular file is open for reading; raises as `open_regular`."""
    with open(open_regular(path), "rb") as file:
        yield file
