"""How to forget, as flags."""

import dataclasses
import math
from typing import Literal

from contrastive_discrimination.games import ContrastiveArgs
from helper_functions.config import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from optimizer.optimizers import OptimizerArgs
from optimizer.schedules import SCHEDULES
from optimizer.solver import SOLVERS
from unlearning.constrained.stopping import STOP_CRITERIA

BATCH_SIZE = 128
# Forget images in a step of a large forget set: half as many steps as with 128, and nearly the same outcome.
LARGEST_BATCH = 256
# Gradient steps that a pass over a small forget set has: ten passes of one step each would move next to nothing.
STEPS_A_PASS = 8
# Fewer forget images show little of how losses are distributed, and fewer retain images little of a fall.
FEWEST_FORGOTTEN, FEWEST_RETAINED = 8, 32
# Retain images of each class in a step, on average, beside a small forget set: a class that a step does not show has
# nothing to hold it against forget images that all pull the same way.
RETAINED_A_CLASS = 3
# Retain images in a step of constrained fine-tuning: fewer where a pass would have fewer steps than these.
LARGEST_FINETUNE_BATCH, FINETUNE_STEPS_A_PASS = 128, 20
# Passes over the forget set, where none are asked for.
FORGET_EPOCHS = {"unseen": 0, "zero": 20, "chance": 0}
FINETUNE_EPOCHS = 3
# Highest rate of fine-tuning: one that forgets costs accuracy, also where there is nothing to forget.
FINETUNE_RATE, MET_FINETUNE_RATE = 0.04, 0.004


@dataclasses.dataclass
class UnlearnArgs(ContrastiveArgs, OptimizerArgs):
    """Budget, target and optimisation of constrained unlearning."""

    num_epochs: NonNegativeInt | None = None
    """Passes over the forget set while forgetting. Ours: 20 by default for target zero, none for unseen and chance,
    which fine-tuning reaches alone. Where a student learns, passes over the training set, 30 by default."""
    finetune_num_epochs: NonNegativeInt | None = None
    """Passes over the retain set of constrained fine-tuning: more of them cost more, and leave more accuracy. 3 by
    default; none for target zero, which forgetting alone reaches without a loss."""
    finetune_learning_rate: PositiveFloat | None = None
    """Of the weights while fine-tuning: the highest, from which it decays to nothing; 0.04 by default, and 0.004 where
    the original counts as forgotten, and is no farther from its target than chance explains."""
    batch_size: PositiveInt | None = None
    """Forget images in one gradient step; by default an eighth of the forget set, from 8 to 256, and half as many as
    retain images in fine-tuning. Where a student learns, training images, 128 by default."""
    retain_batch_size: PositiveInt | None = None
    """Retain images beside each forget batch; as many by default, and beside small ones at least 32, or 3 for each
    class, up to 256; in fine-tuning a 20th of the retain set, from 32 to 128."""
    retain_budget: NonNegativeFloat = 1.0
    """Accuracy points on the retain set that forgetting may cost."""
    forget_target: Literal["auto", "unseen", "zero", "chance"] = "auto"
    """Where forget data should end: like unseen images (random and file sets), never named (classes), or given labels
    as likely as others are on unseen images (chance, mislabelled sets)."""
    retain_loss: Literal["auto", "labels", "original"] = "auto"
    """What the differentiable side of the budget compares with: the labels, or the original's own answers; auto is
    original for target unseen, else labels."""
    solver: Literal[*SOLVERS] = "lagrangian"
    """Quadratic penalty, Lagrangian, or both."""
    learning_rate: PositiveFloat = 0.01
    """Of the weights while forgetting; a pass that leaves the budget shortens it, one that hardly moves lengthens
    it."""
    dual_learning_rate: PositiveFloat = 0.03
    """Of the multiplier, as a share of it, for each point of violation and 128 forget images; for each step where the
    batch is smaller because the forget set is."""
    multiplier: NonNegativeFloat = 10.0
    """First value of the multiplier while forgetting: a warm start, which lets the forget loss pull only as the budget
    allows."""
    penalty_coefficient: PositiveFloat | None = None
    """First value of the penalty coefficient while forgetting, 10,000 for penalty and 100 for augmented_lagrangian by
    default; doubled after passes that end outside of the budget."""
    weight_decay: NonNegativeFloat = 0.0
    """While unlearning."""
    schedule: Literal[*SCHEDULES] = "linear"
    """Of the learning rate while forgetting, step by step."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Longer gradients are scaled down to this norm; null leaves them."""
    bn: Literal["frozen", "train"] = "frozen"
    """Batch norm while unlearning: by its running statistics, or by the batch."""
    stop_criterion: Literal["auto", *STOP_CRITERIA] = "auto"
    """End forgetting early: forget loss at the validation loss, validation loss rising twice, retain top-5 fallen to
    90 %, forget loss at a re-initialised network's, discriminator at chance, or never; auto is discriminator where the
    method has one, else never."""
    rewind: bool = False
    """End with the epoch whose forget error is nearest the last one's on held-out images of the same classes
    (SCRUB+R), instead of the method's own choice: ours take the nearest to the target within the budget, others the
    last."""


