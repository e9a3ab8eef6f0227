"""Residual knowledge: is a model right near forgotten images where a retrained one is not?"""

import torch
from torch import nn

from data.image_sets import ImageSets
from data.random_streams import torch_seed
from data.views import fixed_sample
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict

# Of the Gaussian noise, in units of the normalised input, whose standard deviation over a data set is about 1.
NOISE = 0.1
# Draws of noise an image; forget images that get them.
DRAWS, IMAGES = 4, 2000


def right_near(model: nn.Module, sets: ImageSets, precision: Precision) -> float:
    """Share of noisy copies of the forget images that a model classifies by their given labels, from 0 to 1.

    Every model sees the same noise: `DRAWS` copies of a fixed sample of `IMAGES` images.
    """
    loader = sets.evaluation(fixed_sample(sets.splits.forget, IMAGES))
    generator = torch.Generator().manual_seed(torch_seed(sets.splits.seed, "residual knowledge"))

    def noisy():
        for _ in range(DRAWS):
            for inputs, labels in loader:
                # Drawn on the CPU, so that all devices see the same.
                yield inputs + NOISE * torch.randn(inputs.shape, generator=generator).to(inputs.device), labels

    logits, labels = predict(model, noisy(), precision)
    return (logits.argmax(1) == labels).double().mean().item()


def residual_knowledge(unlearned: float, retrained: list[float]) -> float | None:
    """Probability that the unlearned model is right near a forget image, over that of the retrained ones; 1 is ideal.

    Above 1, the model knows more than one that never saw the images; below, it is wrong where that one is right.
    Probabilities are those of `right_near`; of retrained models, the mean. None where they are never right, as for
    whole classes. Source: arXiv 2601.22359 (NeurIPS 2025).
    """
    mean = sum(retrained) / len(retrained)
    return unlearned / mean if mean > 0 else None
