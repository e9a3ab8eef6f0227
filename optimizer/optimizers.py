"""Optimizers by name, with the options that the scripts offer."""

import dataclasses
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from helper_functions.config import HalfOpenUnitInterval, PositiveFloat
from helper_functions.errors import UserError
from optimizer.sam import SAM

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


@dataclasses.dataclass
class OptimizerArgs:
    """The optimizer of the weights, and which of them move."""

    trainable: str | None = None
    """What may move, in training and unlearning; all by default. head: the last linear layer. last:N: the last N
    convolutions and linear layers, with the norms that follow them. Else a regular expression, searched in parameter
    names, such as 'adapter|head'. The rest stays bit for bit, with its batch-norm statistics."""
    optimizer: Literal[*OPTIMIZERS] = "sgd"
    """Of the weights."""
    momentum: HalfOpenUnitInterval = 0.9
    """Nesterov momentum of SGD."""
    decay_norm_and_bias: bool = True
    """Whether norms and biases decay as well."""
    use_sam: bool = False
    """Sharpness-aware minimisation (Foret et al. 2021), in training and in unlearning."""
    adaptive_sam: bool = False
    """With --use_sam: ASAM (Kwon et al. 2021), whose neighbourhood scales with the weights."""
    rho: PositiveFloat = 0.05
    """Radius of SAM's neighbourhood."""


def build_optimizer(model: nn.Module, recipe) -> Optimizer:
    """The optimizer of a `Recipe`, or of any arguments with the same fields; fused on CPU and CUDA, in SAM if asked.

    `momentum` is that of Nesterov's SGD, or AdamW's first beta. Without `decay_norm_and_bias`, parameters of at most
    one dimension (norms and biases) form a group of their own, without weight decay. Raises UserError where no
    parameter requires a gradient.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise UserError("the optimizer was given no parameter that requires a gradient: unfreeze some")
    decaying = [p for p in trained if p.ndim > 1 or recipe.decay_norm_and_bias]
    fixed = [p for p in trained if p.ndim <= 1 and not recipe.decay_norm_and_bias]
    groups = [{"params": decaying, "weight_decay": recipe.weight_decay}, {"params": fixed, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    # One kernel for the whole update.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    if recipe.optimizer == "sgd":
        # Nesterov's look-ahead needs a velocity to look along.
        options = {"momentum": recipe.momentum, "nesterov": recipe.momentum > 0}
    else:
        options = {"betas": (recipe.momentum, 0.999)}
    base, options = OPTIMIZERS[recipe.optimizer], {**options, "lr": recipe.learning_rate, "fused": fused}
    if not (recipe.use_sam or recipe.adaptive_sam):
        return base(groups, **options)
    return SAM(groups, base, rho=recipe.rho, adaptive=recipe.adaptive_sam, **options)
