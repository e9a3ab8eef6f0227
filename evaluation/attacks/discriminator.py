"""The discriminator as a metric: can a model's outputs on forget images be told from those on test images?"""

import math

from torch import Tensor

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import build_discriminator
from contrastive_discrimination.held_out import FOLDS, Auc, held_out_auc
from contrastive_discrimination.pairs import Pairs, set_apart
from evaluation.attacks.intervals import RESAMPLES
from helper_functions.metrics import class_mask

# Less likely classes count as this likely: what is left of their log-probabilities is rounding and scale.
LOWEST_PROBABILITY = 1e-6
LEARNING_RATE = 0.003


def discriminator_auc(
    forget_logits: Tensor, forget_labels: Tensor, test_logits: Tensor, test_labels: Tensor, seed: int = 0
) -> Auc | None:
    """AUC of a discriminator that tells outputs on forget images from those on test images; 0.5 is ideal.

    A retrained model must show 0.5, since it has seen neither. The discriminator sees the log-probability of the label
    and the others sorted: it knows which class is the image's own but not what it is called, so that the order of the
    classes changes nothing. The mean over five folds of the AUC on the images left out (`held_out_auc`; Lopez-Paz and
    Oquab 2017, section 3). The global generators are left as they were.

    Args:
        forget_logits: `[P, K]`, on a device that has float64.
        forget_labels: true classes, int64 `[P]`.
        test_logits: `[Q, K]`.
        test_labels: true classes, int64 `[Q]`, distributed as the forget images', lest the classes be told apart.
        seed: at least 0; of folds, discriminators, minibatches and resamples.

    Returns:
        The AUC with the ends of its 95 % interval, or None where a side has fewer images than there are folds or
        logits are not finite.
    """
    if min(len(forget_logits), len(test_logits)) < FOLDS:
        return None
    if not (forget_logits.isfinite().all() and test_logits.isfinite().all()):
        return None
    num_classes = forget_logits.shape[1]
    return held_out_auc(
        lambda: Critic(build_discriminator("mlp", num_classes).to(forget_logits.device), LEARNING_RATE),
        same=_alone(test_logits, test_labels),
        different=_alone(forget_logits, forget_labels),
        seed=seed,
        bootstrap=RESAMPLES,
    )


def _alone(logits: Tensor, labels: Tensor) -> Pairs:
    """Pairs of an output with itself, float32 `[B, K]` each."""
    own = class_mask(labels, logits.shape[1])
    # In float64 the order in which classes are summed is rounded away, and the order of the classes with it.
    outputs = set_apart(logits.double(), own, lowest=math.log(LOWEST_PROBABILITY)).float()
    # Each output is seen alone. A class mate beside it adds noise and says nothing of this image: on CIFAR-100, the
    # AUC of one model is 0.680 alone and 0.667 beside a class mate.
    return outputs, outputs
