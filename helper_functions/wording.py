"""Words of messages that depend on what there is: numbers of things, and names that are nearly right."""

import difflib
from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """`1 image`, `1,200 images`, `0 classes`, `2 files of other kinds`."""
    noun, of, others = noun.partition(" of ")
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}{of}{others}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names that begin so, or are closest; empty where none is close."""
    known = list(known)
    return [each for each in known if name and each.startswith(name)][:3] or difflib.get_close_matches(name, known, 3)


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean NAME?` for the `nearest` names; empty where there is none."""
    close = nearest(name, known)
    return f"; did you mean {' or '.join(prefix + each for each in close)}?" if close else ""
