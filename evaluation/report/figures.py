"""Figures of a run by matplotlib: SVG drawings for the page, a PNG of the losses, a grid of images for TensorBoard."""

import contextlib
import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from helper_functions.files import whole_file
from helper_functions.run_folder import read_scalars

WIDTH, HEIGHT = 340, 210
# By the CSS variable of the page that replaces the colour, so that a drawing follows light and dark mode.
COLOURS = {
    "forget": "#b34600", "test": "#0062a0", "retrained": "#006b50", "ink": "#1d2329", "soft": "#545e69",
    "line": "#d5dae0",
}  # fmt: skip
MODELS = {"original": ("Before", "forget"), "unlearned": ("After", "test"),
          "retrained": ("Retrained without them", "retrained")}  # fmt: skip
# Of the dial, by title: figures, their names, and how they are drawn.
DIAL = {
    "Accuracy on the images to forget, %": [("forget_top1", "images to forget", ("o-", "forget"))],
    "Accuracy lost, points": [("retain_fall", "retained images", ("o-", "test")),
                              ("held_out_fall", "images that no model has learned", ("s--", "forget"))],
}  # fmt: skip
STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 12,
    "axes.labelsize": 12, "xtick.labelsize": 12, "ytick.labelsize": 12, "figure.dpi": 72,
    "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False, "axes.spines.bottom": False,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": COLOURS["line"],
    "axes.labelcolor": COLOURS["soft"], "xtick.labelcolor": COLOURS["soft"], "ytick.labelcolor": COLOURS["soft"],
    "text.color": COLOURS["soft"], "xtick.bottom": False, "ytick.left": False, "axes.formatter.useoffset": False,
}  # fmt: skip


@contextlib.contextmanager
def drawing_style() -> Iterator[None]:
    """Our style on top of matplotlib's defaults, independent of the user's matplotlibrc; warnings are off."""
    from matplotlib import style

    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _axes(left: float = 0.14):
    from matplotlib.figure import Figure

    # Fixed margins: fitted ones depend on the fonts of the machine.
    return Figure((WIDTH / 72, HEIGHT / 72)).add_axes((left, 0.2, 0.97 - left, 0.75))


def _svg(axes, name: str, title: str, description: str) -> str:
    """A drawing as an `svg` element of a page: `name` is unique on it, a screen reader reads title and description.

    One version of matplotlib always writes the same bits.
    """
    import matplotlib

    for artist in axes.figure.findobj():
        artist.set_clip_on(False)
    file, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        axes.figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    drawn = re.sub(r".*<svg[^>]*>\s*<defs>.*?</defs>|</svg>\s*$", "", file.getvalue(), count=2, flags=re.S)
    # Ids that no marker refers to are not unique on the page.
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    for variable, colour in COLOURS.items():
        drawn = drawn.replace(colour, f"var(--{variable})")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-text">{html.escape(description)}</desc>{drawn}</svg>'
    )


def loss_drawings(histograms: dict) -> list[tuple[str, str]]:
    """Title and SVG of the losses of each model that `loss_histograms` gives."""
    edges = histograms["edges"]
    shown = {name: histograms[name] for name in MODELS if histograms.get(name)}
    highest = max((share for parts in shown.values() for shares in parts.values() for share in shares), default=1.0)
    drawings = []
    for name, parts in shown.items():
        title = MODELS[name][0]
        axes = _axes()
        _draw_losses(axes, parts, edges)
        axes.set_ylim(0, 1.05 * max(highest, 1.0))
        below = sum(edge <= 1 for edge in edges[1:])
        told = ", ".join(f"{sum(shares[:below]):.0f} % of the {part} images" for part, shares in parts.items())
        told = f"Histogram of each image's loss on a logarithmic axis. A loss below 1: {told}."
        drawings.append((title, _svg(axes, f"losses-{name}", f"Losses, {title.lower()}", told)))
    return drawings


