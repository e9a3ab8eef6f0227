"""The AUC of a freshly fitted discriminator on held-out pairs (a classifier two-sample test)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.pairs import Pairs
from helper_functions.errors import UserError
from helper_functions.training.devices import seeded

# Numbers in one chunk of resamples: 32 MiB in float64.
CHUNK = 2**22
# Passes of a critic over its training pairs, its least number of steps, and pairs in one.
PASSES, FEWEST_STEPS, BATCH_SIZE = 6, 40, 256
FOLDS = 5


@dataclass(frozen=True)
class Auc:
    """An area under the ROC curve, or a figure like it, and its 95 % interval; all NaN where scores are not finite."""

    value: float
    low: float
    high: float


def auc(scores_same: Tensor, scores_different: Tensor) -> Tensor:
    """Probability that a *same* pair scores higher than a *different* one, ties counting half; a 0-d tensor.

    The Mann–Whitney statistic (Hanley and McNeil 1982) of `[P]` and `[Q]`; NaN where any score is not finite.
    """
    ranked = scores_different.sort().values
    below, up_to = (torch.searchsorted(ranked, scores_same.contiguous(), right=right) for right in (False, True))
    area = (below + up_to).sum() / (2 * len(scores_same) * len(scores_different))
    finite = scores_same.isfinite().all() & scores_different.isfinite().all()
    return torch.where(finite, area, math.nan)


def _deal_folds(ids: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Fold of each pair, one array a kind: each image is in one fold, and a kind's images are spread evenly."""
    same, different = (np.unique(kind) for kind in ids)
    for name, images in (("same", same), ("different", different)):
        if len(images) < FOLDS:
            raise UserError(f"{len(images)} images in pairs of the kind {name}: {FOLDS} folds need as many or more")
    both = np.intersect1d(same, different)
    # Each kind is dealt to the folds in turn: first the shared images, then its own.
    parts = [rng.permutation(part) for part in (both, np.setdiff1d(same, both), np.setdiff1d(different, both))]
    starts = (0, len(both), len(both))
    fold_of = {
        image: (start + place) % FOLDS
        for start, part in zip(starts, parts, strict=True)
        for place, image in enumerate(part.tolist())
    }
    return [np.array([fold_of[image] for image in kind.tolist()]) for kind in ids]


def _resample_weights(ids: np.ndarray, count: int, generator: torch.Generator) -> Tensor:
    """Multiplicity of each pair in each of `count` resamples of its kind's images, float64 `[count, N]`."""
    images, image_of = np.unique(ids, return_inverse=True)
    draws = torch.randint(len(images), (count, len(images)), generator=generator)
    times = torch.zeros(count, len(images), dtype=torch.float64)
    times.scatter_add_(1, draws, torch.ones_like(times))
    return times[:, torch.from_numpy(image_of)]


