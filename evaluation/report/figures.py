"""Figures of a report as small SVG drawings, whose colours are those of the page, light or dark."""

import math
from collections.abc import Sequence

from evaluation.report.html import text

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
TITLES = {"original": "Before", "unlearned": "After", "retrained": "Retrained without them"}
Points = list[tuple[float, float]]


class Plot:
    """A drawing with axes: what is added to it is in the units of the data.

    Args:
        x: lowest and highest value, and whether the axis is logarithmic.
        y: lowest and highest value.
    """

    def __init__(self, x: tuple[float, float, bool], y: tuple[float, float]) -> None:
        self.low, self.high, self.logarithmic = x
        self.bottom, self.top = y
        self.parts: list[str] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value stands, in units of the drawing."""
        scale = math.log10 if self.logarithmic else float
        low, high, at = scale(self.low), scale(self.high), scale(x)
        across = (at - low) / (high - low) if high > low else 0.5
        up = (y - self.bottom) / (self.top - self.bottom) if self.top > self.bottom else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    def path(self, points: Points, kind: str, *, closed: bool = False) -> None:
        """A line through points, or an area."""
        places = [self.place(*point) for point in points]
        steps = "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
        self.parts.append(f'<path class="{kind}" d="M{steps}{"Z" if closed else ""}"/>')

    def dots(self, points: Points, kind: str) -> None:
        """A dot at each point."""
        for across, down in (self.place(*point) for point in points):
            self.parts.append(f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="3.5"/>')

    def across(self, y: float, kind: str, label: str = "") -> None:
        """A line across the drawing, with a label above its right end."""
        self.path([(self.low, y), (self.high, y)], kind)
        _, down = self.place(self.low, y)
        self.label(WIDTH - RIGHT, down - 4, label, "end")

    def label(self, across: float, down: float, label: str, anchor: str = "middle", kind: str = "") -> None:
        """Text at a place of the drawing."""
        if label:
            chosen = f' class="{kind}"' if kind else ""
            place = f'x="{across:.1f}" y="{down:.1f}" text-anchor="{anchor}"'
            self.parts.append(f"<text{chosen} {place}>{text(label)}</text>")

    def ticks(self, x: dict[float, str], y: dict[float, str], x_title: str) -> None:
        """Labels of both axes, lines across at those of the vertical one."""
        for value, label in y.items():
            _, down = self.place(self.low, value)
            self.parts.append(f'<path class="gridline" d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}"/>')
            self.label(LEFT - 6, down + 4, label, "end")
        for value, label in x.items():
            across, _ = self.place(value, self.bottom)
            self.label(across, HEIGHT - BOTTOM + 15, label)
        self.label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_title)

    def svg(self, name: str, title: str, description: str) -> str:
        """The whole drawing, with what a screen reader says of it."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-text">'
            f'<title id="{name}-title">{text(title)}</title><desc id="{name}-text">{text(description)}</desc>'
            f"{''.join(self.parts)}</svg>"
        )


def round_ticks(low: float, high: float, most: int = 5) -> dict[float, str]:
    """Round numbers from `low` to `high`, at most so many and one more."""
    if not high > low:
        return {low: f"{low:g}"}
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return {n * step: f"{n * step:.6g}" for n in range(first, math.floor(high / step + 1e-9) + 1)}


def loss_panels(histograms: dict) -> list[tuple[str, str]]:
    """Title and drawing of the losses of each model: forget images as an area, test images as a line."""
    edges = histograms["edges"]
    shown = {name: histograms[name] for name in TITLES if histograms.get(name)}
    highest = max((share for parts in shown.values() for shares in parts.values() for share in shares), default=1.0)
    return [(TITLES[name], _losses(name, parts, edges, max(highest, 1.0) * 1.05)) for name, parts in shown.items()]


def _losses(name: str, parts: dict[str, list[float]], edges: Sequence[float], highest: float) -> str:
    plot = Plot((edges[0], edges[-1], True), (0, highest))
    powers = range(math.ceil(math.log10(edges[0]) - 1e-9), math.floor(math.log10(edges[-1])) + 1)
    plot.ticks({10.0**power: f"{10.0**power:g}" for power in powers[::2]}, round_ticks(0, highest, 4), "loss")
    for part, kind in (("forget", "forget-area"), ("test", "test-line")):
        if part in parts:
            outline = [(edge, share) for i, share in enumerate(parts[part]) for edge in edges[i : i + 2]]
            plot.path([(edges[0], 0), *outline, (edges[-1], 0)], kind, closed=part == "forget")
    told = ", ".join(f"{_below_one(shares, edges):.0f} % of the {part} images" for part, shares in parts.items())
    return plot.svg(
        f"losses-{name}", f"Losses, {TITLES[name].lower()}",
        f"Histogram of each image's loss on a logarithmic axis. A loss below 1 have {told}.",
    )  # fmt: skip


