"""The leaderboard as CSV (one line a cell), as Markdown (a table for each forget set) and as a page for a browser."""

import csv
import html
import io
import re
from contextlib import ExitStack
from pathlib import Path

from benchmarks.leaderboard import words
from benchmarks.leaderboard.figures import overview
from benchmarks.leaderboard.summary import GROUPS, Board, Entry, line_of, summarise
from helper_functions.files import whole_file

# Template, style and script of the page.
PARTS = Path(__file__).parent / "page"


def write_pages(rows: list[dict], folder: Path, title: str, command: str, top5: bool = False) -> None:
    """Write leaderboard.csv, leaderboard.md and leaderboard.html of cells into `folder`, each whole or not at all."""
    texts = {
        "leaderboard.csv": csv_text(rows),
        "leaderboard.md": markdown(rows, title, command, top5),
        "leaderboard.html": html_page(rows, title, command, top5),
    }
    with ExitStack() as stack:
        for name, text in texts.items():
            # Bytes: Windows would turn the line ends of CSV, which are \r\n already, into \r\r\n.
            stack.enter_context(whole_file(Path(folder) / name)).write_bytes(text.encode())


def csv_text(rows: list[dict]) -> str:
    """One line a cell, as `line_of`: figures before groups, although a later cell may bring further names."""
    lines = list(map(line_of, rows))
    names = dict.fromkeys(name for line in lines for name in line)
    order = sorted(names, key=lambda name: GROUPS.index(name.partition(".")[0]) if "." in name else -1)
    file = io.StringIO()
    writer = csv.DictWriter(file, order, restval="")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def markdown(rows: list[dict], title: str, command: str, top5: bool = False) -> str:
    """A table for each forget set, references first, with noise floor, budget, hardware, versions and command."""
    parts = [
        f"# {_escaped(title)}",
        f"{words.counts_sentence(rows)} Means over seeds; ± is the sample standard deviation.",
    ]
    parts += [words.READING, _fenced(command), *map(_escaped, words.environment_lines(rows))]
    for board in summarise(rows):
        sentences = _escaped(" ".join((*words.answer(board), words.floor_sentences(board))))
        parts += [f"## {_escaped(board.forget)}", sentences, "\n".join(_table(board, top5))]
    return "\n\n".join(parts) + "\n"


def _table(board: Board, top5: bool) -> list[str]:
    shown = words.columns(board, top5, every=False)
    heads = ["#", "method", "n", *(column.title for column in shown)]
    lines = []
    for entry in (*board.references, *board.methods):
        name = _escaped(entry.method) if entry.kind == "method" else f"*{entry.kind}*"
        texts = [(column.name, *column.text(entry)) for column in shown]
        cells = [f"{mean} ± {sd}" if sd and column == "avg_gap" else mean for column, mean, sd in texts]
        mark = f" ({entry.mark})" if entry.mark else ""
        lines.append([str(entry.rank or ""), name + mark, str(entry.seeds), *cells])
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *lines))
    return [head, "|---:|---|" + "---:|" * (len(heads) - 2), *body]


def _escaped(text: str) -> str:
    """Text that means itself in Markdown, in a cell of a table as well."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str) -> str:
    """A code block; its fence is longer than any in the text."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


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
