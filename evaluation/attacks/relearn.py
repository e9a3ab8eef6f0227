"""Relearn time: gradient steps until a model classifies forgotten images correctly again."""

import copy
import itertools

from torch import nn

from data.image_sets import ImageSets
from data.views import evaluation_view
from helper_functions.metrics import summarise
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict
from helper_functions.training.loop import LoopConfig, Stretch, run_loop
from optimizer.training import EmpiricalRisk, GradientSteps, Recipe

LEARNING_RATE, BATCH_SIZE, MAX_EPOCHS = 1e-3, 128, 10
# Tolerated accuracy points below the original's.
MARGIN = 1.0
CHECKS_PER_EPOCH = 8
# Accuracy is checked on at most this many forget images, as during unlearning.
CHECKED_IMAGES = 5000
STREAM = 9


def relearn_steps(model: nn.Module, sets: ImageSets, precision: Precision, original_top1: float) -> int:
    """Gradient steps on forget images, with given labels, until their accuracy is that of the original, in percent.

    A copy is fine-tuned by SGD with momentum 0.9, batch norm in training mode, no augmentation. Accuracy is checked
    before the first step and about eight times an epoch; the steps up to the successful check are counted, those of
    `MAX_EPOCHS` where they do not suffice. Compare with the retrained model's figure: a model that needs fewer steps
    has retained something. Source: Golatkar et al. 2021, section 5 (relearn time).
    """
    model = copy.deepcopy(model)
    loader = sets.training(sets.splits.forget, BATCH_SIZE, augment=False, stream=STREAM)
    checked = evaluation_view(loader, CHECKED_IMAGES, sets.seed)

    def is_known() -> bool:
        return summarise(*predict(model, checked, precision))["top1"] >= original_top1 - MARGIN

    if is_known():
        return 0
    recipe = Recipe(learning_rate=LEARNING_RATE, weight_decay=0.0, schedule="constant", num_epochs=MAX_EPOCHS)
    steps = GradientSteps(EmpiricalRisk(model, precision), model, recipe, len(loader))
    batches = ({"train": batch} for batch in itertools.chain.from_iterable(itertools.repeat(loader)))
    relearning = Stretch(batches, max(1, len(loader) // CHECKS_PER_EPOCH), steps, is_known)
    relearning.name = "relearning"
    config = LoopConfig(-(-MAX_EPOCHS * len(loader) // len(relearning)), precision.device, shown=("train/loss",))
    run_loop(relearning, config)
    return config.cost.gradient_steps