def _below_one(shares: Sequence[float], edges: Sequence[float]) -> float:
    """Per cent in bins that end at a loss of 1 or less, about."""
    return sum(share for share, edge in zip(shares, edges[1:], strict=False) if edge <= 1)


def attack_panel(models: dict[str, dict], names: dict[str, str]) -> str | None:
    """Each attack's AUC with its 95 % interval, before, after and retrained; None where no attack was run.

    Args:
        models: figures by name of the models.
        names: title of each attack by its figure.
    """
    rows = [
        (attack, model, models[model])
        for attack in names
        for model in TITLES
        if models.get(model, {}).get(attack) is not None
    ]
    if not rows:
        return None
    plot = Plot((0, 1, False), (0, 1))
    plot.path([(0.5, 0), (0.5, 1)], "budget")
    plot.ticks({0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1: "1"}, {}, "AUC: 0.5 is a coin's toss")
    # One more than there are: the last row keeps clear of the axis.
    told, seen, height = [], "", 1 / (len(rows) + len({attack for attack, *_ in rows}) + 1)
    level = 1.0
    for attack, model, figures in rows:
        if attack != seen:
            level, seen = level - height, attack
            plot.label(LEFT, plot.place(0, level)[1] + 4, names[attack], "start", "head")
        level -= height
        value, low, high = (figures.get(f"{attack}{end}") for end in ("", "_low", "_high"))
        if None not in (low, high):
            plot.path([(low, level), (high, level)], f"interval {model}")
        plot.dots([(value, level)], f"dot {model}")
        told.append(f"{names[attack]}, {TITLES[model].lower()}: {value:.3f}")
    return plot.svg("attacks", "Attacks with their 95 % intervals", "; ".join(told) + ".")


def trace_panels(report: dict) -> list[tuple[str, str]]:
    """Title and drawing of the course: fall of accuracy with the budget, violation while training, multiplier."""
    trace, budget = report["trace"], report["verdict"]["retain_budget"]
    epochs, intervals = trace["epochs"], trace["intervals"]
    chosen = report["forget"]["chosen_epoch"]
    panels = [("Accuracy lost after each epoch, points", _falls(_pairs(epochs, "retain_fall"), budget, chosen))]
    titles = {
        "violation": ("Violation of the budget's constraint, points", 0.0),
        "multiplier": ("Multiplier: the price of a point", None),
        "penalty_coefficient": ("Penalty coefficient", None),
    }
    for name, (title, line) in titles.items():
        if points := _pairs(intervals, name):
            panels.append((title, _course(name, title, points, line)))
    return [(title, drawing) for title, drawing in panels if drawing]


def _pairs(columns: dict[str, list], name: str) -> Points:
    pairs = zip(columns["step"], columns[name], strict=False)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _falls(points: Points, budget: float, chosen: int | None) -> str:
    if not points:
        return ""
    values = [value for _, value in points] + [0, budget]
    plot = _framed(points, values)
    plot.across(budget, "budget", f"budget {budget:g}")
    plot.path(points, "curve")
    plot.dots(points, "dot unlearned")
    if chosen is not None and chosen <= len(points):
        plot.dots([points[chosen - 1]], "ring")
    last = f"The last fall is {points[-1][1]:.2f} points, the budget {budget:g}."
    return plot.svg("falls", "Accuracy lost on the images that are kept, after each epoch", last)


def _course(name: str, title: str, points: Points, line: float | None) -> str:
    plot = _framed(points, [value for _, value in points] + ([] if line is None else [line]))
    if line is not None:
        plot.across(line, "budget", "satisfied below")
    plot.path(points, "curve")
    told = f"From {points[0][1]:.3g} at step {points[0][0]} to {points[-1][1]:.3g} at step {points[-1][0]}."
    return plot.svg(f"trace-{name}", title, told)


def _framed(points: Points, values: list[float]) -> Plot:
    """A plot over steps that has room for the values."""
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.5
    plot = Plot((min(step for step, _ in points), max(step for step, _ in points), False), (low - room, high + room))
    plot.ticks(round_ticks(plot.low, plot.high, 4), round_ticks(plot.bottom, plot.top, 4), "gradient steps")
    return plot
