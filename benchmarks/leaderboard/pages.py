"""The leaderboard as CSV (one line a cell), as Markdown (a table for each forget set) and as a page for a browser."""

import csv
import html
import io
import re
from contextlib import ExitStack
from pathlib import Path

from benchmarks.leaderboard.html import html_page
from benchmarks.leaderboard.rows import cell_gaps, flags_of, relative_cost, retrained_models
from benchmarks.leaderboard.summary import COSTS, Board, Summary, summarise
from benchmarks.leaderboard.words import (
    columns,
    counts_sentence,
    environment_lines,
    filled,
    floor_sentences,
    label,
)  # fmt: skip
from evaluation.gaps import mean_figures
from helper_functions.files import whole_file

_GROUPS = ("gap", "verdict", "cost", "share", "original", "retrained", "retrained_cost", "config", "environment")
_READING = (
    "Mean ± sample standard deviation over n seeds; accuracies in per cent, gaps in points. AvgGap: mean absolute gap "
    "to the same seed's retrained models over forget, retain and test accuracy and 100 × MIA AUC; it hides which of "
    "them is off, and in which direction. Ranked are the methods that kept the retain budget in every seed; "
    "a gap below the noise floor is no win."
)


def write_pages(rows: list[dict], folder: Path, title: str, command: str, top5: bool = False) -> None:
    """Write leaderboard.csv, leaderboard.md and leaderboard.html into `folder`, each whole or not at all.

    Args:
        rows: cells, as in results.jsonl.
        command: the command line that made them, shown on the pages.
        top5: whether top-5 accuracy stands beside top-1.

    Raises:
        OSError: a file cannot be written.
    """
    summary = summarise(rows)
    texts = {
        "leaderboard.csv": csv_text(rows),
        "leaderboard.md": markdown(summary, title, command, top5),
        "leaderboard.html": html_page(summary, title, command, top5),
    }
    with ExitStack() as stack:
        for name, text in texts.items():
            # Bytes: Windows would turn the line ends of CSV, which are \r\n already, into \r\r\n.
            stack.enter_context(whole_file(Path(folder) / name)).write_bytes(text.encode())


def csv_text(rows: list[dict]) -> str:
    """One line a cell: its figures by name; all else with a prefix, as in `gap.`, `original.`, `cost.`, `config.`.

    `retrained.` figures are means over the cell's retrained models, and `gap.` figures are the distance to them;
    `share.` is a cost over retraining's.
    """
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for line in flat for name in line))
    head = ["forget", "method", "seed", "key"]
    # Figures before flags, and each group together, although a later cell may bring names that the first lacks.
    order = sorted(names, key=lambda name: _GROUPS.index(name.partition(".")[0]) if "." in name else -1)
    file = io.StringIO()
    writer = csv.DictWriter(file, [*head, *(name for name in order if name not in head)], restval="")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def _flat(row: dict) -> dict[str, object]:
    models = retrained_models(row)
    groups = {**row, "gap": cell_gaps(row), "config": flags_of(row)}
    groups["retrained"] = {**mean_figures(models), "n": len(models)}
    groups["share"] = {name: relative_cost(row, name) for name in COSTS}
    line = {name: row.get(name) for name in ("forget", "method", "seed", "key")} | dict(row.get("figures") or {})
    for group in _GROUPS:
        line |= {f"{group}.{name}": value for name, value in (groups.get(group) or {}).items()}
    return line


def markdown(summary: Summary, title: str, command: str, top5: bool = False) -> str:
    """A table for each forget set, references first, with noise floor, budget, hardware and command."""
    parts = [f"# {_escaped(title)}", f"{counts_sentence(summary)} {_READING}", _fenced(command)]
    parts += [_escaped(line) for line in environment_lines(summary)]
    for board in summary.boards:
        parts += [f"## {_escaped(board.forget)}", "\n".join(_table(board, top5)), _escaped(floor_sentences(board))]
    return "\n\n".join(parts) + "\n"


def _table(board: Board, top5: bool) -> list[str]:
    shown = [column for column in filled(columns(top5), board) if column.chosen]
    lines = [_line(["#", "method", *(column.title for column in shown)]), "|---:|---|" + "---:|" * len(shown)]
    for entry in board.entries:
        name = _escaped(entry.method) if entry.kind == "method" else f"*{entry.kind}*"
        mark = f" ({label(entry)})" if label(entry) else ""
        lines.append(_line([str(entry.rank or ""), name + mark, *(column.cell(entry) for column in shown)]))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text that means itself in Markdown, in a table's cell, too."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str) -> str:
    """A code block; its fence is longer than any in the text."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
