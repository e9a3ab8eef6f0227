"""What shall be forgotten: the grammar of `--forget`, and the images that a request names."""

import difflib
import re
from dataclasses import dataclass

import numpy as np

from data.datasets import Dataset
from data.image_list import read_image_list
from data.random_streams import random_state
from helper_functions.errors import UserError

GRAMMAR = "random:0.1, random:500, class:apple,7, superclass:fish, mislabelled:0.1 or file:PATH"


@dataclass(frozen=True)
class ForgetRequest:
    """A parsed request; of the optional fields, those that the kind needs are set."""

    kind: str
    fraction: float | None = None
    count: int | None = None
    names: tuple[str, ...] = ()
    path: str | None = None


def parse_forget(spec: str) -> ForgetRequest:
    """Parse a request in the grammar of `GRAMMAR`; a fraction is one of the training set.

    Raises UserError for anything else, naming what is wrong with it.
    """
    kind, colon, value = spec.partition(":")
    kind, value = kind.strip(), value.strip()
    if kind not in SELECTORS:
        close = difflib.get_close_matches(kind, SELECTORS, n=1)
        hint = f"did you mean {close[0]}:…?" if close else f"write {GRAMMAR}"
        raise UserError(f"unknown forget request {spec!r}; {hint}")
    if not colon or not value:
        raise UserError(f"forget request {spec!r} names nothing after '{kind}:'; write {GRAMMAR}")
    if kind == "file":
        return ForgetRequest(kind, path=value)
    if kind in ("class", "superclass"):
        names = tuple(name.strip() for name in value.split(","))
        if not all(names):
            raise UserError(f"forget request {spec!r} has an empty name; separate names by single commas")
        return ForgetRequest(kind, names=names)
    if kind == "random" and re.fullmatch(r"\+?[0-9]{1,18}", value):
        count = int(value)
        if count == 0:
            raise UserError(f"forget request {spec!r} asks for no image; give a positive number")
        return ForgetRequest(kind, count=count)
    return ForgetRequest(kind, fraction=parse_fraction(value, f"forget request {spec!r}"))


def parse_fraction(text: str, what: str) -> float:
    """A number strictly between 0 and 1; `what` opens the UserError that is raised for anything else."""
    try:
        fraction = float(text)
    except ValueError:
        raise UserError(f"{what}: {text!r} is no number; give a fraction such as 0.1") from None
    if not 0 < fraction < 1:
        raise UserError(f"{what}: {text} is not strictly between 0 and 1; give a fraction such as 0.1")
    return fraction


def select_forget(request: ForgetRequest, dataset: Dataset, train: np.ndarray, seed: int) -> np.ndarray:
    """The forget set: sorted int64 indices out of train (sorted int64 indices into the images).

    Classes are true classes. Raises UserError for a class, superclass or file that does not exist, an image that was
    not trained on, and a forget set that would be empty or all of train.
    """
    forget = np.unique(SELECTORS[request.kind](request, dataset, train, seed))
    if len(forget) == 0:
        raise UserError(f"the forget set {describe(request)} is empty; ask for more")
    if len(forget) == len(train):
        raise UserError(f"the forget set {describe(request)} is the whole training set; ask for less, or train anew")
    return forget


def describe(request: ForgetRequest) -> str:
    """The request in the grammar it was written in."""
    values = (request.path, request.count, request.fraction)
    value = ",".join(request.names) or next(value for value in values if value is not None)
    return f"{request.kind}:{value}"


def _random(request: ForgetRequest, dataset: Dataset, train: np.ndarray, seed: int) -> np.ndarray:
    count = round(request.fraction * len(train)) if request.count is None else request.count
    if count >= len(train):
        raise UserError(f"{describe(request)} is {count} of {len(train)} training images; leave some to be retained")
    return random_state(seed, "forget").permutation(train)[:count]


def _classes(request: ForgetRequest, dataset: Dataset, train: np.ndarray, seed: int) -> np.ndarray:
    # An image folder's class may have a comma in its name.
    whole = [name for name in (",".join(request.names), ", ".join(request.names)) if name in dataset.classes]
    names = whole or request.names
    return _of_classes([_class_index(name, dataset) for name in names], dataset, train)


def _superclasses(request: ForgetRequest, dataset: Dataset, train: np.ndarray, seed: int) -> np.ndarray:
    if not dataset.superclasses:
        raise UserError(f"{dataset.name} has no superclasses; use class:NAME, or --dataset cifar100")
    wanted = []
    for name in request.names:
        if name not in dataset.superclasses:
            raise UserError(f"{dataset.name} has no superclass {name!r}; {_choices(name, tuple(dataset.superclasses))}")
        wanted += [dataset.classes.index(member) for member in dataset.superclasses[name]]
    return _of_classes(wanted, dataset, train)


def _listed(request: ForgetRequest, dataset: Dataset, train: np.ndarray, seed: int) -> np.ndarray:
    listed = read_image_list(request.path, dataset)
    outside = np.setdiff1d(listed, train)
    if len(outside):
        name = f" ({dataset.file_names[outside[0]]})" if dataset.file_names else ""
        raise UserError(
            f"image {outside[0]}{name} in {request.path} was held out or is a test image: never trained on, it cannot "
            f"be forgotten; take it and {len(outside) - 1} more like it off the list"
        )
    return listed


def _class_index(name: str, dataset: Dataset) -> int:
    if name in dataset.classes:
        return dataset.classes.index(name)
    if re.fullmatch(r"[0-9]{1,9}", name) and int(name) < dataset.num_classes:
        return int(name)
    raise UserError(f"{dataset.name} has no class {name!r}; {_choices(name, dataset.classes)}")


def _choices(name: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"choose from {shown} (numbers 0 to {len(names) - 1} for classes)"


def _of_classes(wanted: list[int], dataset: Dataset, train: np.ndarray) -> np.ndarray:
    return train[np.isin(dataset.labels.numpy()[train], wanted)]


SELECTORS = {
    "random": _random,
    "class": _classes,
    "superclass": _superclasses,
    "mislabelled": _random,
    "file": _listed,
}
