"""Figures and weights that are no numbers: which one was the first, and on which images."""

import dataclasses

import torch
from torch import nn

WEIGHTS = "weights"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Where a run was spoiled.

    Args:
        figure: the first that was no number, by its name in the record, or `weights`.
        phase: name of the stretch of the run.
        epoch: from 1.
        batch: in the pass, from 1.
        batches: in a pass.
        step: gradient steps until then, this one included.
        images: numbers of the batch's images, by stream; of streams whose loader can tell.
    """

    figure: str
    phase: str
    epoch: int
    batch: int
    batches: int
    step: int
    images: dict[str, list[int]]


@torch.no_grad()
def all_finite(model: nn.Module | None) -> bool:
    """Whether all weights and running statistics are numbers, in one transfer from the device."""
    values = [] if model is None else [value for value in model.state_dict().values() if value.is_floating_point()]
    return not values or bool(torch.stack([value.isfinite().all() for value in values]).all())
