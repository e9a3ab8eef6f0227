"""KLoM: do unlearned models' margins on an image vary as those of retrained models do?"""

import torch
from torch import Tensor

from evaluation.attacks.lira import fit_gaussians

PERCENTILE = 0.95


def klom(unlearned: Tensor, retrained: Tensor) -> float:
    """95th percentile over images of the KL divergence between margin distributions, retrained to unlearned, in nats.

    Margins log(p / (1 - p)) of the label are `[N, n]` of unlearned and `[M, n]` of retrained models, N and M at least
    2. An image's margins over the models of a side are taken for Gaussian, as in U-LiRA (`fit_gaussians`). Models of
    one distribution have about 1.92 (1/N + 1/M). Source: Georgiev et al. 2024 (arXiv 2410.23232), with histograms of
    100 models in place of Gaussians.
    """
    (mean, variance), (of_retrained, variance_retrained) = (
        fit_gaussians(side.double(), torch.ones_like(side, dtype=torch.bool)) for side in (unlearned, retrained)
    )
    ratio = variance_retrained / variance
    divergence = (ratio - 1 - ratio.log() + (of_retrained - mean).square() / variance) / 2
    return divergence.quantile(PERCENTILE).item()


def by_unlearned(confidences: Tensor, unlearned: Tensor) -> tuple[Tensor, Tensor]:
    """Confidences `[N, T]` of shadow models by image: of those that unlearned it and those that never saw it.

    `unlearned` is bool `[N, T]`, true for a half of each column; both are `[N / 2, T]`.
    """
    columns, count = unlearned.T, len(unlearned) // 2
    return tuple(confidences.T[chosen].reshape(-1, count).T for chosen in (columns, ~columns))
