"""Figures of a run, by matplotlib, which is imported when the first is drawn."""

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


def draw_losses(path: Path, losses: dict[str, dict[str, Tensor]]) -> None:
    """Histograms of per-image losses on forget and test images, one panel a model, written as a PNG.

    Args:
        path: of the PNG.
        losses: model name to part name to losses `[n]`.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(losses), figsize=(4 * len(losses), 3), sharey=True, layout="constrained")
    largest = max(float(parts[name].max()) for parts in losses.values() for name in COLOURS)
    bins = np.geomspace(SMALLEST_LOSS, max(largest, 10 * SMALLEST_LOSS), 31)
    for axis, (model, parts) in zip(np.atleast_1d(axes), losses.items(), strict=True):
        for part, colour in COLOURS.items():
            # In float32 the smallest edge would lie above itself, and the first bin stay empty.
            values = parts[part].double().clamp(min=SMALLEST_LOSS).numpy()
            weights = np.full(len(values), 100 / len(values))
            axis.hist(values, bins, weights=weights, alpha=0.6, color=colour, label=part)
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
