"""SalUn: random labels, in the weights alone that the forget set is most sensitive to."""

import dataclasses

import torch
from torch import Tensor

from unlearning.context import MethodContext
from unlearning.methods import random_labels
from unlearning.methods.baseline import BaselineSpec
from unlearning.methods.gradients import mean_gradient
from unlearning.methods.method import Span, published


def largest(values: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Bool masks of the largest magnitudes of all tensors together, as many as `share` of all elements."""
    magnitudes = torch.cat([value.abs().flatten() for value in values.values()])
    count = round(share * len(magnitudes))
    mask = torch.zeros_like(magnitudes, dtype=torch.bool)
    mask[magnitudes.topk(count).indices] = True
    parts = mask.split([value.numel() for value in values.values()])
    return {name: part.view(values[name].shape) for name, part in zip(values, parts, strict=True)}


def spec(context: MethodContext) -> BaselineSpec:
    """Masked by |∇CE(D_f)|, the epochs of random labels. Source: Fan et al. 2024, equations 3 to 5 (their commands)."""
    mask = largest(mean_gradient(context, "forget"), context.args.mask_share)
    return dataclasses.replace(random_labels.spec(context), mask=mask)


METHOD = published(
    spec,
    search={**random_labels.RELABELLING, "mask_share": Span(0.1, 0.9)},
    num_epochs=10, batch_size=256, learning_rate=0.013, mask_share=0.5,
)
