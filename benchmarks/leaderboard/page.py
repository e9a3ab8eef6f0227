"""The leaderboard's page: one file that loads nothing, complete without JavaScript."""

import html
import re
from pathlib import Path

from benchmarks.leaderboard import words
from benchmarks.leaderboard.figures import overview
from benchmarks.leaderboard.summary import Board, Entry, summarise

PARTS = Path(__file__).parent / "page"


def html_page(rows: list[dict], title: str, command: str, top5: bool = False) -> str:
    """The page: sentences and a figure that answer which method for which request, then a section a forget set."""
    boards = summarise(rows)
    contents = {
        "title": html.escape(title),
        "style": (PARTS / "style.css").read_text(),
        "script": (PARTS / "sort.js").read_text(),
        "counts": html.escape(words.counts_sentence(rows)),
        "answers": "\n".join(_answer(index, board) for index, board in enumerate(boards)),
        "overview": overview(boards),
        "reading": html.escape(words.READING),
        "command": html.escape(command),
        "environments": "<br>".join(map(html.escape, words.environment_lines(rows))),
        "sections": "\n".join(_section(index, board, top5) for index, board in enumerate(boards)),
    }
    # In one pass, so that a name in the contents is never taken for a place of the template.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: contents[found[1]], (PARTS / "page.html").read_text())


def _answer(index: int, board: Board) -> str:
    lead, rest = map(html.escape, words.answer(board))
    return f'<li><a href="#set-{index}">{html.escape(board.forget)}</a> <b>{lead}</b> {rest}</li>'


def _section(index: int, board: Board, top5: bool) -> str:
    """One forget set: its table, whose references are not sorted."""
    shown, name = words.columns(board, top5), html.escape(board.forget)
    heads = "".join(f'<th scope="col" title="{html.escape(column.note)}">{html.escape(column.title)}</th>'
                    for column in shown)  # fmt: skip
    return f"""<section id="set-{index}">
<h2>Forget set {name}</h2>
<p>{html.escape(words.floor_sentences(board))} Mean ± sample standard deviation over n seeds.</p>
<div class="scroll" role="region" aria-label="Table of {name}" tabindex="0"><table>
<thead><tr><th scope="col">#</th><th scope="col">method</th>{heads}<th scope="col">n</th></tr></thead>
<tbody>{"".join(_row(entry, shown, board) for entry in board.references)}</tbody>
<tbody class="methods">{"".join(_row(entry, shown, board) for entry in board.methods)}</tbody>
</table></div>
</section>"""


def _row(entry: Entry, shown: list[words.Column], board: Board) -> str:
    mark = f" <small>{entry.mark}</small>" if entry.mark else ""
    name = html.escape(entry.method).replace("_", "_<wbr>")
    kind = "unranked" if entry.mark else "level" if board.level(entry) else entry.kind
    rank = f' data-value="{entry.rank}"' if entry.rank else ""
    cells = "".join(_cell(column, entry) for column in shown)
    return f'\n<tr class="{kind}"><td{rank}>{entry.rank or ""}</td><th scope="row">{name}{mark}</th>{cells}' \
           f'<td data-value="{entry.seeds}">{entry.seeds}</td></tr>'  # fmt: skip


def _cell(column: words.Column, entry: Entry) -> str:
    (mean, sd), value = column.text(entry), entry.mean(column.name)
    attributes = "" if value is None else f' data-value="{value:.6g}"'
    return f"<td{attributes}>{mean}{f'<small> ± {sd}</small>' if sd else ''}</td>"