def _draw_losses(axes, parts: dict[str, Sequence[float]], edges: Sequence[float]) -> None:
    """Forget images as an area, test images as a line."""
    if "forget" in parts:
        axes.stairs(parts["forget"], edges, fill=True, alpha=0.35, color=COLOURS["forget"], label="forget")
    if "test" in parts:
        axes.stairs(parts["test"], edges, color=COLOURS["test"], linewidth=2, label="test")
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), xlabel="loss")
    powers = 10.0 ** np.arange(math.ceil(math.log10(edges[0]) - 1e-9), math.floor(math.log10(edges[-1])) + 1, 2)
    axes.set_xticks(powers, [f"{power:g}" for power in powers])
    axes.minorticks_off()
    axes.locator_params(axis="y", nbins=4)


def attack_drawing(models: dict[str, dict], names: dict[str, str]) -> str | None:
    """AUC of each attack with its 95 % interval, before, after and retrained; None where no attack was run.

    `models` are figures by name of the model, `names` titles of attacks by their figure.
    """
    rows = [(attack, [m for m in MODELS if models.get(m, {}).get(attack) is not None]) for attack in names]
    rows = [(attack, shown) for attack, shown in rows if shown]
    if not rows:
        return None
    told = [
        f"{names[attack]}, {MODELS[model][0].lower()}: {models[model][attack]:.3f}"
        for attack, shown in rows for model in shown
    ]  # fmt: skip
    axes, level = _axes(left=0.03), 0
    axes.axvline(0.5, color=COLOURS["ink"], linestyle="--", linewidth=1.4)
    for attack, shown in rows:
        axes.text(0, level, names[attack], color=COLOURS["ink"], verticalalignment="center")
        for level, model in enumerate(shown, level + 1):  # noqa: B020
            value, low, high = (models[model].get(f"{attack}{end}") for end in ("", "_low", "_high"))
            colour = COLOURS[MODELS[model][1]]
            if None not in (low, high):
                axes.hlines(level, low, high, color=colour, linewidth=2)
            axes.plot([value], [level], "o", color=colour, markersize=7)
        level += 1
    axes.set(xlim=(0, 1), ylim=(level - 0.3, -0.7), xlabel="AUC: 0.5 is chance", yticks=[])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    return _svg(axes, "attacks", "Attacks with their 95 % intervals", "; ".join(told) + ".")


def trace_drawings(report: dict) -> list[tuple[str, str]]:
    """Title and SVG of the run: accuracy lost, constraint violation, multiplier, penalty coefficient."""
    trace, budget, chosen = report["trace"], report["verdict"]["retain_budget"], report["forget"]["chosen_epoch"]
    panels = [
        ("falls", "Accuracy lost, points", _pairs(trace["epochs"], "retain_fall"),
         (budget, f"budget {budget:g}")),
        ("violation", "Constraint violation, points", _pairs(trace["intervals"], "violation"), (0, "satisfied below")),
        ("multiplier", "Multiplier", _pairs(trace["intervals"], "multiplier"), None),
        ("penalty", "Penalty coefficient", _pairs(trace["intervals"], "penalty_coefficient"), None),
    ]  # fmt: skip
    drawings = []
    for name, title, points, line in panels:
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        axes = _axes()
        axes.plot(steps, values, "o-" if name == "falls" else "-", color=COLOURS["test"], linewidth=1.8, markersize=6)
        if name == "falls":
            axes.plot(*zip(*_pairs(trace["epochs"], "held_out_fall"), strict=True), "s--", color=COLOURS["forget"])
        if name == "falls" and chosen is not None and chosen <= len(points):
            ring = {"markerfacecolor": "none", "markeredgecolor": COLOURS["ink"], "markersize": 10}
            axes.plot(steps[chosen - 1], values[chosen - 1], "o", markeredgewidth=2, **ring)
        if line is not None:
            axes.axhline(line[0], color=COLOURS["ink"], linestyle="--", linewidth=1.4)
            place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
            axes.annotate(line[1], (1, line[0]), (0, 3), horizontalalignment="right", **place)
        axes.set_xlabel("gradient steps")
        axes.margins(y=0.12)
        axes.locator_params(nbins=5)
        told = f"From {values[0]:.3g} at step {steps[0]} to {values[-1]:.3g} at step {steps[-1]}."
        drawings.append((title, _svg(axes, f"trace-{name}", title, told)))
    return drawings


