"""What to forget: the grammar of `--forget`, the images that a request selects, and labels corrupted on purpose."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.datasets import Dataset
from data.image_list import NAMED, and_more, name_image, read_group, read_image_list, read_requests
from data.partition import Partition
from data.random_streams import random_state
from helper_functions.errors import UserError
from helper_functions.training.distribution import say
from helper_functions.wording import counted, did_you_mean

GRAMMAR = (
    "random:0.1, random:500, long_tailed:0.1:10, class:apple,7, superclass:fish, mislabelled:0.1, group:NAME or "
    "file:PATH"
)
# Fewer random images than these need the word, since random:2 may be meant as a share.
FEWEST_UNNAMED = 10
CONFUSIONS = ("uniform", "pairwise")


@dataclass(frozen=True)
class ForgetRequest:
    """A parsed request; of the optional fields, those that the kind needs are set.

    `path` is that of a list, of a table of requests, or, for a group, of the table of groups. `imbalance` is how many
    times as many images of the most frequent class there are as of the rarest; `share`, which part of the wrong labels
    is known, and is forgotten.
    """

    kind: str
    fraction: float | None = None
    count: int | None = None
    names: tuple[str, ...] = ()
    path: str | None = None
    imbalance: float | None = None
    share: float | None = None


def parse_forget(spec: str) -> ForgetRequest:
    """Parse a request in the grammar of `GRAMMAR`; a fraction is one of the training set.

    Raises UserError for anything else, naming the part that is wrong.
    """
    kind, colon, value = spec.partition(":")
    kind, value = kind.strip(), value.strip()
    if kind not in SELECTORS:
        hint = f"; did you mean file:{spec}?" if os.path.isfile(spec) else did_you_mean(kind, SELECTORS)
        raise UserError(f"unknown forget request {spec!r}{hint or f'; write {GRAMMAR}'}")
    if not colon or not value:
        raise UserError(f"forget request {spec!r} names nothing after '{kind}:'; write {GRAMMAR}")
    if kind in ("file", "requests"):
        return ForgetRequest(kind, path=value)
    if kind in ("class", "superclass", "group"):
        names = tuple(name.strip() for name in value.split(","))
        if not all(names):
            raise UserError(f"forget request {spec!r} has an empty name; separate names by single commas")
        return ForgetRequest(kind, names=names)
    if kind == "random" and (number := re.fullmatch(r"\+?([0-9]{1,18})( ?images?)?", value)):
        count = int(number[1])
        if count == 0:
            raise UserError(f"forget request {spec!r} asks for no image; give a positive number")
        if count < FEWEST_UNNAMED and not number[2]:
            images = counted(count, "image")
            ways = f"random:{images.replace(' ', '')} or random:{count / 100:g}"
            raise UserError(f"forget request {spec!r}: {images} or {count} %? write {ways}")
        return ForgetRequest(kind, count=count)
    what, (fraction, further, factor) = f"forget request {spec!r}", value.partition(":")
    if kind == "long_tailed":
        return ForgetRequest(kind, fraction=parse_fraction(fraction, what), imbalance=_parse_imbalance(factor, what))
    if kind == "mislabelled" and further:
        share = parse_fraction(factor, f"{what}, share of the wrong labels that is forgotten")
        return ForgetRequest(kind, fraction=parse_fraction(fraction, what), share=share)
    return ForgetRequest(kind, fraction=parse_fraction(value, what))


def _parse_imbalance(text: str, what: str) -> float:
    try:
        imbalance = float(text)
    except ValueError:
        imbalance = math.nan
    if not 1 <= imbalance < math.inf:
        raise UserError(
            f"{what}: imbalance factor {text!r}; give, after the fraction, how many times as many images of the most "
            "frequent class there are as of the rarest, such as long_tailed:0.1:10"
        )
    return imbalance


def parse_fraction(text: str, what: str) -> float:
    """A number strictly between 0 and 1; `what` opens the UserError that is raised for anything else."""
    try:
        fraction = float(text)
    except ValueError:
        raise UserError(f"{what}: {text!r} is not a number; give a fraction such as 0.1") from None
    if not 0 < fraction < 1:
        raise UserError(f"{what}: {text} is not strictly between 0 and 1; give a fraction such as 0.1")
    return fraction


def select_forget(request: ForgetRequest, dataset: Dataset, partition: Partition, seed: int) -> np.ndarray:
    """The forget set: sorted int64 indices out of the partition's training images.

    Classes are true classes. Listed images that earlier requests forgot are skipped and named on standard output; a
    random set uses another random stream than those of earlier requests. Raises UserError for a class, superclass or
    file that does not exist, an image outside the training set, and a forget set that is empty or all of it.
    """
    forget = np.unique(SELECTORS[request.kind](request, dataset, partition, seed))
    if len(forget) == 0:
        before = ": earlier requests may have forgotten it" if partition.num_forgotten else ""
        raise UserError(f"the forget set {describe(request)} is empty{before}; ask for more")
    if len(forget) == len(partition.train):
        raise UserError(f"the forget set {describe(request)} is the whole training set; ask for less, or train anew")
    return forget


def describe(request: ForgetRequest) -> str:
    """The request in the grammar of `GRAMMAR`."""
    count = None if request.count is None else f"{request.count}{'images' * (request.count < FEWEST_UNNAMED)}"
    values = (request.path, count, request.fraction)
    value = ",".join(request.names) or next(value for value in values if value is not None)
    factor = request.imbalance or request.share
    return f"{request.kind}:{value}" + ("" if factor is None else f":{factor}")


def corrupt_labels(
    labels: Tensor, indices: np.ndarray, num_classes: int, kind: str, rng: np.random.RandomState
) -> Tensor:
    """A copy of labels, int64 [N], in which those at `indices` are wrong.

    kind: `uniform`, any other class with the same probability, or `pairwise`, the next class (the last becomes the
    first).
    """
    # The int64 is explicit: RandomState's default integer, and with it the draws, differs between platforms.
    shift = rng.randint(1, num_classes, size=len(indices), dtype=np.int64) if kind == "uniform" else 1
    corrupted, positions = labels.clone(), torch.as_tensor(indices, dtype=torch.int64)
    corrupted[positions] = torch.from_numpy((labels[positions].numpy() + shift) % num_classes)
    return corrupted


def _random(request: ForgetRequest, dataset: Dataset, partition: Partition, seed: int) -> np.ndarray:
    train = np.setdiff1d(partition.train, partition.asked_again)
    before = partition.num_forgotten + len(partition.asked_again)
    count = round(request.fraction * len(train)) if request.count is None else request.count
    if count >= len(train):
        raise UserError(f"{describe(request)} is {count} of {len(train)} training images; leave some to be retained")
    # The number of images forgotten before grows with each request, so it identifies the request's random stream.
    purpose = ("forget", before) if before else ("forget",)
    return random_state(seed, *purpose).permutation(train)[:count]


def _long_tailed(request: ForgetRequest, dataset: Dataset, partition: Partition, seed: int) -> np.ndarray:
    """Numbers of images that fall exponentially from class to class, in an order of the classes that is drawn."""
    train, labels = np.setdiff1d(partition.train, partition.asked_again), dataset.labels.numpy()
    rng = random_state(seed, "long tail", partition.num_forgotten + len(partition.asked_again))
    classes = rng.permutation(np.unique(labels[train]))
    shares = request.imbalance ** -np.linspace(0, 1, len(classes))
    # Of cumulated shares, so that the sum is right.
    ends = np.round(round(request.fraction * len(train)) * np.cumsum(shares) / shares.sum()).astype(np.int64)
    drawn = []
    for label, count in zip(classes, np.diff(ends, prepend=0), strict=True):
        members = train[labels[train] == label]
        if not 0 < count < len(members):
            raise UserError(
                f"{describe(request)} takes {counted(int(count), 'image')} of class {dataset.classes[label]}, which "
                f"has {len(members)}; give a smaller imbalance factor, or a {'smaller' if count else 'larger'} fraction"
            )
        drawn.append(rng.permutation(members)[:count])
    return np.concatenate(drawn)


def known_share(request: ForgetRequest, wrong: np.ndarray, seed: int) -> np.ndarray:
    """Of the images whose labels are wrong, sorted int64, those that are known and forgotten."""
    if request.share is None:
        return wrong
    count = round(request.share * len(wrong))
    if count in (0, len(wrong)):
        raise UserError(f"{describe(request)} lists {count} of {len(wrong)} wrong labels; give another share")
    return np.sort(random_state(seed, "known").permutation(wrong)[:count])


def _classes(request: ForgetRequest, dataset: Dataset, partition: Partition, seed: int) -> np.ndarray:
    # An image folder's class may have a comma in its name.
    whole = [name for name in (",".join(request.names), ", ".join(request.names)) if name in dataset.classes]
    return _named_images(whole or request.names, dataset, partition.train)


def _superclasses(request: ForgetRequest, dataset: Dataset, partition: Partition, seed: int) -> np.ndarray:
    if not dataset.superclasses:
        raise UserError(f"{dataset.name} has no superclasses; use class:NAME, or --dataset cifar100")
    for name in request.names:
        if name not in dataset.superclasses:
            raise UserError(f"{dataset.name} has no superclass {name!r}{_choices(name, tuple(dataset.superclasses))}")
    members = [member for name in request.names for member in dataset.superclasses[name]]
    return _named_images(members, dataset, partition.train)


def images_by_name(request: ForgetRequest, dataset: Dataset) -> np.ndarray:
    """The images that a request of one of `BY_NAME` names, in whatever part they are: sorted int64 indices."""
    if request.kind == "file":
        return read_image_list(request.path, dataset)
    if request.kind == "requests":
        return np.unique(np.concatenate([each.images for each in read_requests(request.path, dataset)]))
    if request.path is None:
        raise UserError(f"forget request {describe(request)!r}: name the table of groups by --groups FILE.csv")
    return read_group(request.path, request.names, dataset)


def _listed(request: ForgetRequest, dataset: Dataset, partition: Partition, seed: int) -> np.ndarray:
    listed = images_by_name(request, dataset)
    never = np.setdiff1d(listed, np.concatenate([partition.train, partition.forgotten]))
    if len(never):
        test = np.isin(never[:NAMED], partition.test)
        parts = [
            f"{name_image(image, dataset)} ({'test' if final else 'validation'})"
            for image, final in zip(never[:NAMED], test, strict=True)
        ]
        raise UserError(
            f"{request.path} lists images that were held out, never trained on, and so cannot be forgotten: "
            f"{and_more(parts, len(never))}; take them off the list"
        )
    before = np.intersect1d(listed, partition.forgotten)
    if len(before) == 0:
        return listed
    names = and_more([str(name_image(image, dataset)) for image in before[:NAMED]], len(before))
    if len(before) == len(listed):
        raise UserError(f"{request.path} lists only images that earlier requests forgot: {names}; list other images")
    say(f"skipped {counted(len(before), 'image')} of {request.path} that earlier requests forgot: {names}")
    return np.setdiff1d(listed, before)


def _named_images(names: Sequence[str], dataset: Dataset, images: np.ndarray) -> np.ndarray:
    """Those of the images that have one of the classes or subclasses, by true labels."""
    found = np.zeros(len(images), dtype=bool)
    for name in names:
        if name not in dataset.classes and name in dataset.subclasses:
            found |= dataset.sub_labels.numpy()[images] == dataset.subclasses.index(name)
        else:
            found |= dataset.labels.numpy()[images] == _class_index(name, dataset)
    return images[found]


def _class_index(name: str, dataset: Dataset) -> int:
    if name in dataset.classes:
        return dataset.classes.index(name)
    if re.fullmatch(r"[0-9]{1,9}", name) and int(name) < dataset.num_classes:
        return int(name)
    raise UserError(f"{dataset.name} has no class {name!r}{_choices(name, dataset.classes, dataset.subclasses)}")


def _choices(name: str, names: tuple[str, ...], further: tuple[str, ...] = ()) -> str:
    if hint := did_you_mean(name, names + further):
        return hint
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"; choose from {shown} (numbers 0 to {len(names) - 1} for classes)"


SELECTORS = {
    "random": _random,
    "long_tailed": _long_tailed,
    "class": _classes,
    "superclass": _superclasses,
    "mislabelled": _random,
    "group": _listed,
    "file": _listed,
    "requests": _listed,
}
# Kinds whose images are named one by one.
BY_NAME = ("group", "file", "requests")
