"""KLoM: do unlearned models' margins on an image vary as those of retrained models do?"""

from torch import Tensor

from evaluation.attacks.lira import OWN_VARIANCE_FROM, VARIANCE_FLOOR

PERCENTILE = 0.95


def klom(unlearned: Tensor, retrained: Tensor) -> float:
    """95th percentile over images of the KL divergence between margin distributions, retrained to unlearned, in nats.

    An image's margins over the models of a side are taken for Gaussian, as in U-LiRA: with fewer than
    `OWN_VARIANCE_FROM` models a side has one variance, pooled over images about their own means. Models of one
    distribution have about 1.92 (1/N + 1/M). Source: Georgiev et al. 2024 (arXiv 2410.23232), with histograms of
    100 models in place of Gaussians.

    Args:
        unlearned: margins log(p / (1 - p)) of the label under each unlearned model, `[N, n]`, N at least 2.
        retrained: the same under each retrained model, `[M, n]`, M at least 2.
    """
    (mean, variance), (of_retrained, variance_retrained) = _gaussians(unlearned), _gaussians(retrained)
    ratio = variance_retrained / variance
    divergence = (ratio - 1 - ratio.log() + (of_retrained - mean).square() / variance) / 2
    return divergence.quantile(PERCENTILE).item()


def _gaussians(margins: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each image, `[n]`."""
    margins = margins.double()
    mean, variance = margins.mean(0), margins.var(0)
    if len(margins) < OWN_VARIANCE_FROM:
        variance = variance.mean().expand_as(mean)
    return mean, variance.clamp(min=VARIANCE_FLOOR)


def by_unlearned(confidences: Tensor, unlearned: Tensor) -> tuple[Tensor, Tensor]:
    """Confidences `[N, T]` of shadow models by image: of those that unlearned it and those that never saw it.

    `unlearned` is bool `[N, T]`, true for a half of each column; both are `[N / 2, T]`.
    """
    columns, count = unlearned.T, len(unlearned) // 2
    return tuple(confidences.T[chosen].reshape(-1, count).T for chosen in (columns, ~columns))
