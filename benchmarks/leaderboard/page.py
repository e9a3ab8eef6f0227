"""The leaderboard's page: one file that loads nothing, complete without JavaScript."""

import html
import re
from pathlib import Path

from benchmarks.leaderboard.figures import cost_figure, gaps_figure, overview
from benchmarks.leaderboard.summary import Board, Entry, Summary
from benchmarks.leaderboard.words import (
    MARKS,
    MISSING,
    READING,
    Column,
    all_columns,
    answer,
    counts_sentence,
    environment_lines,
    floor_sentences,
)

PARTS = Path(__file__).parent / "page"


def html_page(summary: Summary, title: str, command: str, top5: bool = False) -> str:
    """The page: sentences and a figure that answer which method for which request, then a section a forget set."""
    sections = enumerate(summary.boards)
    contents = {
        "title": html.escape(title),
        "style": (PARTS / "style.css").read_text(),
        "script": (PARTS / "sort.js").read_text(),
        "counts": html.escape(counts_sentence(summary)),
        "answers": "\n".join(_answer(index, board) for index, board in enumerate(summary.boards)),
        "overview": overview(summary),
        "reading": html.escape(READING),
        "marks": html.escape(MARKS),
        "command": html.escape(command),
        "environments": "<br>".join(map(html.escape, environment_lines(summary))) or MISSING,
        "sections": "\n".join(_section(index, board, top5) for index, board in sections),
    }
    # In one pass, so that a name in the contents is never taken for a place of the template.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: contents[found[1]], (PARTS / "page.html").read_text())


def _answer(index: int, board: Board) -> str:
    lead, rest = map(html.escape, answer(board))
    return f'<li><a href="#set-{index}">{html.escape(board.forget)}</a> <b>{lead}</b> {rest}</li>'


def _section(index: int, board: Board, top5: bool) -> str:
    """One forget set: its table, whose references are not sorted, and two figures."""
    shown = all_columns(board, top5)
    heads = "".join(f'<th scope="col" title="{html.escape(column.note)}">{html.escape(column.title)}</th>'
                    for column in shown)  # fmt: skip
    references = "\n".join(_row(entry, shown, board) for entry in board.entries if entry.kind != "method")
    methods = "\n".join(_row(entry, shown, board) for entry in board.methods)
    name = html.escape(board.forget)
    return f"""<section id="set-{index}">
<h2>Forget set {name}</h2>
<p>{html.escape(floor_sentences(board))} Mean ± sample standard deviation over n seeds.</p>
<div class="scroll" role="region" aria-label="Table of {name}" tabindex="0"><table>
<thead><tr><th scope="col">#</th><th scope="col">method</th>{heads}<th scope="col">n</th></tr></thead>
<tbody>{references}</tbody>
<tbody class="methods">{methods}</tbody>
</table></div>
<div class="pair">
{_drawing("Gap against cost; left and below is better", cost_figure(board, str(index)))}
{_drawing("Signed gaps in points, method minus retrained; zero is best", gaps_figure(board, str(index)))}
</div>
</section>"""


def _drawing(caption: str, drawing: str) -> str:
    return f"<figure><figcaption>{caption}</figcaption>{drawing}</figure>" if drawing else ""


def _row(entry: Entry, shown: list[Column], board: Board) -> str:
    mark = f" <small>{entry.mark}</small>" if entry.mark else ""
    level = ' class="level"' if entry.within(board.floor) else ""
    cells = "".join(_cell(column, entry, level if column.name == "avg_gap" else "") for column in shown)
    name = html.escape(entry.method).replace("_", "_<wbr>")
    kind = "unranked" if entry.mark else entry.kind
    rank = f' data-value="{entry.rank}"' if entry.rank else ""
    return f'<tr class="{kind}"><td{rank}>{entry.rank or ""}</td><th scope="row">{name}{mark}</th>{cells}' \
           f'<td data-value="{entry.seeds}">{entry.seeds}</td></tr>'  # fmt: skip


def _cell(column: Column, entry: Entry, attributes: str) -> str:
    mean, sd = column.text(entry)
    value = column.mean(entry)
    attributes += "" if value is None else f' data-value="{value:.6g}"'
    return f"<td{attributes}>{mean}{f'<small> ± {sd}</small>' if sd else ''}</td>"
