"""Text from elsewhere, such as file names, made harmless where it is printed, and refused where it makes no sense."""

import contextlib
import io
import re
from typing import TextIO

from helper_functions.errors import UserError

# Control characters move the cursor or end a line, and half of a surrogate pair cannot be encoded.
_CONTROL = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
# Show a line in another order than it has, or nothing where something stands.
_MISLEADING = "\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
_ESCAPED = re.compile(f"[{_CONTROL}{_MISLEADING}]")
_REFUSED = re.compile(f"[{_CONTROL}]")
LONGEST_LINE = 2000


def printable(text: str, keep: str = "") -> str:
    """The text with control characters and changes of direction as escapes, `\\x1b`; those in `keep` stay."""
    return _ESCAPED.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def one_line(text: str) -> str:
    """The text as one printable line; the middle of a very long one is left out."""
    line = printable(" ".join(text.split()))
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[: LONGEST_LINE // 2]} […] {line[-LONGEST_LINE // 2 :]}"


def check_flags(values: dict[str, object]) -> None:
    """Refuse text that no file name, class or request needs.

    Raises:
        UserError: a value holds a control character or bytes that are no UTF-8.
    """
    for name, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (found := _REFUSED.search(text)):
                what = f"{printable(text[:80])!r} holds the character {_escape(found[0])}"
                raise UserError(f"--{name}: {what}; give text without control characters, in UTF-8")


def escape_unknown(stream: TextIO) -> None:
    """Have a stream show what its encoding has no bytes for as escapes: a terminal may know ASCII alone."""
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # the file beneath was exchanged for a pipe
            stream.reconfigure(errors="backslashreplace")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
