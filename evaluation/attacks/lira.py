"""U-LiRA: was an image trained on and unlearned, or never seen? Pure functions of shadow models' outputs."""

import torch
from torch import Tensor

from evaluation.attacks.intervals import auc_figures, auc_with_interval, tpr_at_fpr

# With fewer shadow models a side, an image's own variance is too noisy, and one variance is pooled over all images.
OWN_VARIANCE_FROM = 32
VARIANCE_FLOOR = 1e-3


def logit_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of each label's probability p, float64 `[N]` on the CPU: nearly Gaussian over models.

    Computed from logits `[N, K]`, since p may round to 1. Source: Carlini et al. 2022, section V-A.
    """
    logits, labels = logits.double().cpu(), labels.cpu()[:, None]
    others = logits.scatter(1, labels, -torch.inf)
    return logits.gather(1, labels)[:, 0] - others.logsumexp(1)


def ulira_scores(judged: Tensor, shadows: Tensor, unlearned: Tensor) -> Tensor:
    """Log-likelihood ratios: each image among those that were unlearned, against among those never seen.

    Two Gaussians an image are fitted to the shadow models' logit-scaled confidences. From `OWN_VARIANCE_FROM` shadow
    models a side on, variances are the image's own; with fewer, one variance a side is pooled over all images about
    their own means. `VARIANCE_FLOOR` is the minimum. Source: Hayes et al. 2024, algorithm 1; Carlini et al. 2022,
    section VI-B, for few shadow models.

    Args:
        judged: confidences under the judged model, `[T]`.
        shadows: under each shadow model, `[N, T]`.
        unlearned: bool `[N, T]`, whether the shadow was trained on the image and unlearned it; both values occur for
            each image, one of them at least twice.

    Returns:
        float64 `[T]`, positive where unlearned is likelier.
    """
    judged, shadows = judged.double(), shadows.double()
    return _log_likelihood(judged, shadows, unlearned) - _log_likelihood(judged, shadows, ~unlearned)


def _log_likelihood(judged: Tensor, shadows: Tensor, chosen: Tensor) -> Tensor:
    """Of the judged confidences under Gaussians fitted to the chosen shadow outputs, up to a constant; `[T]`."""
    count = chosen.sum(0).double()
    mean = (shadows * chosen).sum(0) / count
    squares = ((shadows - mean).square() * chosen).sum(0)
    if count.min() < OWN_VARIANCE_FROM:
        variance = (squares.sum() / (count - 1).sum()).expand_as(mean)
    else:
        variance = squares / (count - 1)
    variance = variance.clamp(min=VARIANCE_FLOOR)
    return -(judged - mean).square() / (2 * variance) - variance.log() / 2


def ulira_figures(scores: Tensor, forget: int, seed: int = 0) -> dict[str, float | None]:
    """Figures of scores, forget images first; 0.5, 50 and 1 are ideal.

    Args:
        scores: `[T]` of `ulira_scores`.
        forget: number of forget images; the others are test images.
        seed: of the resamples.

    Returns:
        `ulira_auc` with the ends of its 95 % interval, `ulira_accuracy`, the mean of the shares of forget images above
        and of test images not above 0, and `ulira_tpr`, true positives at 1 % false ones, both in percent. All None
        where a side is empty or a score is not finite.
    """
    members, others = scores[:forget], scores[forget:]
    if min(len(members), len(others)) == 0 or not scores.isfinite().all():
        return auc_figures("ulira_auc", None) | {"ulira_accuracy": None, "ulira_tpr": None}
    right = (members > 0).double().mean() + (others <= 0).double().mean()
    return {
        **auc_figures("ulira_auc", auc_with_interval(members, others, seed)),
        "ulira_accuracy": 100 * right.item() / 2,
        "ulira_tpr": tpr_at_fpr(members, others),
    }
