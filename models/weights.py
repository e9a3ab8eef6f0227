"""Weights of a model: loaded, with an error of one line where they do not match, or drawn anew."""

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError
from helper_functions.training.batch_norm import FrozenStatistics
from helper_functions.wording import counted
from models.sources import saved_names
from models.weight_files import WeightFile, shown
from models.weight_names import match_names


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], form: WeightFile, source: str | Path, name: str | None = None
) -> WeightFile:
    """Load what `read_weight_file` gave into `model`, in place, also where its names differ from the model's.

    Returns the form with the model's own names, and with what was matched. Errors as of `load_state`; UserError as well
    where the names fit in two ways.
    """
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    names, matched, left_out = match_names(shapes, given, head_path(model), saved_names(model), source)
    load_state(model, {own: weights[theirs] for own, theirs in names.items()}, source, name)
    return dataclasses.replace(
        form, names={own: form.names[theirs] for own, theirs in names.items()},
        dtypes={own: form.dtypes[theirs] for own, theirs in names.items()},
        left_out=(*form.left_out, *left_out), matched=matched,
    )  # fmt: skip


def load_state(model: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path, name: str | None = None) -> None:
    """Load `state_dict` strictly into `model`, in place; `source` and the model's `name` are for the error.

    Raises UserError that names the first mismatch: another architecture, stem, number of input channels or classes,
    another shape, or a tensor with NaN or infinity. The model then keeps its weights.
    """
    own = model.state_dict()
    name = name or type(model).__name__
    # Files older than torch 0.4.1 lack these counters, and torch loads them.
    missing = [key for key in own if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in own]
    if missing or unexpected:
        counts = [
            f"{len(keys)} {what} (first: {shown(keys[0])})"
            for what, keys in (("keys missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise UserError(f"{source} is not a {name}: {', '.join(counts)}; pass the model that these weights belong to")
    shared = [(key, state_dict[key], value) for key, value in own.items() if key in state_dict]
    for key, theirs, value in shared:
        if theirs.shape != value.shape:
            raise UserError(f"{source}: {_shape_mismatch(model, own, state_dict, key, name)}")
    for key, theirs, value in shared:
        if value.is_floating_point() and not theirs.is_floating_point():
            raise UserError(f"{source}: {key} is {theirs.dtype}, no weights: save model.state_dict() in floating point")
        # In the model's dtype: double precision reaches further than single.
        if not theirs.to(value.dtype).isfinite().all():
            raise UserError(f"{source}: {key} holds NaN or infinity: these weights are broken, give others")
    given = OrderedDict(state_dict)
    if len(given) == len(own):
        # MNASNet needs its version. Without one, batch norm accepts that the counters are missing.
        given._metadata = own._metadata
    model.load_state_dict(given)


@torch.no_grad()
def reinitialised(model: nn.Module) -> nn.Module:
    """A deep copy of `model` with every parameter that may move drawn anew from torch's global generator.

    A module with `reset_parameters` is initialised by it, running statistics included. A parameter that no reset
    reaches (class token, position embedding, layer scale) is drawn from a normal distribution with its own mean and
    standard deviation, so that only its scale is kept; constants stay constant. Frozen parameters and statistics stay.
    """
    fresh = copy.deepcopy(model)
    fresh.apply(_reset_own)  # children first, so that a parent's own initialisation comes last
    keep_frozen(fresh, model)
    return fresh


@torch.no_grad()
def keep_frozen(model: nn.Module, other: nn.Module) -> None:
    """Give `model` the parameters and the statistics of `other`, of the same architecture, that may not move there."""
    for mine, theirs in zip(model.modules(), other.modules(), strict=True):
        stays = [(mine.parameters(recurse=False), theirs.parameters(recurse=False))]
        if isinstance(theirs, FrozenStatistics):
            stays.append((mine.buffers(recurse=False), theirs.buffers(recurse=False)))
        for values, kept in stays:
            for value, old in zip(values, kept, strict=True):
                if not old.requires_grad:
                    value.copy_(old)


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


def infer_stem(state_dict: Mapping[str, Tensor]) -> str | None:
    """The stem of a ResNet's weights: 'cifar' for a 3 x 3 `conv1`, 'imagenet' for a 7 x 7 one, None for neither.

    A wrapper's prefix may stand before the names.
    """
    stems = [key for key in state_dict if key.endswith("conv1.weight")]
    stems = [key for key in stems if f"{key.removesuffix('conv1.weight')}layer1.0.conv1.weight" in state_dict]
    weight = state_dict[stems[0]] if stems else None
    if weight is None or weight.ndim != 4:
        return None
    return {(3, 3): "cifar", (7, 7): "imagenet"}.get(tuple(weight.shape[2:]))


def head_path(model: nn.Module) -> str | None:
    """The path of the layer that gives the logits: the last linear one that is registered, else the last convolution.

    None for a model without either.
    """
    for kind in (nn.Linear, nn.Conv2d):
        if paths := [path for path, module in model.named_modules() if isinstance(module, kind)]:
            return paths[-1]
    return None


def _shape_mismatch(
    model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor], key: str, name: str
) -> str:
    """Explain the shapes at `key`, the first that differ."""
    theirs, ours = tuple(given[key].shape), tuple(own[key].shape)
    stems = infer_stem(given), infer_stem(own)
    if key == "conv1.weight" and None not in stems and stems[0] != stems[1]:
        return f"the weights have the {stems[0]} stem, the model has the {stems[1]} stem: pass stem {stems[0]}"
    if key == f"{head_path(model)}.weight".lstrip(".") and theirs[1:] == ours[1:]:
        classes = counted(theirs[0], "class")
        return f"head has {classes}, the data set has {ours[0]}: pass the data that it was trained on"
    first_convolution = next((key for key, value in own.items() if value.ndim == 4), None)
    if key == first_convolution and len(theirs) == 4 and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:]):
        return (
            f"the weights take images of {counted(theirs[1], 'channel')}, the data set's have {ours[1]}: "
            "pass the data that they were trained on"
        )
    return f"{key} is {list(theirs)} in the file and {list(ours)} in {name}: pass the model (and width) of the weights"
