"""What may move: the parameters that --trainable names, and the batch norm whose statistics stay with the others."""

import re
from collections.abc import Iterator
from itertools import chain

from torch import Tensor, nn

from helper_functions.errors import UserError
from helper_functions.training.batch_norm import batch_norm_layers, freeze_statistics
from models.weights import head_path

# Names that an error shows.
EXAMPLES = 4


def set_trainable(model: nn.Module, which: str | None) -> nn.Module:
    """Let only some parameters learn, in place, and freeze the statistics of batch norm whose parameters do not.

    Args:
        model: a classifier.
        which: `head`, the last linear layer; `last:N`, the last N convolutions and linear layers with the norms that
            follow them, as of `split_layers`; or a regular expression that is searched in parameter names. None leaves
            `requires_grad` as it is.

    Raises:
        UserError: nothing may move.
    """
    if which is not None:
        moving = {id(parameter) for parameter in _chosen(model, which)}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in moving)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        what = "no parameter requires a gradient; name parameters by a regular expression"
        raise UserError(f"--trainable {which}: of {type(model).__name__}, {what}")
    normalising = set(batch_norm_layers(model))
    for path, layer in model.named_modules():
        if layer in normalising:
            freeze_statistics(layer, _is_frozen(model, path))
    return model


def moves_features(model: nn.Module) -> bool:
    """Whether a parameter outside of the head may move."""
    head = {id(parameter) for parameter in _head(model)}
    return any(parameter.requires_grad and id(parameter) not in head for parameter in model.parameters())


def _head(model: nn.Module) -> Iterator[nn.Parameter]:
    path = head_path(model)
    return iter(()) if path is None else model.get_submodule(path).parameters()


def _chosen(model: nn.Module, which: str) -> Iterator[nn.Parameter]:
    if which == "head":
        return _head(model)
    if which.startswith("last:"):
        count = which.removeprefix("last:")
        if not count.isdecimal() or int(count) == 0:
            raise UserError(f"--trainable {which}: give a number of layers, such as last:2")
        return chain(*(module.parameters(recurse=False) for module in split_layers(model, int(count))[1]))
    try:
        pattern = re.compile(which)
    except re.error as error:
        raise UserError(f"--trainable {which}: no regular expression ({error}), nor head or last:N") from None
    named = dict(model.named_parameters(remove_duplicate=False))
    found = [parameter for name, parameter in named.items() if pattern.search(name)]
    if not found:
        names = list(named)
        examples = ", ".join(dict.fromkeys(names[:: max(1, len(names) // EXAMPLES)] + names[-1:]))
        raise UserError(f"--trainable {which}: it matches none of the {len(names)} parameters, such as {examples}")
    return iter(found)


def _is_frozen(model: nn.Module, path: str) -> bool:
    """Whether no parameter of a layer learns; of one without parameters, none of the smallest part that holds it."""
    while path and not any(True for _ in model.get_submodule(path).parameters()):
        path = path.rpartition(".")[0]
    return not any(parameter.requires_grad for parameter in model.get_submodule(path).parameters())


def split_layers(model: nn.Module, count: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules that own weights or running statistics, those before the last `count` layers and those from there on.

    A layer is a convolution or a linear map, in the order in which the model registers them, with all that follows
    until the next one (its batch norm). With more layers asked for than there are, all of them are last. A module
    stands for what it owns itself; what its children own goes with them.
    """
    owners = [module for module in model.modules() if any(True for _ in own_tensors(module))]
    starts = [i for i, module in enumerate(owners) if isinstance(module, nn.Conv2d | nn.Linear)]
    first = starts[-count] if count <= len(starts) else 0
    return owners[:first], owners[first:]


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers of a module itself, without those of its children."""
    return chain(module.parameters(recurse=False), module.buffers(recurse=False))
