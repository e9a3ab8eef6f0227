"""Gaps to retrained models: signed, averaged, and whether a figure lies in the band between several retrained models.

Models are dicts of figures by name, as `evaluation.judge` returns them. Retrained ones are called `retrained`,
`retrained-2`, `retrained-3` and so on.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluation.attacks.intervals import interval_of

Figures = dict[str, float | None]

# Figures of `avg_gap` and their scales: AUC in points.
GAP_FIGURES = {"forget_top1": 1, "retain_top1": 1, "test_top1": 1, "mia_auc": 100}
# Figures of `avg_gap_salun`, as published with SalUn.
SALUN_FIGURES = ("forget_top1", "retain_top1", "test_top1", "mia_efficacy")
TUG_FIGURES = ("forget_top1", "retain_top1", "test_top1")


@dataclass(frozen=True)
class Band:
    """One figure of several retrained models: their mean, the lowest and the highest."""

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a model's figure lies within the band, its ends included."""
        return self.low <= value <= self.high


def is_retrained(name: str) -> bool:
    """Whether a model of this name is retrained."""
    return re.fullmatch(r"retrained(-\d+)?", name) is not None


def retrained_of(models: dict) -> dict:
    """The retrained models, in their order."""
    return {name: model for name, model in models.items() if is_retrained(name)}


def signed_gaps(model: Figures, retrained: Figures) -> dict[str, float]:
    """Each figure minus the retrained model's, of the figures that both have."""
    shared = [name for name in model if model[name] is not None and retrained.get(name) is not None]
    return {name: model[name] - retrained[name] for name in shared}


def avg_gap(model: Figures, retrained: Figures) -> float | None:
    """Mean absolute gap over forget, retain and test top-1 and 100 x attack AUC, in points, of those that both have.

    None where they share none. For comparison with published figures use `avg_gap_salun`.
    """
    gaps = signed_gaps(model, retrained)
    values = [abs(gaps[name]) * scale for name, scale in GAP_FIGURES.items() if name in gaps]
    return sum(values) / len(values) if values else None


def avg_gap_salun(model: Figures, retrained: Figures) -> float | None:
    """Mean absolute gap over forget, retain and test top-1 and MIA efficacy, in points (Fan et al. 2024, section 5).

    None where one of the four is missing. Comparable with published figures only on their split: all 50,000 training
    images are learned, a tenth of them forgotten.
    """
    gaps = signed_gaps(model, retrained)
    if not all(name in gaps for name in SALUN_FIGURES):
        return None
    return sum(abs(gaps[name]) for name in SALUN_FIGURES) / len(SALUN_FIGURES)


def tug_of_war(model: Figures, retrained: Figures) -> float | None:
    """ToW: the product of 1 - |gap| over forget, retain and test top-1 as shares; 1 is the retrained model itself.

    None where one of the three is missing. Source: Zhao et al. 2024 (RUM), section 3.
    """
    gaps = signed_gaps(model, retrained)
    if not all(name in gaps for name in TUG_FIGURES):
        return None
    return math.prod(1 - abs(gaps[name]) / 100 for name in TUG_FIGURES)


def bands(retrained: list[Figures]) -> dict[str, Band]:
    """The band of each figure that all of these models have, without ends of intervals; empty for fewer than two."""
    if len(retrained) < 2:
        return {}
    found = {}
    for name in retrained[0]:
        values = [figures.get(name) for figures in retrained]
        if None not in values and not name.endswith(("_low", "_high")):
            found[name] = Band(sum(values) / len(values), min(values), max(values))
    return found


def mean_figures(retrained: list[Figures]) -> Figures:
    """The reference of gaps: the mean of each figure that all of these models have, or the only model's figures."""
    if len(retrained) == 1:
        return retrained[0]
    return {name: band.mean for name, band in bands(retrained).items()}


def noise_floor(retrained: list[Figures]) -> float | None:
    """Mean AvgGap of each retrained model to the mean of the others: a gap up to this is not significant.

    None for fewer than two models, or where they share no figure of AvgGap.
    """
    if len(retrained) < 2:
        return None
    gaps = [
        avg_gap(figures, mean_figures(retrained[:place] + retrained[place + 1 :]))
        for place, figures in enumerate(retrained)
    ]
    return None if None in gaps else sum(gaps) / len(gaps)


def resampled_shares(right: Tensor, count: int, rng: np.random.RandomState) -> Tensor:
    """Shares of each row's true values in bootstrap resamples of the columns, float64 `[M, count]` of bool `[M, n]`.

    All rows share the draws, so that their differences are paired. Equal columns are drawn together, by a multinomial
    distribution, so that many images cost no more than a few.
    """
    patterns, counts = right.unique(dim=1, return_counts=True)
    drawn = rng.multinomial(right.shape[1], counts.double().numpy() / right.shape[1], count)
    return patterns.double() @ torch.from_numpy(drawn).double().T / right.shape[1]


def gap_intervals(
    models: dict[str, Figures], resampled: dict[str, dict[str, Tensor]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % percentile intervals of the gaps of each model that is not retrained, to the mean of the retrained ones.

    They hold the chance in the choice of the images; the noise floor holds that in training.

    Args:
        models: at least one of them retrained.
        resampled: by model and figure of `GAP_FIGURES`, where it has that, its values in bootstrap resamples that all
            models share, float64 `[count]`.

    Returns:
        By model and figure, the lower and the upper end; also of `avg_gap`. Resampling raises an average of absolute
        values, so that its lower end is at most the gap itself.
    """
    references, found = list(retrained_of(resampled).values()), {}
    for name, figures in resampled.items():
        shared = [figure for figure in GAP_FIGURES if all(figure in each for each in (figures, *references))]
        if is_retrained(name) or not shared:
            continue
        gaps = {each: figures[each] - torch.stack([other[each] for other in references]).mean(0) for each in shared}
        absolute = torch.stack([gap.abs() * GAP_FIGURES[figure] for figure, gap in gaps.items()])
        low, high = interval_of(absolute.mean(0))
        own = avg_gap(models[name], mean_figures([models[other] for other in retrained_of(models)]))
        found[name] = {figure: interval_of(gap) for figure, gap in gaps.items()} | {"avg_gap": (min(low, own), high)}
    return found


MEASURES = {"avg_gap": avg_gap, "avg_gap_salun": avg_gap_salun, "tug_of_war": tug_of_war}


def summarise_gaps(models: dict[str, Figures]) -> dict[str, object]:
    """The gaps in a report; empty without a retrained model.

    Returns:
        `avg_gap`, `avg_gap_salun` and `tug_of_war` by name of each other model; `retrained_models`, their number; with
        two or more of them `noise_floor`, `bands`, and `inside`: by name of a model, the figures inside the band.
    """
    retrained = list(retrained_of(models).values())
    if not retrained:
        return {}
    reference, others = mean_figures(retrained), {name: models[name] for name in models if not is_retrained(name)}
    found: dict[str, object] = {
        key: {name: measure(figures, reference) for name, figures in others.items()}
        for key, measure in MEASURES.items()
    }
    found["retrained_models"] = len(retrained)
    if len(retrained) > 1:
        band = bands(retrained)
        found |= {"noise_floor": noise_floor(retrained), "bands": band}
        found["inside"] = {
            name: [figure for figure in band if figures.get(figure) is not None and band[figure].holds(figures[figure])]
            for name, figures in others.items()
        }
    return found
