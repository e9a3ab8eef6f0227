"""The leaderboard's page: tables as they stand without JavaScript, and the data that its charts are drawn from."""

import html
import json
import math
import re
from pathlib import Path

from benchmarks.leaderboard.rows import shared_flags
from benchmarks.leaderboard.summary import Board, Entry, Spread, Summary
from benchmarks.leaderboard.words import (
    MISSING,
    Column,
    columns,
    counts_sentence,
    environment_lines,
    figure_digits,
    figure_title,
    filled,
    floor_sentences,
    label,
)  # fmt: skip

PARTS = Path(__file__).parent / "page"
# In this order: each uses what stands before it.
SCRIPTS = ("drawing.js", "charts.js", "costs.js", "gaps.js", "panels.js", "board.js")
DIGITS = 4
# A trace keeps at most this many steps, evenly spaced: more cannot be told apart on a screen.
TRACE_POINTS = 120


def html_page(summary: Summary, title: str, command: str, top5: bool = False) -> str:
    """The page: one file that loads nothing else."""
    floors = "".join(f"<li>{html.escape(line)}</li>" for line in environment_lines(summary))
    contents = {
        "title": html.escape(title),
        "style": (PARTS / "style.css").read_text(),
        "counts": html.escape(counts_sentence(summary)),
        "command": html.escape(command),
        "environments": floors or f"<li>{MISSING}</li>",
        "sets": "\n".join(_link(index, board) for index, board in enumerate(summary.boards)),
        "boards": "\n".join(_section(index, board, top5) for index, board in enumerate(summary.boards)),
        "data": embedded(page_data(summary)),
        "script": "\n".join((PARTS / name).read_text() for name in SCRIPTS),
    }
    # In one pass, so that what stands in the data is never taken for a place of the template.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: contents[found[1]], (PARTS / "page.html").read_text())


def embedded(data: object) -> str:
    """JSON that can stand in a <script> element: no character in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def page_data(summary: Summary) -> dict:
    """What the charts need, in numbers of four significant digits.

    A figure is `[mean, standard deviation, gap, "seeds inside the band/seeds"]`, a cost `[mean, standard deviation,
    share of retraining's]`. `flags` are those that all methods share on all forget sets; an entry has its others.
    """
    methods = [entry for board in summary.boards for entry in board.entries if entry.kind == "method"]
    common = shared_flags([entry.flags for entry in methods])
    names = {name: None for board in summary.boards for entry in board.entries for name in entry.figures}
    return {
        "titles": {name: figure_title(name) for name in names},
        "digits": {name: figure_digits(name) for name in names},
        "flags": _texts(common),
        "sets": [_board_data(board, common) for board in summary.boards],
    }


def _board_data(board: Board, common: dict) -> dict:
    return {
        "name": board.forget,
        "floor": _short(board.floor),
        "floors": _short(board.floors),
        "bands": _short({name: board.bands[name] for name in ("forget_top1", "retain_top1") if name in board.bands}),
        "budgets": _short(board.budgets),
        "retrained": board.retrained,
        "entries": [_entry_data(entry, common) for entry in board.entries],
    }


def _entry_data(entry: Entry, common: dict) -> dict:
    figures = {
        name: [*_pair(value), _short(entry.gaps[name].mean) if name in entry.gaps else None,
               "{}/{}".format(*entry.inside[name]) if name in entry.inside else None]
        for name, value in entry.figures.items()
    }  # fmt: skip
    trace = entry.shown.get("trace")
    return {
        "method": entry.method,
        "kind": entry.kind,
        "within": entry.within_budget,
        "label": label(entry),
        "rank": entry.rank,
        "seeds": entry.seeds,
        "kept": entry.kept,
        "avgGap": _pair(entry.avg_gap),
        "figures": figures,
        "costs": {name: [*_pair(cost), _short(entry.relative.get(name))] for name, cost in entry.costs.items()},
        "flags": _texts({name: value for name, value in entry.flags.items() if name not in common}),
        "histograms": _short(entry.shown.get("histograms")),
        "trace": _short({name: _thinned(values) for name, values in trace.items() if values}) if trace else None,
        "shownSeed": entry.shown.get("seed"),
    }


def _texts(flags: dict) -> dict[str, str]:
    return {name: str(value) for name, value in flags.items()}


def _pair(value: Spread | None) -> list[float | None] | None:
    return [_short(value.mean), _short(value.sd)] if value else None


def _thinned(values: list) -> list:
    if len(values) <= TRACE_POINTS:
        return values
    return [values[round(index * (len(values) - 1) / (TRACE_POINTS - 1))] for index in range(TRACE_POINTS)]


def _short(value: object) -> object:
    """Numbers to four significant digits, whole ones as integers; what is no number, as null."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _link(index: int, board: Board) -> str:
    return f'<a href="#set-{index}" data-set="{index}">{html.escape(board.forget)}</a>'


def _section(index: int, board: Board, top5: bool) -> str:
    """One forget set's heading and table; the lines of references come in a body of their own, which is not sorted."""
    shown = filled(columns(top5), board)
    heads = [
        _head("rank", "#", "Place among the methods that kept the budget in every seed", True, True),
        _head("method", "method", "", True, True),
        *(_head(column.key, column.title, column.note, column.ascending, column.chosen) for column in shown),
    ]
    rows = [(entry.kind, _row(place, entry, board, shown)) for place, entry in enumerate(board.entries)]
    references = "\n".join(row for kind, row in rows if kind != "method")
    methods = "\n".join(row for kind, row in rows if kind == "method")
    name = html.escape(board.forget)
    return f"""<section class="set" id="set-{index}" aria-labelledby="name-{index}">
<h2 id="name-{index}">Forget set <q>{name}</q></h2>
<p>{html.escape(floor_sentences(board))}</p>
<div class="scroll" role="region" aria-label="Table of {name}" tabindex="0"><table>
<thead><tr>{"".join(heads)}</tr></thead>
<tbody class="references">{references}</tbody>
<tbody class="methods">{methods}</tbody>
</table></div>
</section>"""


def _head(key: str, title: str, note: str, ascending: bool, chosen: bool) -> str:
    attributes = f' title="{html.escape(note)}"' if note else ""
    attributes += "" if chosen else " hidden"
    order = "ascending" if ascending else "descending"
    return f'<th scope="col" data-key="{key}" data-first="{order}"{attributes}>{html.escape(title)}</th>'


def _row(place: int, entry: Entry, board: Board, shown: list[Column]) -> str:
    mark = f'<small class="mark">{label(entry)}</small>' if label(entry) else ""
    kind = f"{entry.kind} over" if entry.within_budget is False else entry.kind
    cells = "".join(_cell(column, entry, board) for column in shown)
    name = html.escape(entry.method).replace("_", "_<wbr>")
    return (
        f'<tr class="{kind}" data-entry="{place}"><td data-value="{place}">{entry.rank or ""}</td>'
        f'<th scope="row"><span class="name">{name}</span>{mark}</th>{cells}</tr>'
    )


def _cell(column: Column, entry: Entry, board: Board) -> str:
    value = column.read(entry)
    mean, _, deviation = column.cell(entry).partition(" ± ")
    text = f"{mean}<small> ± {deviation}</small>" if deviation else mean
    attributes = "" if value is None else f' data-value="{_short(value.mean)}"'
    if column.key == "avg_gap" and value and board.floor and entry.kind == "method" and value.mean <= board.floor:
        text = f'<abbr title="Not above the noise floor: no win over another retrained model">≈</abbr> {text}'
    return f"<td{attributes}{'' if column.chosen else ' hidden'}>{text}</td>"
