"""Text from elsewhere, such as file names, made harmless where it is printed.

Attack that `print` lets pass: control characters in a file name or a weight's name rewrite what a terminal shows, and
changes of direction show a line in another order than it has.
"""

import unicodedata

from helper_functions.errors import UserError

# Zero-width joiners, which scripts and emoji need; all other characters that `str.isprintable` refuses are escaped.
JOINERS = "\u200c\u200d"
LONGEST_LINE = 2000
# Control characters, halves of surrogate pairs, separators of lines and paragraphs.
REFUSED = {"Cc", "Cs", "Zl", "Zp"}


def printable(text: str, keep: str = "") -> str:
    """The text with characters that are not printable as escapes, `\\x1b`; those in `keep` stay."""
    kept = JOINERS + keep
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode() for each in text
    )


def one_line(text: str) -> str:
    """The text as one printable line; the middle of a very long one is left out."""
    line = printable(" ".join(text.split()))
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[: LONGEST_LINE // 2]} […] {line[-LONGEST_LINE // 2 :]}"


def check_flags(values: dict[str, object]) -> None:
    """Refuse control characters and bytes that are no UTF-8; a NUL, for one, fails only where a file is opened."""
    for name, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if found := [each for each in str(text) if unicodedata.category(each) in REFUSED]:
                what = f"{printable(text[:80])!r} holds the character {printable(found[0])}"
                raise UserError(f"--{name}: {what}; give text without control characters, in UTF-8")
