"""Figures of an attack's scores: AUC with its interval, true positives at few false ones, the tenth found best."""

import math

import numpy as np
import torch
from torch import Tensor

from contrastive_discrimination.held_out import Auc, Fold, auc, resampled_auc

RESAMPLES = 2000
FALSE_POSITIVE_RATE = 0.01
INTERVAL = (0.025, 0.975)
# Of fewer images on each side, a half has no tenth.
FEWEST_FOR_TENTH = 20


def auc_with_interval(members: Tensor, others: Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Auc:
    """AUC of scores that are higher for members, with its 95 % bootstrap interval over images.

    Percentile bootstrap, stratified by members and others (Efron 1979). For scores that were not fitted to the judged
    images, `[P]` and `[Q]`, at least one each; cross-validated attacks use `auc_of`. NaN where a score is not finite.
    """
    value, resampled = _resampled(members, others, seed, resamples)
    return Auc(value, *interval_of(resampled)) if math.isfinite(value) else Auc(math.nan, math.nan, math.nan)


def auc_difference(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], seed: int = 0, resamples: int = RESAMPLES
) -> Auc:
    """AUC of the first scores minus that of the second, from -1 to 1, with its 95 % interval, paired by image.

    Each is a pair of members `[P]` and others `[Q]`, the same images in the same order; as `auc_with_interval`.
    """
    # One seed draws the same images for both.
    (one, drawn), (other, beside) = (_resampled(*scores, seed, resamples) for scores in (first, second))
    value = one - other
    return Auc(value, *interval_of(drawn - beside)) if math.isfinite(value) else Auc(math.nan, math.nan, math.nan)


def _resampled(members: Tensor, others: Tensor, seed: int, resamples: int) -> tuple[float, Tensor]:
    """An AUC and those of its resamples; NaN and none where a score is not finite."""
    members, others = members.double().cpu().contiguous(), others.double().cpu().contiguous()
    value = auc(members, others).item()
    if not math.isfinite(value):
        return value, torch.zeros(0, dtype=torch.float64)
    ids = np.arange(len(members)), np.arange(len(others))
    return value, resampled_auc((members, others), ids, resamples, torch.Generator().manual_seed(seed))


def interval_of(resampled: Tensor) -> tuple[float, float]:
    """The ends of the 95 % percentile interval of resampled figures, float64 `[count]`."""
    low, high = resampled.quantile(torch.tensor(INTERVAL, dtype=torch.float64)).tolist()
    return low, high


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, in per cent, from `hits` of `count` (Clopper and Pearson 1934); 0 to 100 of none."""
    from scipy.stats import beta

    low = 0.0 if hits == 0 else beta.ppf(0.025, hits, count - hits + 1)
    high = 1.0 if hits == count else beta.ppf(0.975, hits + 1, count - hits)
    return 100 * float(low), 100 * float(high)


def worst_tenth(members: Tensor, others: Tensor, seed: int = 0) -> Auc | None:
    """Of the tenth of the images that an attack is surest of, the share that are members, in percent; 50 is chance.

    A tenth of one half of the members exceeds a threshold; the images of the *other* half of both sides that reach it
    are counted, and the other way round: whoever is chosen is not measured, so that chance stays at chance. The
    interval is that of the share. An average hides a few images that are found with certainty (Carlini et al. 2022,
    section III, for the argument).

    Scores are higher for members, `[P]` each, the same number on both sides. None for fewer than `FEWEST_FOR_TENTH`,
    where a score is not finite, and where no image reaches the thresholds.
    """
    if len(members) < FEWEST_FOR_TENTH or not torch.cat([members, others]).isfinite().all():
        return None
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed))
    halves = [(members[half], others[half]) for half in order.to(members.device).tensor_split(2)]
    found = false = 0
    for (chosen, _), (measured, beside) in (halves, halves[::-1]):
        threshold = chosen.sort(descending=True).values[round(len(chosen) / 10) - 1]
        found, false = found + int((measured >= threshold).sum()), false + int((beside >= threshold).sum())
    if found + false == 0:
        return None
    return Auc(100 * found / (found + false), *share_interval(found, found + false))


def joined_scores(folds: list[Fold]) -> tuple[Tensor, Tensor]:
    """Scores of all folds on one scale, float64 `[P]` and `[Q]`: the share of its fold that lies below, ties by half.

    Each fold's attacker has a scale of its own.
    """
    sides: tuple[list[Tensor], list[Tensor]] = [], []
    for fold in folds:
        ranked = torch.cat(fold.scores).sort().values
        for side, scores in zip(sides, fold.scores, strict=True):
            below, up_to = (torch.searchsorted(ranked, scores.contiguous(), right=right) for right in (False, True))
            side.append((below + up_to).double() / (2 * len(ranked)))
    return torch.cat(sides[0]), torch.cat(sides[1])


def tpr_at_fpr(members: Tensor, others: Tensor, rate: float = FALSE_POSITIVE_RATE) -> float:
    """Highest share of members, in percent, above a threshold that at most `rate` of the others exceed.

    Scores are `[P]` and `[Q]`, higher for members; `rate` is from 0 to below 1. Scores that are all equal give 0.
    Source: Carlini et al. 2022, section III.
    """
    # Rounded, as 0.01 x 700 is 7.000000000000001 or less in floating point.
    allowed = math.floor(round(rate * len(others), 9))
    threshold = others.sort(descending=True).values[allowed]
    return 100 * (members > threshold).double().mean().item()


def auc_figures(name: str, found: Auc | None) -> dict[str, float | None]:
    """`name`, `name_low` and `name_high` of an AUC; None where it is missing or not finite."""
    values = (None, None, None) if found is None else (found.value, found.low, found.high)
    finite = [None if value is None or not math.isfinite(value) else value for value in values]
    return dict(zip((name, f"{name}_low", f"{name}_high"), finite, strict=True))
