"""A model with random weights: the floor that forgetting is compared with."""

import copy

import torch
from torch import nn


@torch.no_grad()
def reinitialised(model: nn.Module) -> nn.Module:
    """A deep copy of `model` with every parameter drawn anew from torch's global generator.

    A module with `reset_parameters` is initialised by it, running statistics included. A parameter that no reset
    reaches (class token, position embedding, layer scale) is drawn from a normal distribution with its own mean and
    standard deviation, so that only its scale is kept; constants stay constant.
    """
    fresh = copy.deepcopy(model)
    fresh.apply(_reset_own)  # children first, so that a parent's own initialisation comes last
    return fresh


def _reset_own(module: nn.Module) -> None:
    """Reset the parameters that `module` itself owns."""
    before = [parameter.clone() for parameter in module.parameters(recurse=False)]
    # nn.MultiheadAttention and nn.Transformer have the underscore.
    for name in ("reset_parameters", "_reset_parameters"):
        reset = getattr(module, name, None)
        if callable(reset):
            reset()
            break
    for parameter, old in zip(module.parameters(recurse=False), before, strict=True):
        if parameter.is_floating_point() and torch.equal(parameter, old):
            noise = torch.randn_like(parameter)
            parameter.copy_(old.mean() + old.std(correction=0) * noise)
