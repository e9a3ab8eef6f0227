"""Text files that anybody may have written: nothing is waited for, and nothing read without end."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from helper_functions.safe_files.regular_files import open_regular


@contextlib.contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """Inside, a regular file of UTF-8 text is open for reading; a byte order mark is passed over.

    Raises:
        OSError: as `open_regular`.
    """
    with open(open_regular(path), encoding="utf-8-sig") as file:
        yield file
