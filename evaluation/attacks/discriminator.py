"""The discriminator as an attack: can a model's outputs on forget and on test images be distinguished?"""

import math

from torch import Tensor

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.held_out import FOLDS, auc_of, held_out_scores
from contrastive_discrimination.pairs import Pairs, set_apart
from evaluation.attacks.intervals import RESAMPLES, auc_figures, joined_scores, worst_tenth
from helper_functions.metrics import class_mask

# Smaller probabilities are raised to this, since their logarithms hold rounding and scale alone.
LOWEST_PROBABILITY = 1e-6
LEARNING_RATE = 0.003


def discriminator_attack(
    forget_logits: Tensor, forget_labels: Tensor, test_logits: Tensor, test_labels: Tensor, seed: int = 0
) -> dict[str, float | None]:
    """AUC of a discriminator between outputs on forget images and on test images; 0.5 is ideal.

    A retrained model has 0.5, since it has seen neither. The input is the log-probability of the label and those of the
    other classes sorted, so that the order of the classes has no effect. The AUC is the mean over five folds on the
    images left out (as `held_out_auc`; Lopez-Paz and Oquab 2017, section 3). Global generators are not touched.

    Args:
        forget_logits: `[P, K]`, on a device that has float64; `test_logits` likewise, `[Q, K]`.
        forget_labels: true classes, int64 `[P]`; those of test images, `[Q]`, are distributed alike.
        seed: at least 0; of folds, discriminators, minibatches and resamples.

    Returns:
        `discriminator_auc` and `discriminator_worst_tenth`, each with the ends of its 95 % interval. All None where a
        side has fewer images than there are folds or logits are not finite; `worst_tenth` also as there.
    """
    finite = forget_logits.isfinite().all() and test_logits.isfinite().all()
    if min(len(forget_logits), len(test_logits)) < FOLDS or not finite:
        return auc_figures("discriminator_auc", None) | auc_figures("discriminator_worst_tenth", None)
    num_classes = forget_logits.shape[1]
    folds = held_out_scores(
        lambda: Critic(DISCRIMINATORS["mlp"](num_classes).to(forget_logits.device), LEARNING_RATE),
        same=_alone(test_logits, test_labels),
        different=_alone(forget_logits, forget_labels),
        seed=seed,
    )
    others, members = joined_scores(folds)
    found = worst_tenth(1 - members, 1 - others, seed) if len(members) == len(others) else None
    return auc_figures("discriminator_auc", auc_of(folds, seed, RESAMPLES)) | auc_figures(
        "discriminator_worst_tenth", found
    )


def _alone(logits: Tensor, labels: Tensor) -> Pairs:
    """Pairs of an output with itself, float32 `[B, K]` each."""
    own = class_mask(labels, logits.shape[1])
    # In float64, so that the order in which classes are summed has no effect on the float32 result.
    outputs = set_apart(logits.double(), own, lowest=math.log(LOWEST_PROBABILITY)).float()
    # Pairs with another image of the class add noise: an AUC of 0.667 in place of 0.680 for one model on CIFAR-100.
    return outputs, outputs
