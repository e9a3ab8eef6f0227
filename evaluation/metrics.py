"""Metrics: pure functions of logits, labels and losses."""

import math

import numpy as np
from torch import Tensor

from contrastive_discrimination.discriminators import jensen_shannon_divergence
from evaluation.attacks.intervals import share_interval
from helper_functions.metrics import summarise

# Losses below this are in the first bin of a histogram.
SMALLEST_LOSS = 1e-4


def utility(logits: Tensor, labels: Tensor, part: str) -> dict[str, float]:
    """Figures of logits `[N, K]` on labels `[N]`, N at least 1.

    `part_top1`, with the ends `part_top1_low` and `part_top1_high` of its 95 % interval, and `part_top5` in percent;
    `part_loss` (mean cross-entropy) in nats. The interval is exact (Clopper and Pearson 1934): a bootstrap's has no
    width where all images are right.
    """
    found = summarise(logits, labels)
    low, high = share_interval(round(found["top1"] * len(labels) / 100), len(labels))
    return {f"{part}_{name}": value for name, value in {**found, "top1_low": low, "top1_high": high}.items()}


def js_divergence(first: Tensor, second: Tensor) -> float:
    """Mean Jensen-Shannon divergence between two models' predicted distributions, in nats: from 0 to log 2.

    From logits `[N, K]` of the same images. Source: Chundawat et al. 2023, section 5.
    """
    return jensen_shannon_divergence(first.double(), second.double()).mean().item()


def activation_distance(first: Tensor, second: Tensor) -> float:
    """Mean Euclidean distance between two models' softmax outputs, from 0 to the root of 2.

    From logits `[N, K]` of the same images. Source: Golatkar et al. 2021, section 5 (activation distance).
    """
    return (first.double().softmax(1) - second.double().softmax(1)).norm(dim=1).mean().item()


def loss_histograms(losses: dict[str, dict[str, Tensor]]) -> dict:
    """Histograms of losses `[n]` by model and part, of forget and test images alone.

    Gives `edges` of 30 bins, evenly spaced on a logarithmic scale, and by model and part the share of images in each
    bin, in percent.
    """
    shown = {
        model: {part: parts[part] for part in ("forget", "test") if part in parts} for model, parts in losses.items()
    }
    maxima = [float(values.max()) for parts in shown.values() for values in parts.values()]
    largest = max((value for value in maxima if math.isfinite(value)), default=1.0)
    edges = np.geomspace(SMALLEST_LOSS, max(largest, 10 * SMALLEST_LOSS), 31)
    shares = {model: {part: _shares(values, edges) for part, values in parts.items()} for model, parts in shown.items()}
    return {"edges": edges.tolist(), **shares}


def _shares(losses: Tensor, edges: np.ndarray) -> list[float]:
    # In float32 the smallest edge would lie above itself, and the first bin stay empty.
    values = losses.double().clamp(min=SMALLEST_LOSS).clamp(max=float(edges[-1])).numpy()
    return (100 * np.histogram(values, edges)[0] / len(values)).tolist()
