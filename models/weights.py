"""Reading weights from files that may come from anywhere, and saying in one line why they do not fit."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from helper_functions.errors import UserError
from helper_functions.files import read_tensors

CHECKPOINT_KEYS = ("state_dict", "model")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state_dict onto the CPU; nothing in the file is executed (`weights_only=True`).

    The file holds a state_dict, or a checkpoint with one under 'state_dict' or 'model'. Prefixes that
    DistributedDataParallel and torch.compile put before the names are taken off.
    Raises UserError, naming the path, when the file is missing, unreadable, truncated or no checkpoint.
    """
    content = _read(Path(path))
    if isinstance(content, Mapping):
        for key in CHECKPOINT_KEYS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, no state_dict: save model.state_dict()")
    if not content:
        raise UserError(f"{path} holds an empty state_dict: save model.state_dict()")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path} is no state_dict: its entry {name!r} is a {type(value).__name__}, no tensor: "
                f"save model.state_dict(), alone or under one of the keys {', '.join(CHECKPOINT_KEYS)}"
            )
    return {_without_wrappers(name): value for name, value in content.items()}


def load_state(model: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path, name: str | None = None) -> None:
    """Load `state_dict` strictly into `model`, in place; `source` and the model's `name` are for the error.

    Raises UserError in one line that names the first mismatch: another architecture, stem, number of input channels
    or classes, or another shape. The model is left as it was.
    """
    own = model.state_dict()
    name = name or type(model).__name__
    # Files older than torch 0.4.1 have no such counters, and torch loads them all the same.
    missing = [key for key in own if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in own]
    if missing or unexpected:
        counts = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for what, keys in (("keys missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise UserError(f"{source} is no {name}: {', '.join(counts)}; pass the model that these weights belong to")
    for key, value in own.items():
        if key in state_dict and state_dict[key].shape != value.shape:
            raise UserError(f"{source}: {_shape_mismatch(model, own, state_dict, key, name)}")
    # A plain dict carries no version numbers, and so lets batch norm do without its counters.
    model.load_state_dict(dict(state_dict))


def infer_stem(state_dict: Mapping[str, Tensor]) -> str | None:
    """The stem of a ResNet's weights: 'cifar' for a 3 x 3 `conv1`, 'imagenet' for a 7 x 7 one, None for neither."""
    weight = state_dict.get("conv1.weight")
    if weight is None or weight.ndim != 4:
        return None
    return {(3, 3): "cifar", (7, 7): "imagenet"}.get(tuple(weight.shape[2:]))


def head_key(model: nn.Module) -> str | None:
    """Name of the weight [num_classes, ...] that makes the logits: the last linear layer, else the last convolution."""
    for kind in (nn.Linear, nn.Conv2d):
        layers = [name for name, module in model.named_modules() if isinstance(module, kind)]
        if layers:
            return f"{layers[-1]}.weight" if layers[-1] else "weight"
    return None


def _read(path: Path) -> object:
    """What torch.load makes of the file, every failure told in one line."""
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: name a file written by torch.save(model.state_dict(), path)")
    try:
        return read_tensors(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a file that can") from error
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory: use a machine with more") from error
    except ValueError as error:
        raise UserError(
            f"{path} is no readable checkpoint ({error}: truncated, of another format, or pickled objects instead of "
            "tensors): save model.state_dict() with torch.save"
        ) from error


def _without_wrappers(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in WRAPPER_PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _shape_mismatch(
    model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor], key: str, name: str
) -> str:
    """Say what the shapes at `key`, the first that differ, mean."""
    theirs, ours = tuple(given[key].shape), tuple(own[key].shape)
    stems = infer_stem(given), infer_stem(own)
    if key == "conv1.weight" and None not in stems and stems[0] != stems[1]:
        return f"the weights have the {stems[0]} stem, the model has the {stems[1]} stem: pass stem {stems[0]}"
    head = head_key(model)
    if key == head and theirs[1:] == ours[1:]:
        return f"head has {theirs[0]} classes, the data set has {ours[0]}: pass the data that it was trained on"
    first_convolution = next((key for key, value in own.items() if value.ndim == 4), None)
    if key == first_convolution and len(theirs) == 4 and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:]):
        return (
            f"the weights take images of {theirs[1]} channels, the data set's have {ours[1]}: "
            "pass the data that they were trained on"
        )
    return f"{key} is {list(theirs)} in the file and {list(ours)} in {name}: pass the model (and width) of the weights"
