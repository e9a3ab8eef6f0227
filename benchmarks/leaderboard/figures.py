"""Figures of the leaderboard's page: SVG by matplotlib in the colours of the page, reproducible to the byte."""

import html
import io
import re
import statistics
import warnings

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.leaderboard.summary import Board, Entry, Summary
from benchmarks.leaderboard.words import GAPS

# Drawn in these colours, which the page's style sheet then replaces: light and dark pages share a figure.
INK, SOFT, GOOD, OTHER, BAND, ORIGINAL, STRIPE = (f"#01010{digit}" for digit in range(1, 8))
VARIABLES = dict(zip((INK, SOFT, GOOD, OTHER, BAND, ORIGINAL, STRIPE),
                     ("ink", "soft", "good", "other", "band", "original", "stripe"), strict=True))  # fmt: skip
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9.5, "axes.linewidth": 0.6, "axes.edgecolor": SOFT,
    "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT, "axes.labelcolor": SOFT, "axes.titlesize": 9.5,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.minor.size": 0, "ytick.minor.size": 0,
}  # fmt: skip
TICKS = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 3)]
# Sizes in units of the page: figures are as wide as a telephone's screen and grow with it.
WIDTH, NAMES, ROW, HEAD, FOOT = 400, 112, 13.5, 20, 32
PANELS, LONGEST = 4, 19


def overview(summary: Summary) -> str:
    """AvgGap of every method on every forget set, a panel each: which method for which request."""
    boards = [board for board in summary.boards if _gaps(board)]
    if not boards:
        return ""
    names, across = _order(boards), min(len(boards), PANELS)
    down = -(-len(boards) // across)
    height = down * (len(names) * ROW + HEAD + FOOT)
    with rc_context(STYLE):
        figure = _figure(WIDTH, height)
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        edges = {"left": NAMES / WIDTH, "right": 0.99, "bottom": FOOT / height, "top": 1 - HEAD / height}
        figure.subplots_adjust(**edges, wspace=0.06, hspace=(HEAD + FOOT) / (len(names) * ROW))
        for axes in grid.flat[len(boards) :]:
            axes.set_visible(False)
        for axes, board in zip(grid.flat, boards, strict=False):
            _overview_panel(axes, board, names)
        return _svg(figure, "overview", "AvgGap of each method on each forget set; the tables below hold the figures")


def _overview_panel(axes: Axes, board: Board, names: list[str]) -> None:
    _rows(axes, names)
    axes.set_title(_cut(board.forget), color=INK, pad=4)
    axes.set_xlabel("AvgGap", labelpad=1)
    low = _gap_scale(axes.xaxis, board)
    axes.axvspan(low, max(board.floor or low, low), color=BAND, linewidth=0)
    if board.original_gap is not None:
        axes.axvline(max(board.original_gap, low), color=ORIGINAL, linewidth=1, linestyle=(0, (3, 2)))
    for entry in board.methods:
        gap, place = entry.values.get("avg_gap"), names.index(entry.method)
        if gap is None:
            continue
        at, sd = max(gap.mean, low), gap.sd or 0
        axes.plot([max(at - sd, low), at + sd], [place, place], color=SOFT, linewidth=0.7)
        axes.plot(at, place, **_marker(entry, board))
        if entry.rank == 1:
            colour, right = _marker(entry, board)["color"], at > (low * axes.get_xlim()[1]) ** 0.5
            axes.annotate(f"{gap.mean:.2f}", (at, place), (-4 if right else 4, 3), textcoords="offset points",
                          ha="right" if right else "left", color=colour, weight="bold", fontsize=8.5)  # fmt: skip


def cost_figure(board: Board, name: str) -> str:
    """AvgGap against seconds in per cent of retraining; labelled are the methods that no other beats in both."""
    points = [(100 * entry.mean("share.seconds"), entry.mean("avg_gap"), entry) for entry in board.methods
              if {"share.seconds", "avg_gap"} <= set(entry.values)]  # fmt: skip
    if not points:
        return ""
    with rc_context(STYLE):
        figure = _figure(WIDTH, 260)
        axes = figure.add_axes((0.1, 0.14, 0.87, 0.83))
        low = _gap_scale(axes.yaxis, board)
        axes.set_xscale("log")
        costs = [cost for cost, _, _ in points]
        axes.set_xlim(max(min(costs), 1e-3) / 1.5, max(costs) * 2)
        _ticks(axes.xaxis)
        axes.set_xlabel("seconds, % of retraining", labelpad=1)
        axes.set_ylabel("AvgGap", labelpad=1)
        axes.axhspan(low, max(board.floor or low, low), color=BAND, linewidth=0)
        if board.original_gap is not None:
            axes.axhline(max(board.original_gap, low), color=ORIGINAL, linewidth=1, linestyle=(0, (3, 2)))
        ranked = [(cost, gap) for cost, gap, entry in points if not entry.mark]
        for cost, gap, entry in points:
            axes.plot(cost, max(gap, low), **_marker(entry, board))
            beaten = any(other != (cost, gap) and other[0] <= cost and other[1] <= gap for other in ranked)
            if not entry.mark and not beaten:
                axes.annotate(_cut(entry.method), (cost, max(gap, low)), (5, -3), textcoords="offset points")
        return _svg(figure, f"cost-{name}", "AvgGap against seconds in per cent of retraining")


def gaps_figure(board: Board, name: str) -> str:
    """Signed gaps of the four figures of AvgGap, with the noise floor of each: which one is off, and which way."""
    entries = [entry for entry in board.methods if any(f"gap.{figure}" in entry.values for figure, _, _ in GAPS)]
    if not entries:
        return ""
    height = len(entries) * ROW + HEAD + FOOT
    with rc_context(STYLE):
        figure = _figure(WIDTH, height)
        grid = figure.subplots(1, len(GAPS), sharey=True)
        figure.subplots_adjust(NAMES / WIDTH, FOOT / height, 0.99, 1 - HEAD / height, wspace=0.06)
        for axes, (key, title, scale) in zip(grid, GAPS, strict=True):
            _rows(axes, [entry.method for entry in entries])
            axes.set_title(title, color=INK, pad=4)
            axes.set_xscale("symlog", linthresh=1)
            found = [entry.mean(f"gap.{key}") for entry in entries]
            most = 1.5 * max([3, *(abs(scale * gap) for gap in found if gap is not None)])
            axes.set_xlim(-most, most)
            ticks = [tick for tick in (1, 10, 100) if tick < most]
            axes.set_xticks([*(-tick for tick in ticks[-1:]), 0, *ticks[-1:]])
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
            floor = scale * board.floors.get(key, 0)
            axes.axvspan(-floor, floor, color=BAND, linewidth=0)
            axes.axvline(0, color=SOFT, linewidth=0.6)
            for place, (entry, gap) in enumerate(zip(entries, found, strict=True)):
                if gap is not None:
                    axes.plot(scale * gap, place, **_marker(entry, board))
        return _svg(figure, f"gaps-{name}", "Signed gaps to the retrained models")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width / 72, height / 72))


