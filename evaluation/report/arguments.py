"""What the report of a deletion request says beside figures, as flags."""

import dataclasses
import unicodedata

from helper_functions.errors import UserError

LONGEST = 200
# Control characters, halves of surrogate pairs, and breaks of lines and paragraphs.
REFUSED_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
# They turn the text that follows around, so that a page could seem to say something else.
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclasses.dataclass
class ReportArgs:
    """What stands on the page of the report."""

    # No `str | None`, which would read #12 as a comment.
    request_id: str = ""
    """Reference number of the deletion request, for the report."""
    requester: str = ""
    """Who asked, or a reference to them, for the report."""
    show_images: bool = False
    """Show up to 24 of the forgotten images in report.html, which must then be kept from whoever may not see them."""


def is_unprintable(character: str) -> bool:
    """Whether a character has no place in a line of text: it controls what stands around it."""
    return unicodedata.category(character) in REFUSED_CATEGORIES or character in TURNING


def check_report(args: ReportArgs, forgets: bool = True) -> None:
    """Refuse texts that cannot stand in a report, and any of these flags where there is none.

    Args:
        args: the flags.
        forgets: whether the run forgets anything.

    Raises:
        UserError: naming the flag.
    """
    for field in dataclasses.fields(ReportArgs):
        value = getattr(args, field.name)
        if value and not forgets:
            raise UserError(f"--{field.name} {value}: only runs that forget have such a report; leave it out")
        if isinstance(value, str) and value:
            _check_text(f"--{field.name}", value)


def _check_text(flag: str, value: str) -> None:
    if not value.strip():
        raise UserError(f"{flag} {value!r}: there is nothing to read; leave it out")
    if len(value) > LONGEST:
        raise UserError(f"{flag} {value[:20]!r}...: {len(value)} characters; give at most {LONGEST}")
    if bad := [character for character in value if is_unprintable(character)]:
        raise UserError(f"{flag}: it holds {bad[0]!r}, which is no printed character; give plain text in one line")
