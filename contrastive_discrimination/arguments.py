"""Discriminators, as flags."""

import dataclasses
from typing import Literal

from contrastive_discrimination.discriminators import DISCRIMINATORS
from helper_functions.config import PositiveFloat, PositiveInt


@dataclasses.dataclass
class ContrastiveArgs:
    """What the methods with a discriminator, untrain and untrain_contrastive, have beside the others."""

    discriminator: Literal["auto", *DISCRIMINATORS] = "auto"
    """What tells outputs apart; auto is mlp, and for untrain_contrastive logistic, which it always is there."""
    discriminate: Literal["logits", "features", "losses"] = "logits"
    """What it sees: sorted log-probabilities with the label set apart, what the last layer sees, or losses alone."""
    match: Literal["auto", "given", "none"] = "auto"
    """Forget images stand beside unseen images of their given label, or of any; auto is none where labels or classes
    have to go, else given."""
    discriminator_learning_rate: PositiveFloat = 0.003
    """Of the discriminator."""
    discriminator_steps: PositiveInt = 3
    """Steps of the discriminator beside each step of the student."""
    group_size: PositiveInt = 16
    """Images whose statistics are averaged before untrain_contrastive's logistic regression sees them."""
