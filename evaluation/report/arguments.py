"""Flags of the report of a deletion request."""

import dataclasses
import unicodedata

from helper_functions.errors import UserError
from helper_functions.safe_files.printable import REFUSED

LONGEST = 200
# Bidirectional controls reorder the text that follows, which can change its apparent meaning.
REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclasses.dataclass
class ReportArgs:
    """Entries of the report's page."""

    # Not `str | None`, with which YAML reads #12 as a comment.
    request_id: str = ""
    """Reference number of the deletion request, for the report."""
    requester: str = ""
    """Who asked, or a reference to them, for the report."""
    show_images: bool = False
    """Show up to 24 of the forgotten images in report.html and 25 in TensorBoard; access to the run folder must then be
    restricted, which holds none without this flag."""


def is_unprintable(character: str) -> bool:
    """Whether a character must not stand in a line of text, since it controls the text around it."""
    return unicodedata.category(character) in REFUSED or character in REORDERING


def check_report(args: ReportArgs, forgets: bool = True) -> None:
    """Refuse texts that cannot be printed, and texts for a run that writes no such report, by a UserError."""
    if args.requests is not None and (given := args.request_id or args.requester):
        raise UserError(f"--requests {args.requests}: it names who asked; leave {given!r} out")
    for field in dataclasses.fields(ReportArgs):
        value, flag = getattr(args, field.name), f"--{field.name}"
        if value and not forgets:
            raise UserError(f"{flag} {value}: only runs that forget write such a report; leave it out")
        if not isinstance(value, str) or not value:
            continue
        if not value.strip():
            raise UserError(f"{flag} {value!r}: the text is blank; leave it out")
        if len(value) > LONGEST:
            raise UserError(f"{flag} {value[:20]!r}...: {len(value)} characters; give at most {LONGEST}")
        if bad := [character for character in value if is_unprintable(character)]:
            raise UserError(f"{flag}: it contains {bad[0]!r}, which is not printable; give plain text in one line")
