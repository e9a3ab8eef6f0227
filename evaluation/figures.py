"""Figures of a run, by matplotlib, which is imported when the first is drawn."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from helper_functions.files import whole_file

SMALLEST_LOSS = 1e-4
COLOURS = {"forget": "#d1495b", "test": "#2e4057"}


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def loss_edges(losses: dict[str, dict[str, Tensor]]) -> np.ndarray:
    """Edges `[31]` of bins for all forget and test losses of some models, evenly spaced on a logarithmic scale."""
    maxima = [float(parts[name].max()) for parts in losses.values() for name in COLOURS if name in parts]
    largest = max((value for value in maxima if math.isfinite(value)), default=1.0)
    return np.geomspace(SMALLEST_LOSS, max(largest, 10 * SMALLEST_LOSS), 31)


def loss_histograms(losses: dict[str, dict[str, Tensor]]) -> dict:
    """How per-image losses are distributed: `edges`, and for each model and part the share in each bin, in per cent.

    Args:
        losses: model name to part name to losses `[n]`; parts other than forget and test are left out.
    """
    edges = loss_edges(losses)
    shares = {
        model: {part: _shares(parts[part], edges).tolist() for part in COLOURS if part in parts}
        for model, parts in losses.items()
    }
    return {"edges": edges.tolist(), **shares}


def _shares(losses: Tensor, edges: np.ndarray) -> np.ndarray:
    # In float32 the smallest edge would lie above itself, and the first bin stay empty.
    values = losses.double().clamp(min=SMALLEST_LOSS).clamp(max=float(edges[-1])).numpy()
    return 100 * np.histogram(values, edges)[0] / len(values)


def draw_losses(path: Path, losses: dict[str, dict[str, Tensor]]) -> None:
    """Histograms of per-image losses on forget and test images, one panel a model, written as a PNG.

    Args:
        path: of the PNG.
        losses: model name to part name to losses `[n]`.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(losses), figsize=(4 * len(losses), 3), sharey=True, layout="constrained")
    edges = loss_edges(losses)
    for axis, (model, parts) in zip(np.atleast_1d(axes), losses.items(), strict=True):
        for part, colour in COLOURS.items():
            if part in parts:
                axis.stairs(_shares(parts[part], edges), edges, fill=True, alpha=0.6, color=colour, label=part)
        axis.set(xscale="log", title=model, xlabel="cross-entropy on the given label (≤ $10^{-4}$ leftmost)")
    np.atleast_1d(axes)[0].set_ylabel("% of the images")
    np.atleast_1d(axes)[0].legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    pyplot.close(figure)


def draw_images(images: Tensor, classes: Sequence[str], given: list[int], before: list[int], after: list[int]):
    """A grid of forgotten images: the given label, what the original named it, what it is named now.

    Args:
        images: uint8 `[n, C, H, W]`.
        classes: names.
        given, before, after: class numbers, `[n]` each.
    """
    pyplot = _pyplot()
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.2 * columns, 2.3 * rows), layout="constrained")
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, image, label, old, new in zip(np.ravel(axes), images, given, before, after, strict=False):
        pixels = image.permute(1, 2, 0).numpy()
        axis.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray")
        axis.set_title(f"given {classes[label]}\n{classes[old]} → {classes[new]}", fontsize=8)
    return figure
