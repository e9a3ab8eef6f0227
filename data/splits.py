"""Division of a data set into train, validation, unseen, forget, retain and test."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data.datasets import Dataset
from data.forget import (
    BY_NAME,
    ForgetRequest,
    corrupt_labels,
    describe,
    images_by_name,
    known_share,
    parse_forget,
    parse_fraction,
    select_forget,
)
from data.image_list import read_image_list
from data.partition import Partition, stratified_share
from data.random_streams import random_state
from data.split_record import Splits
from helper_functions.errors import UserError


def make_splits(
    dataset: Dataset, forget: str | None, *, validation: str = "0.1", test: float = 0.2, seed: int = 0,
    confusion: str = "uniform", foreign: bool = False, previous: Splits | None = None, with_copies: bool = False,
    groups: str | None = None, subset: int | None = None,
) -> Splits:  # fmt: skip
    """Split a data set; the train, held-out and test parts depend on it, the fractions and the seed alone.

    In an image folder, images that a request names one by one are never drawn into the held-out or the test part.

    forget: a request in the grammar of `parse_forget`, or None for plain training (nothing to forget, no unseen).
    groups: table of groups, for a request that names some.
    validation: the fraction of the training part that is held out, or `file:PATH`, a list of the images to hold out
    (for foreign weights: the images they were not trained on). subset: how many images of the training part are used,
    drawn by class; the others are in no part. test: the share of images, by class, of a data set
    without an official test part. confusion: `uniform` or `pairwise`, for `mislabelled`. foreign: the weights were
    trained elsewhere, on the whole training part without the list. previous: the splits saved with the weights; their
    partition and labels are kept, and they are returned unchanged unless another forget set is requested; a forget set
    without a request joins the one that is requested. with_copies: training images with the same pixels as a forget
    image are forgotten as well.
    Exact copies of an image are kept together in train, held-out or test, unless a list or the official test part
    divides them. Raises UserError for a request that cannot be met.
    """
    request = None if forget is None else parse_forget(forget)
    if request is not None and request.kind == "group":
        request = replace(request, path=groups)
    mislabelled = request is not None and request.kind == "mislabelled"
    if with_copies and mislabelled:
        raise UserError(f"--with_copies: {forget} forgets wrong labels, and copies have right ones; leave it out")
    if previous is not None:
        return _from_previous(previous, dataset, request, forget, seed, with_copies)
    if foreign and mislabelled:
        raise UserError(f"{forget} corrupts labels before training; weights trained elsewhere need file: or class:")
    named = images_by_name(request, dataset) if request is not None and request.kind in BY_NAME else np.array([], int)
    if subset is not None and (foreign or dataset.file_names is not None or str(validation).startswith("file:")):
        raise UserError(f"--subset {subset}: draws from a built-in data set, for models trained here; leave it out")
    partition = _partition(dataset, str(validation), test, seed, foreign, named, subset)
    forget_set = _select(request, dataset, partition, seed, with_copies)
    labels = dataset.labels
    if mislabelled:
        labels = corrupt_labels(labels, forget_set, dataset.num_classes, confusion, random_state(seed, "confusion"))
        forget_set = known_share(request, forget_set, seed)
    return _assemble(dataset, partition, forget_set, labels, forget or "", seed)


def _from_previous(
    previous: Splits, dataset: Dataset, request: ForgetRequest | None, forget: str | None, seed: int, with_copies: bool
) -> Splits:
    if request is None:
        return previous
    same = bool(previous.forget_request) and parse_forget(previous.forget_request) == request
    # A list may have been edited since: the same path does not imply the same forget set.
    if same and request.kind not in BY_NAME and not with_copies:
        return previous
    if request.kind == "mislabelled":
        before = previous.forget_request or "no forget set"
        raise UserError(f"{forget} corrupts labels before training, but these weights were trained with {before}")
    held_out = np.sort(torch.cat([previous.validation, previous.unseen]).numpy())
    partition = Partition(
        previous.train.numpy(), held_out, previous.test.numpy(), previous.final_test, previous.forgotten.numpy(),
        previous.deleted, np.empty(0, np.int64) if previous.forget_request else previous.forget.numpy(),
    )  # fmt: skip
    forget_set = _select(request, dataset, partition, seed, with_copies)
    if same and np.array_equal(forget_set, previous.forget.numpy()):
        return previous
    return _assemble(dataset, partition, forget_set, previous.labels, forget, seed)


def _partition(
    dataset: Dataset, validation: str, test: float, seed: int, foreign: bool, named: np.ndarray, subset: int | None
) -> Partition:
    own = np.arange(dataset.num_train)
    official = np.arange(dataset.num_train, len(dataset.labels))
    listed = read_image_list(validation[5:], dataset) if validation.startswith("file:") else None
    if listed is not None and len(listed) == len(own):
        raise UserError(f"{validation} lists the whole training part of {dataset.name}; leave some to train on")
    groups = dataset.copy_groups
    # Around the request, where the pictures are the user's own; copies stay together.
    spared = np.isin(groups, groups[named] if dataset.file_names is not None else [])

    def share(candidates: np.ndarray, fraction: float, purpose: str, asked: str = "half") -> np.ndarray:
        candidates = candidates[~spared[candidates]] if purpose != "half" else candidates
        rng = random_state(seed, purpose)
        drawn = stratified_share(dataset.strata.numpy(), groups, candidates, fraction, rng)
        if len(drawn) == 0:
            raise UserError(f"{asked} of {len(candidates)} images is no image; give more")
        return drawn

    if foreign and listed is None:
        if len(official) == 0:
            raise UserError(f"{dataset.name} has no test part: name images never seen by --validation file:PATH")
        held_out = share(official, 0.5, "half")
        return Partition(own, held_out, np.setdiff1d(official, held_out), "half of official test")
    if foreign and len(official) == 0:
        held_out = share(listed, 0.5, "half")
        return Partition(np.setdiff1d(own, listed), held_out, np.setdiff1d(listed, held_out), "half of the never-seen")
    final_test = "official test"
    if len(official) == 0:
        parse_fraction(str(test), "--test")
        candidates = own if listed is None else np.setdiff1d(own, listed)
        official, final_test = share(candidates, test, "test", f"--test {test}"), "stratified"
        own = np.setdiff1d(own, official)
    if subset is not None:
        if not len(dataset.classes) <= subset <= len(own):
            raise UserError(
                f"--subset {subset}: {dataset.name} has {len(own)} training images of {len(dataset.classes)} classes"
            )
        own = np.setdiff1d(own, share(own, 1 - subset / len(own), "left out")) if subset < len(own) else own
    if listed is None:
        fraction = parse_fraction(validation, "--validation")
        listed = share(own, fraction, "held-out", f"--validation {validation}")
    return Partition(np.setdiff1d(own, listed), listed, official, final_test)


def _select(
    request: ForgetRequest | None, dataset: Dataset, partition: Partition, seed: int, with_copies: bool
) -> np.ndarray:
    if request is None:
        return np.empty(0, dtype=np.int64)
    forget, train = np.union1d(select_forget(request, dataset, partition, seed), partition.asked_again), partition.train
    if with_copies:
        groups = dataset.copy_groups
        forget = train[np.isin(groups[train], groups[forget])]
    if len(forget) == len(train):
        more = "its copies" if with_copies else "those asked for again"
        raise UserError(f"{describe(request)} and {more} are the whole training set; ask for less")
    return forget


def _draw_unseen(dataset: Dataset, held_out: np.ndarray, forget: np.ndarray, seed: int) -> np.ndarray:
    """Half, rounded down, of the held-out images of each class, or subclass, in the forget set: sorted int64 indices.
    """
    labels, names = dataset.strata.numpy(), dataset.subclasses or dataset.classes
    drawn = [np.empty(0, dtype=np.int64)]
    for label in np.unique(labels[forget]):
        held = held_out[labels[held_out] == label]
        if len(held) < 2:
            raise UserError(
                f"class {names[label]} is in the forget set but has {len(held)} held-out images, and unseen "
                "takes half of them: raise --validation, list more of its images there, or forget fewer of them"
            )
        # A stream for each class: the unseen images of one do not depend on which others are forgotten.
        drawn.append(random_state(seed, "unseen", label).permutation(held)[: len(held) // 2])
    return np.sort(np.concatenate(drawn))


def _assemble(
    dataset: Dataset, partition: Partition, forget: np.ndarray, labels: Tensor, forget_request: str, seed: int
) -> Splits:
    unseen = _draw_unseen(dataset, partition.held_out, forget, seed)
    parts = {
        "train": partition.train,
        "validation": np.setdiff1d(partition.held_out, unseen),
        "unseen": unseen,
        "forget": forget,
        "retain": np.setdiff1d(partition.train, forget),
        "test": partition.test,
        "forgotten": partition.forgotten,
    }
    return Splits(
        **{name: torch.from_numpy(part.astype(np.int64)) for name, part in parts.items()},
        labels=labels, forget_request=forget_request, dataset=dataset.name, seed=seed,
        final_test=partition.final_test, file_names=dataset.file_names, deleted=partition.deleted,
    )  # fmt: skip
