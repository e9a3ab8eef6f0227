"""How to forget, as flags."""

import dataclasses
from typing import Literal

from contrastive_discrimination.arguments import ContrastiveArgs
from helper_functions.config import HalfOpenUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from optimizer.optimizers import OPTIMIZERS
from optimizer.schedules import SCHEDULES
from optimizer.solver import SOLVERS
from unlearning.stopping import STOP_CRITERIA


@dataclasses.dataclass
class UnlearnArgs(ContrastiveArgs):
    """Budget, target and optimisation of constrained unlearning."""

    num_epochs: PositiveInt = 10
    """Passes over the forget set while forgetting; over the training set where a student learns."""
    finetune_num_epochs: NonNegativeInt = 0
    """Passes over the forget set of constrained fine-tuning afterwards."""
    batch_size: PositiveInt = 128
    """Forget images in one gradient step; training images where a student learns."""
    retain_batch_size: PositiveInt | None = None
    """Retain images beside each forget batch; as many as --batch_size by default."""
    retain_budget: NonNegativeFloat = 1.0
    """Accuracy points on the retain set that forgetting may cost."""
    forget_target: Literal["auto", "unseen", "zero", "chance"] = "auto"
    """Where forget data should end: like unseen images (random and file sets), never named (classes), or at chance
    (mislabelled sets)."""
    chance_margin: PositiveFloat = 1.5
    """Target chance: the loss on the given label that is enough, in multiples of log K."""
    retain_loss: Literal["auto", "labels", "original"] = "auto"
    """What the differentiable side of the budget compares with: the labels, or the original's own answers; auto is
    original for target unseen, else labels."""
    solver: Literal[*SOLVERS] = "lagrangian"
    """Quadratic penalty, Lagrangian, or both."""
    learning_rate: PositiveFloat = 0.01
    """Of the weights; a run that leaves its budget halves it, one that hardly moves doubles it."""
    dual_learning_rate: PositiveFloat = 0.03
    """Of the multiplier, as a share of it, for each point of violation and 128 forget images."""
    multiplier: NonNegativeFloat = 10.0
    """First value of the multiplier: a warm start, which lets the forget loss pull only as the budget allows."""
    penalty_coefficient: PositiveFloat | None = None
    """First value of the penalty coefficient, 10,000 for penalty and 100 for augmented_lagrangian by default; doubled
    after epochs that end outside of the budget."""
    optimizer: Literal[*OPTIMIZERS] = "sgd"
    """Of the weights."""
    momentum: HalfOpenUnitInterval = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: NonNegativeFloat = 0.0
    """While unlearning."""
    decay_norm_and_bias: bool = True
    """Whether norms and biases decay, too."""
    schedule: Literal[*SCHEDULES] = "linear"
    """Of the learning rate, step by step, over each of the two stages."""
    use_sam: bool = False
    """Sharpness-aware minimisation (Foret et al. 2021), in training and in unlearning."""
    adaptive_sam: bool = False
    """With --use_sam: ASAM (Kwon et al. 2021), whose neighbourhood scales with the weights."""
    rho: PositiveFloat = 0.05
    """Radius of SAM's neighbourhood."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Longer gradients are scaled down to this norm; null leaves them."""
    bn: Literal["frozen", "train"] = "frozen"
    """Batch norm while unlearning: by its running statistics, or by the batch."""
    stop_criterion: Literal["auto", *STOP_CRITERIA] = "auto"
    """End forgetting early: forget loss at the validation loss, validation loss rising twice, retain top-5 fallen to
    90 %, forget loss at a re-initialised network's, discriminator at chance, or never; auto is discriminator where the
    method has one, else never."""