@dataclasses.dataclass
class PublishedArgs:
    """Hyper-parameters that single published methods have; docs/methods.md has each method's own defaults."""

    retain_weight: ClosedUnitInterval = 0.95
    """neggrad_plus and ugradsl_plus: share of the retain loss; scrub: weight of its cross-entropy."""
    divergence_weight: NonNegativeFloat = 0.001
    """scrub: weight of the divergence from the original on retain images."""
    temperature: PositiveFloat = 4.0
    """scrub and bad_teacher: of the softmax in the divergence."""
    msteps: PositiveInt = 2
    """scrub: epochs that begin by raising the divergence on forget images."""
    decay_epochs: list[PositiveInt] | None = None
    """scrub: epochs after which the learning rate is a tenth of what it was before."""
    last_layers: PositiveInt = 5
    """cf_k and eu_k: convolutions and linear layers that learn, counted from the end."""
    mask_share: ClosedUnitInterval = 0.5
    """salun: share of the weights that may move, those with the largest gradient of the forget loss."""
    reset_share: ClosedUnitInterval = 0.3
    """msg: share of each convolution's weights that is drawn anew, those with the smallest gradient; reload: share of
    all weights, those with the lowest share of the forget set in their gradient."""
    l1_penalty: NonNegativeFloat = 5e-4
    """l1_sparse: weight of the l1 norm in the first epoch; falls linearly, and would be 0 in the one after the last."""
    importance_images: PositiveInt = 1000
    """ssd, fisher, influence and msg: images of a stream that gradients are taken of."""
    ssd_threshold: PositiveFloat = 10.0
    """ssd: how many times as important for the forget set as for all images a weight is from which on it is damped."""
    ssd_dampening: PositiveFloat = 1.0
    """ssd: the lower, the more it is damped."""
    noise_scale: PositiveFloat = 1e-7
    """fisher: variance of the noise, in units of one over the Fisher information."""
    newton_step: PositiveFloat = 1.0
    """influence: length of the Newton step; 1 is the whole one."""
    damping: PositiveFloat = 0.01
    """influence: is added to the diagonal of the Fisher information."""
    noise_steps: PositiveInt = 40
    """unsir: steps in which the noise learns to be misclassified."""
    noise_learning_rate: PositiveFloat = 0.1
    """unsir: of the noise."""
    fgsm_step: PositiveFloat = 0.4
    """boundary_shrink: step towards the nearest class, in standard deviations of the channels."""
    tempering: PositiveFloat = 2.0
    """lotus: how fast the temperature rises with the accuracy that forget images still have above unseen ones."""
    smoothing: NonNegativeFloat = 0.2
    """ugradsl_plus: size of the negative label smoothing."""
    ascent_step: NonNegativeFloat = 0.325
    """reload: length of the ascent step, in units of the gradient."""
    ascent_radius: NonNegativeFloat = 0.1
    """uam: distance from the weights at which the retain gradient is taken, in the first step."""
    recovery: PositiveFloat = 1.0
    """mu_mis: ends with the epoch after which the sensitivity of other classes is so many times the original's."""
    forget_gain: PositiveFloat = 0.5
    """hamu: what a step adds to the forget loss, to first order, in units of the learning rate."""
    balance: NonNegativeFloat = 0.15
    """falw: the higher, the more sharply weights of rare classes respond."""


@dataclasses.dataclass
class MethodArgs(UnlearnArgs, PublishedArgs):
    """All flags that a method can follow."""


def stage_epochs(args: UnlearnArgs, target: str) -> tuple[int, int]:
    """Passes over the forget set while forgetting, and over the retain set in constrained fine-tuning."""
    forget = FORGET_EPOCHS[target] if args.num_epochs is None else args.num_epochs
    own = 0 if target == "zero" and forget else FINETUNE_EPOCHS
    return forget, own if args.finetune_num_epochs is None else args.finetune_num_epochs


def forget_batch_size(args: UnlearnArgs, forget_images: int) -> int:
    """Forget images in one gradient step, as asked for or as they fit the forget set."""
    fitting = min(LARGEST_BATCH, max(FEWEST_FORGOTTEN, math.ceil(forget_images / STEPS_A_PASS)))
    return args.batch_size or fitting


def batch_sizes(args: UnlearnArgs, forget_images: int, num_classes: int) -> tuple[int, int]:
    """Forget images and retain images in one gradient step, as asked for or as they fit the forget set."""
    forget = forget_batch_size(args, forget_images)
    if args.batch_size is not None:
        return forget, args.retain_batch_size or forget
    fewest = max(FEWEST_RETAINED, min(LARGEST_BATCH, RETAINED_A_CLASS * num_classes))
    return forget, args.retain_batch_size or max(fewest, forget)


def finetune_batch_sizes(args: UnlearnArgs, retain_images: int) -> tuple[int, int]:
    """Forget images and retain images in one step of constrained fine-tuning, as asked for or as they fit."""
    fitting = min(LARGEST_FINETUNE_BATCH, max(FEWEST_RETAINED, retain_images // FINETUNE_STEPS_A_PASS))
    retain = args.retain_batch_size or fitting
    return args.batch_size or max(FEWEST_FORGOTTEN, retain // 2), retain
