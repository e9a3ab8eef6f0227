"""The leaderboard as CSV (one line a cell), as Markdown (a table for each forget set) and as a page for a browser."""

import csv
import html
import io
import re
from contextlib import ExitStack
from pathlib import Path

from benchmarks.leaderboard.page import html_page
from benchmarks.leaderboard.results import GROUPS, line_of
from benchmarks.leaderboard.summary import Board, summarise
from benchmarks.leaderboard.words import READING, answer, columns, counts_sentence, environment_lines, floor_sentences
from helper_functions.files import whole_file


def write_pages(rows: list[dict], folder: Path, title: str, command: str, top5: bool = False) -> None:
    """Write leaderboard.csv, leaderboard.md and leaderboard.html into `folder`, each whole or not at all.

    Args:
        rows: cells of `results.read_cells`.
        command: the command line that reproduces them, shown on the pages.
        top5: whether top-5 accuracy stands beside top-1.

    Raises:
        OSError: a file cannot be written.
    """
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
    """One line a cell, as `results.line_of`: figures before groups, although a later cell may bring further names."""
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
    parts = [f"# {_escaped(title)}", f"{counts_sentence(rows)} Means over seeds; ± is the sample standard deviation."]
    parts += [READING, _fenced(command), *map(_escaped, environment_lines(rows))]
    for board in summarise(rows):
        words = _escaped(" ".join((*answer(board), floor_sentences(board))))
        parts += [f"## {_escaped(board.forget)}", words, "\n".join(_table(board, top5))]
    return "\n\n".join(parts) + "\n"


def _table(board: Board, top5: bool) -> list[str]:
    shown = columns(board, top5, every=False)
    heads = ["#", "method", "n", *(column.title for column in shown)]
    lines = [heads, ["---:", "---", *["---:"] * (len(heads) - 2)]]
    for entry in (*board.references, *board.methods):
        name = _escaped(entry.method) if entry.kind == "method" else f"*{entry.kind}*"
        texts = [(column.name, *column.text(entry)) for column in shown]
        cells = [f"{mean} ± {sd}" if sd and column == "avg_gap" else mean for column, mean, sd in texts]
        mark = f" ({entry.mark})" if entry.mark else ""
        lines.append([str(entry.rank or ""), name + mark, str(entry.seeds), *cells])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _escaped(text: str) -> str:
    """Text that means itself in Markdown, in a cell of a table as well."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str) -> str:
    """A code block; its fence is longer than any in the text."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
