"""Files that a user names, opened without waiting.

`open` waits for ever for a writer of a FIFO, and a read of a device such as /dev/zero never ends.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

# Windows has no such flags.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _open_regular(path: str | Path) -> int:
    try:
        handle = os.open(path, FLAGS)
    except ValueError:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "no regular file")
    return handle


def open_bytes(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; anything else is an OSError."""
    return open(_open_regular(path), "rb")


def open_text(path: str | Path) -> TextIO:
    """Open a regular file of UTF-8 text for reading, with or without a byte order mark."""
    return open(_open_regular(path), encoding="utf-8-sig")
