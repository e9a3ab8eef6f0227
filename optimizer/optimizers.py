"""Optimizers by name, with the options that the scripts offer."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helper_functions.errors import UserError
from optimizer.sam import SAM


def _sgd(momentum: float, nesterov: bool) -> tuple[type[Optimizer], dict[str, Any]]:
    # Nesterov's look-ahead needs a velocity to look along.
    return torch.optim.SGD, {"momentum": momentum, "nesterov": nesterov and momentum > 0}


def _adamw(momentum: float, nesterov: bool) -> tuple[type[Optimizer], dict[str, Any]]:
    del nesterov  # AdamW has no such form
    return torch.optim.AdamW, {"betas": (momentum, 0.999)}


OPTIMIZERS: dict[str, Callable[[float, bool], tuple[type[Optimizer], dict[str, Any]]]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


def get_optimizer(
    name: str,
    model_or_params: nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]],
    learning_rate: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    decay_norm_and_bias: bool = True,
    use_sam: bool = False,
    adaptive_sam: bool = False,
    rho: float = 0.05,
) -> Optimizer:
    """Build the optimizer `name` of OPTIMIZERS, fused on CPU and CUDA, within SAM (or ASAM) on request.

    `momentum` is SGD's, or AdamW's first beta. Without `decay_norm_and_bias`, parameters of at most one dimension
    (norms and biases) form groups of their own, without weight decay. A group's own `weight_decay` and `lr` stand.
    Given a module, SAM takes batch-norm statistics from the first pass of `step(closure)` only.
    Raises UserError for an unknown name, an impossible value, or nothing to train.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer {name!r} is unknown: pass one of {', '.join(OPTIMIZERS)}")
    _check(learning_rate, momentum, weight_decay, rho)
    groups = _param_groups(model_or_params, weight_decay, decay_norm_and_bias)
    base, options = OPTIMIZERS[name](momentum, nesterov)
    options |= {"lr": learning_rate, "fused": _can_fuse(groups)}
    if not (use_sam or adaptive_sam):
        return base(groups, **options)
    model = model_or_params if isinstance(model_or_params, nn.Module) else None
    return SAM(groups, base, rho=rho, adaptive=adaptive_sam, model=model, **options)


def _check(learning_rate: float, momentum: float, weight_decay: float, rho: float) -> None:
    for key, value in {"learning_rate": learning_rate, "weight_decay": weight_decay, "rho": rho}.items():
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{key} is {value}: pass a number of at least 0")
    if not 0 <= momentum < 1:
        raise UserError(f"momentum is {momentum}: pass a number of at least 0 and below 1")


def _param_groups(
    model_or_params: nn.Module | Iterable[Any], weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    """Groups with a weight decay each, parameters that need no gradient left out."""
    params = list(model_or_params.parameters() if isinstance(model_or_params, nn.Module) else model_or_params)
    given = params if params and isinstance(params[0], dict) else [{"params": params}]
    groups = []
    for group in given:
        members = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        trained = [p for p in members if p.requires_grad]
        decay = group.get("weight_decay", weight_decay)
        if decay_norm_and_bias:
            groups.append({**group, "params": trained, "weight_decay": decay})
        else:
            groups.append({**group, "params": [p for p in trained if p.ndim > 1], "weight_decay": decay})
            groups.append({**group, "params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError("the optimizer was given no parameter that requires a gradient: unfreeze some")
    return groups


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    """Whether torch has one kernel for the whole update: floating point on the CPU or CUDA."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for group in groups for p in group["params"])
