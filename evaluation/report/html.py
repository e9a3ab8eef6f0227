"""Pieces of HTML: text that is only text, tables, lists of facts."""

import html
from collections.abc import Iterable, Sequence

from evaluation.report.arguments import is_unprintable


def text(value: object) -> str:
    """A value as text of a page: escaped, what controls the text around it shown by its number."""
    return html.escape(_visible(str(value)))


def foreign(value: object) -> str:
    """The same for text that users wrote, whose direction must not reach beyond it."""
    return f"<bdi>{text(value)}</bdi>"


def code(value: object) -> str:
    """The same for digests, paths and commands."""
    return f"<code>{foreign(value)}</code>"


def _visible(value: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" if is_unprintable(letter) else letter for letter in value)


def paragraph(*sentences: str) -> str:
    """A paragraph of plain sentences."""
    return f"<p>{text(' '.join(sentences))}</p>"


def facts(pairs: Iterable[tuple[str, str | None]]) -> str:
    """A list of names and values; the values are HTML, None leaves a line out."""
    lines = "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in pairs if value is not None)
    return f'<dl class="facts">{lines}</dl>'


def bullets(lines: Iterable[str]) -> str:
    """A list of HTML lines."""
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls inside itself; cells are HTML, the first of each row its heading."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>\n'
        for first, *cells in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{text(title)}" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A part of a page by its name; empty pieces leave nothing."""
    body = "\n".join(part for part in parts if part)
    return f'<section aria-labelledby="{name}">\n<h2 id="{name}">{text(title)}</h2>\n{body}\n</section>'