def resampled_auc(scores: Pairs, ids: tuple[np.ndarray, np.ndarray], count: int, generator: torch.Generator) -> Tensor:
    """AUCs of `count` bootstrap resamples, float64 `[count]`, the images of each kind drawn with replacement."""
    same, different = scores
    order = different.argsort()
    below, up_to = (torch.searchsorted(different[order], same, right=right) for right in (False, True))
    found, chunk = [], max(1, CHUNK // (len(same) + len(different)))
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        weights_same, weights_different = (_resample_weights(kind, size, generator) for kind in ids)
        # Column i is the weight of the i lowest scores of *different*.
        cumulative = F.pad(weights_different[:, order].cumsum(1), (1, 0))
        wins = (weights_same * (cumulative[:, below] + cumulative[:, up_to])).sum(1) / 2
        found.append(wins / (weights_same.sum(1) * cumulative[:, -1]))
    return torch.cat(found)


def _fit(critic: Critic, same: Pairs, different: Pairs, steps: int) -> None:
    """Train on random minibatches, half of each kind; a solved discriminator is solved once, on all pairs."""
    if critic.is_solved:
        critic.learn(same, different)
        return
    drawn = [torch.randint(len(kind[0]), (steps, BATCH_SIZE // 2)).to(same[0].device) for kind in (same, different)]
    for rows in zip(*drawn, strict=True):
        critic.learn(*[(first[i], second[i]) for (first, second), i in zip((same, different), rows, strict=True)])


@dataclass(frozen=True, eq=False)
class Fold:
    """Scores of one fold's held-out pairs, *same* `[p]` and *different* `[q]`, and ids of their images; on the CPU."""

    scores: Pairs
    images: tuple[np.ndarray, np.ndarray]


def held_out_scores(
    build: Callable[[], Critic],
    same: Pairs,
    different: Pairs,
    *,
    groups: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> list[Fold]:
    """Scores of held-out pairs by a freshly fitted critic, fold by fold; arguments as of `held_out_auc`."""
    counts = len(same[0]), len(different[0])
    if groups is None:
        groups = torch.arange(counts[0]), torch.arange(counts[0], sum(counts))
    ids = groups[0].cpu().numpy(), groups[1].cpu().numpy()
    steps = max(FEWEST_STEPS, PASSES * sum(counts) // BATCH_SIZE)
    fold_of, found = _deal_folds(ids, np.random.default_rng(seed)), []
    for fold in range(FOLDS):
        held_out = [kind == fold for kind in fold_of]
        masks = [torch.from_numpy(mask).to(same[0].device) for mask in held_out]
        learned = [(a[~mask], b[~mask]) for (a, b), mask in zip((same, different), masks, strict=True)]
        with seeded(seed * FOLDS + fold, same[0].device):
            critic = build()
            _fit(critic, *learned, steps)
        with torch.no_grad():
            judged = [critic.judge(a[mask], b[mask]) for (a, b), mask in zip((same, different), masks, strict=True)]
        # The one transfer of a fold.
        scores = tuple(kind.cpu().double() for kind in judged)
        found.append(Fold(scores, tuple(kind[mask] for kind, mask in zip(ids, held_out, strict=True))))
    return found


def mean_auc(folds: list[Fold]) -> float:
    """Mean over folds of the AUC; NaN where a score is not finite."""
    return float(np.mean([auc(*fold.scores).item() for fold in folds]))


def resampled_folds(folds: list[Fold], seed: int, count: int) -> Tensor:
    """`mean_auc` of `count` resamples, float64 `[count]`, drawn and widened as the interval of `held_out_auc` is.

    Folds of the same images and one seed are resampled alike, so that differences between models are paired.
    """
    generator, value = torch.Generator().manual_seed(seed), mean_auc(folds)
    resampled = sum(resampled_auc(fold.scores, fold.images, count, generator) / len(folds) for fold in folds)
    return value + math.sqrt(1 + len(folds) / (len(folds) - 1)) * (resampled - value)


def auc_of(folds: list[Fold], seed: int = 0, bootstrap: int = 1000) -> Auc:
    """Mean over folds of the AUC, with the interval of `held_out_auc`."""
    value = mean_auc(folds)
    if not math.isfinite(value):
        return Auc(math.nan, math.nan, math.nan)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = resampled_folds(folds, seed, bootstrap).quantile(ends).tolist()
    return Auc(value, max(0.0, low), min(1.0, high))


def held_out_auc(
    build: Callable[[], Critic], same: Pairs, different: Pairs, *, seed: int = 0, bootstrap: int = 1000, **options
) -> Auc:
    """Mean over stratified folds of the AUC of a freshly fitted critic on held-out pairs; 0.5 is ideal.

    A classifier two-sample test (Lopez-Paz and Oquab 2017, section 3) with AUC in place of accuracy. The interval is
    the percentile bootstrap over images, drawn within each fold and kind, and widened for the variance of the critics,
    whose training sets overlap (Nadeau and Bengio 2003, section 3). The same seed gives the same figures; global
    generators keep their state.

    Args:
        build: gives a new critic on the device of the pairs; called once a fold.
        same: first and second outputs, `[P, D]` each.
        different: the same, `[Q, D]` each.
        seed: of folds, critics, minibatches and resamples.
        bootstrap: resamples, at least 1.
        options: of `held_out_scores`. `groups`: integer ids `[P]` and `[Q]` of each pair's image, shared by both kinds;
            no image is in both the training and the held-out pairs; by default, each pair has its own image.

    Raises:
        UserError: a kind with fewer images than folds.
    """
    return auc_of(held_out_scores(build, same, different, seed=seed, **options), seed, bootstrap)