def _rows(axes: Axes, names: list[str]) -> None:
    """A striped line for each method, the first one at the top."""
    axes.set_yticks(range(len(names)), map(_cut, names), color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for place in range(0, len(names), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=STRIPE, linewidth=0, zorder=0)


def _gap_scale(axis, board: Board) -> float:
    """A logarithmic axis for AvgGap; gives its lower end, at which smaller gaps are drawn."""
    gaps = [*_gaps(board), *filter(None, (board.floor, board.original_gap))]
    low, high = max(min(gaps), 0.02) / 1.6, max(*gaps, 0.1) * 1.6
    axis._set_axes_scale("log")
    axis._set_lim(low, high, auto=False)
    _ticks(axis)
    return low


def _ticks(axis) -> None:
    low, high = axis.get_view_interval()
    axis.set_ticks([tick for tick in TICKS if low <= tick <= high])
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _marker(entry: Entry, board: Board) -> dict:
    """Filled: ranked, coloured within the noise floor; hollow: did nothing; a cross: over budget or not judged."""
    if entry.mark and entry.mark != "did nothing":
        return {"marker": "x", "markersize": 4.5, "color": SOFT}
    colour = GOOD if entry.within(board.floor) else SOFT if entry.mark else OTHER
    face = "none" if entry.mark else colour
    return {"marker": "o", "markersize": 7 if entry.rank == 1 else 5, "color": colour, "markerfacecolor": face}


def _order(boards: list[Board]) -> list[str]:
    """Methods by their mean place over the forget sets, the best first."""
    places: dict[str, list[int]] = {}
    for board in boards:
        for place, entry in enumerate(board.methods):
            places.setdefault(entry.method, []).append(place)
    return sorted(places, key=lambda name: statistics.fmean(places[name]))


def _gaps(board: Board) -> list[float]:
    return [entry.mean("avg_gap") for entry in board.methods if "avg_gap" in entry.values]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an element of the page: no size of its own, variables for colours, no identifier twice."""
    file = io.StringIO()
    with rc_context({"svg.hashsalt": name}), warnings.catch_warnings(action="ignore", category=UserWarning):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    attributes = f'role="img" aria-label="{html.escape(label)}"'
    text = re.sub(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', rf"<svg \1 {attributes}>", text)
    text = re.sub(r'\bid="', f'id="{name}-', text).replace("url(#", f"url(#{name}-")
    text = text.replace('xlink:href="#', f'href="#{name}-')
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", text)
