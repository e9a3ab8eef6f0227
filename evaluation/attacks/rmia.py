"""RMIA: membership by pairwise likelihood ratios against the population, with a few reference models."""

import torch
from torch import Tensor

# a: reference models trained on an image give it a probability of about p_in = a p_out + 1 - a.
OFFLINE_A = 1 / 3


def rmia_scores(
    targets: Tensor, population: Tensor, target_references: Tensor, population_references: Tensor
) -> Tensor:
    """Membership scores, from 0 to 1: the share of the population that an image's likelihood ratio exceeds.

    Offline RMIA with gamma 1: an image's ratio is its probability under the judged model over its average probability
    p(x) = ((1 + a) p_out(x) + 1 - a) / 2, where p_out is the mean over reference models that never saw it. Source:
    Zarifzadeh et al. 2024, equations 2 to 4 and appendix B.2.2 (offline).

    Args:
        targets: log-probability of each target's label under the judged model, `[P]`.
        population: the same of images that no model saw, `[Z]`, at least one.
        target_references: the same as `targets` under the reference models, `[R, P]`, at least one model.
        population_references: as `population`, `[R, Z]`.

    Returns:
        float64 `[P]`, on the CPU.
    """
    ratios = _log_ratios(targets, target_references)
    ranked = _log_ratios(population, population_references).sort().values
    return torch.searchsorted(ranked, ratios.contiguous()).double() / len(ranked)


def _log_ratios(own: Tensor, references: Tensor) -> Tensor:
    """Logarithms of p(x | judged) / p(x), float64 `[N]`, which do not underflow."""
    absent = references.double().cpu().exp().mean(0)
    return own.double().cpu() - (((1 + OFFLINE_A) * absent + 1 - OFFLINE_A) / 2).log()
