"""The leaderboard as CSV (one line a cell), as Markdown (a table for each forget set) and as a page for a browser.

The page's figure is SVG by matplotlib in the colours of the page, reproducible to the byte.
"""

import csv
import html
import io
import re
import statistics
import warnings
from contextlib import ExitStack
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.leaderboard import words
from benchmarks.leaderboard.summary import GROUPS, Board, Entry, line_of, summarise
from helper_functions.files import whole_file

PARTS = Path(__file__).parent / "page"  # template, style and script
# Drawn in these colours, for which variables of the page's style sheet stand in: light and dark pages share a figure.
INK, SOFT, GOOD, OTHER, BAND, ORIGINAL, STRIPE = COLOURS = [f"#01010{digit}" for digit in range(1, 8)]
VARIABLES = dict(zip(COLOURS, ("ink", "soft", "good", "other", "band", "original", "stripe"), strict=True))
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "leaderboard", "text.parse_math": False, "text.color": INK,
    "font.size": 9.5, "axes.linewidth": 0.6, "axes.edgecolor": SOFT, "axes.labelcolor": SOFT, "axes.titlesize": 9.5,
    "xtick.color": SOFT, "ytick.color": SOFT,
}  # fmt: skip
TICKS = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 3)]
# In pixels at the width of a telephone; the figure grows with the page.
WIDTH, NAMES, ROW, HEAD, FOOT = 400, 112, 13.5, 20, 32
PANELS, LONGEST = 4, 19


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
        mark += " *not tuned*" * (not entry.tuned)
        lines.append([str(entry.rank or ""), name + mark, str(entry.seeds), *cells])
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *lines))
    return [head, "|---:|---|" + "---:|" * (len(heads) - 2), *body]


def _escaped(text: str) -> str:
    """Text that means itself in Markdown, in a cell of a table as well."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _fenced(text: str) -> str:
    """A code block; its fence is longer than any in the text."""
    fence = max(["``", *re.findall("`+", text)], key=len) + "`"
    return f"{fence}sh\n{text}\n{fence}"


def html_page(rows: list[dict], title: str, command: str, top5: bool = False) -> str:
    """The page: sentences and a figure that answer which method for which request, then a section a forget set."""
    boards = summarise(rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        title=title, command=command, rows=rows, boards=boards, words=words, overview=Markup(overview(boards)),
        top5=top5,
    )  # fmt: skip


def overview(boards: list[Board]) -> str:
    """AvgGap of every method on every forget set, a panel each; empty without any."""
    boards = [board for board in boards if _gaps(board)]
    if not boards:
        return ""
    places = {entry.method: [] for board in boards for entry in board.methods}
    for board in boards:
        for place, entry in enumerate(board.methods):
            places[entry.method].append(place)
    names = sorted(places, key=lambda name: statistics.fmean(places[name]))
    across, rows = min(len(boards), PANELS), len(names) * ROW
    down = -(-len(boards) // across)
    height = down * (rows + HEAD + FOOT)
    with rc_context(STYLE):
        figure = Figure((WIDTH / 72, height / 72), dpi=72)
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        figure.subplots_adjust(NAMES / WIDTH, FOOT / height, 0.99, 1 - HEAD / height, 0.06, (HEAD + FOOT) / rows)
        for axes in grid.flat[len(boards) :]:
            axes.set_visible(False)
        for axes, board in zip(grid.flat, boards, strict=False):
            _panel(axes, board, names)
        return _svg(figure, "AvgGap of each method on each forget set, as in the tables below")


def _panel(axes: Axes, board: Board, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), map(_cut, names), color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for place in range(0, len(names), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=STRIPE, linewidth=0, zorder=0)
    axes.set_title(_cut(board.forget), pad=4)
    axes.set_xlabel("AvgGap", labelpad=1)
    axes.set_xscale("log")
    gaps = [*_gaps(board), *filter(None, (board.floor, board.original_gap))]
    low, high = max(min(gaps), 0.02) / 1.6, max(*gaps, 0.1) * 1.6  # smaller gaps are drawn at the lower end
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axvspan(low, max(board.floor or low, low), color=BAND, linewidth=0)
    if board.original_gap is not None:
        axes.axvline(max(board.original_gap, low), color=ORIGINAL, linewidth=1, linestyle=(0, (3, 2)))
    for entry in board.methods:
        if gap := entry.values.get("avg_gap"):
            at, place = max(gap.mean, low), names.index(entry.method)
            axes.plot([max(at - (gap.sd or 0), low), at + (gap.sd or 0)], [place, place], color=SOFT, linewidth=0.7)
            axes.plot(at, place, **_marker(entry, board))
            if entry.rank == 1:
                side, place_of_text = ("right", (-4, 3)) if at > (low * high) ** 0.5 else ("left", (4, 3))
                axes.annotate(f"{gap.mean:.2f}", (at, place), place_of_text, textcoords="offset points", ha=side,
                              color=_marker(entry, board)["color"], weight="bold", fontsize=8.5)  # fmt: skip


def _gaps(board: Board) -> list[float]:
    return [entry.mean("avg_gap") for entry in board.methods if "avg_gap" in entry.values]


def _marker(entry: Entry, board: Board) -> dict:
    """Filled: ranked, coloured within the noise floor; hollow: did nothing; a cross: over budget or not judged."""
    if entry.mark and entry.mark != "did nothing":
        return {"marker": "x", "markersize": 4.5, "color": SOFT}
    colour = GOOD if board.level(entry) else SOFT if entry.mark else OTHER
    face = "none" if entry.mark else colour
    return {"marker": "o", "markersize": 7 if entry.rank == 1 else 5, "color": colour, "markerfacecolor": face}


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _svg(figure: Figure, label: str) -> str:
    """The figure as an element of the page: without a size, with variables for colours."""
    file = io.StringIO()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # a name in letters that the font lacks
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{label}">', text)
    text = re.sub("|".join(COLOURS), lambda found: f"var(--{VARIABLES[found[0]]})", text)
    return re.sub(r"\s*\n\s*", "\n", text.replace("xlink:href", "href"))