def _pairs(columns: dict[str, list], name: str) -> list[tuple[float, float]]:
    pairs = zip(columns["step"], columns[name], strict=False)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def dial_drawings(points: list[dict]) -> list[tuple[str, str]]:
    """Title and SVG of the line from the original to the unlearned weights, as `unlearning.dial` measures it."""
    drawings = []
    for number, title in enumerate(DIAL):
        axes = _axes()
        _draw_dial(axes, points, number)
        told = "; ".join(f"{point['share']:g}: {point[DIAL[title][0][0]]:.3g}" for point in points)
        drawings.append((title, _svg(axes, f"dial-{number}", title, f"By share of the line: {told}.")))
    return drawings


def draw_dial(points: list[dict]):
    """The same as one figure of two panels."""
    from matplotlib.figure import Figure

    with drawing_style():
        figure = Figure((9, 3.4), layout="constrained")
        for number, (axes, title) in enumerate(zip(figure.subplots(1, 2), DIAL, strict=True)):
            _draw_dial(axes, points, number)
            axes.set_title(title)
            axes.legend([label for _, label, _ in DIAL[title]])
    return figure


def _draw_dial(axes, points: list[dict], panel: int) -> None:
    for name, _, (marks, colour) in list(DIAL.values())[panel]:
        values = [point[name] for point in points]
        axes.plot([point["share"] for point in points], values, marks, color=COLOURS[colour], linewidth=1.8)
    axes.set_xlabel("share of the line from the original to the end of the run")


def draw_losses(path: Path, histograms: dict) -> None:
    """Losses of forget and test images as `loss_histograms` gives them, one panel a model, written as a PNG."""
    from matplotlib.figure import Figure

    models = [name for name in histograms if name != "edges"]
    with drawing_style():
        figure = Figure((4 * len(models), 3), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
        for axes, model in zip(panels, models, strict=True):
            _draw_losses(axes, histograms[model], histograms["edges"])
            axes.set(title=model, xlabel="")
        figure.supxlabel("cross-entropy on the given label (≤ 0.0001 leftmost)", fontsize="medium")
        panels[0].set_ylabel("% of the images")
        panels[0].legend()
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)


def draw_student(folder: Path, teacher: float):
    """A student's top-1 by epoch beside its teacher's on validation images, and the AUC; also as student.png."""
    from matplotlib.figure import Figure

    with drawing_style():
        figure = Figure((9, 3.4), layout="constrained")
        accuracy, auc = figure.subplots(1, 2)
        found = read_scalars(folder)
        for part, marks, colour in (("retain", "s--", "forget"), ("validation", "o-", "test")):
            values = found[f"student/{part}/top1"][1]
            epochs = range(1, len(values) + 1)
            accuracy.plot(epochs, values, marks, color=COLOURS[colour], label=f"student, {part} images")
        accuracy.axhline(teacher, color=COLOURS["ink"], linestyle="--", label="teacher, validation images")
        accuracy.set(title="Accuracy, %", xlabel="epoch")
        accuracy.legend()
        auc.plot(epochs, found["student/discriminator/auc"][1], "o-", color=COLOURS["test"])
        auc.axhline(0.5, color=COLOURS["ink"], linestyle="--")
        auc.set(title="Discriminator's AUC; 0.5 is chance", xlabel="epoch")
        with whole_file(folder / "student.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    return figure


def draw_images(images: Tensor, classes: Sequence[str], given: list[int], before: list[int], after: list[int]):
    """A grid of images, uint8 `[n, C, H, W]`, each with its given label and both models' predictions, `[n]` each."""
    from matplotlib.figure import Figure

    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    figure = Figure((2.2 * columns, 2.3 * rows), layout="constrained")
    panels = np.ravel(figure.subplots(rows, columns))
    for axes in panels:
        axes.axis("off")
    for axes, image, label, old, new in zip(panels, images, given, before, after, strict=False):
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray")
        # A class may be named like a formula.
        axes.set_title(f"given {classes[label]}\n{classes[old]} → {classes[new]}", fontsize=8, parse_math=False)
    return figure
