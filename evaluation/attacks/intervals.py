"""Figures of an attack's scores: area under the ROC curve with its interval, true positives at few false ones."""

import math

import numpy as np
import torch
from torch import Tensor

from contrastive_discrimination.held_out import Auc, auc, resampled_auc

RESAMPLES = 2000
FALSE_POSITIVE_RATE = 0.01
INTERVAL = (0.025, 0.975)


def auc_with_interval(members: Tensor, others: Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Auc:
    """AUC of scores that are higher for members, with its 95 % bootstrap interval over images.

    Percentile bootstrap, stratified by members and others (Efron 1979). For scores that were not fitted to the judged
    images, `[P]` and `[Q]`, at least one each; cross-validated attacks use `auc_of`. NaN where a score is not finite.
    """
    members, others = members.double().cpu().contiguous(), others.double().cpu().contiguous()
    value = auc(members, others).item()
    if not math.isfinite(value):
        return Auc(math.nan, math.nan, math.nan)
    ids = np.arange(len(members)), np.arange(len(others))
    generator = torch.Generator().manual_seed(seed)
    resampled = resampled_auc((members, others), ids, resamples, generator)
    return Auc(value, *resampled.quantile(torch.tensor(INTERVAL, dtype=torch.float64)).tolist())


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
