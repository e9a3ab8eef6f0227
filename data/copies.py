"""Forget images that stand elsewhere in the data set as well: exact copies, by pixels as they were decoded."""

import numpy as np

from data.datasets import Dataset
from data.forget import NAMED
from data.image_list import and_more, name_image
from data.partition import copy_groups
from data.split_record import Splits

# Where a copy says something about the result; a copy that was forgotten before does not.
PARTS = ("retain", "validation", "unseen", "test")
EXAMPLES = 20
MEANING = {
    "retain": "they keep on teaching what is to be forgotten; --with_copies forgets them, too, or list them beside it",
    "validation": "epochs are chosen by images that were trained on",
    "unseen": "what forgetting is steered to was trained on",
    "test": "attacks and test figures look at images that were trained on",
}

Copies = dict[str, list[tuple[int, int]]]


def find_copies(dataset: Dataset, splits: Splits) -> Copies:
    """For each part that has some, pairs of a forget image and one of the part's that equals it bit by bit.

    Each image of the part stands in one pair, with the first forget image that it equals; in the order of the part.
    """
    if len(splits.forget) == 0:
        return {}
    groups = copy_groups(dataset.images)
    first = {int(groups[image]): image for image in reversed(splits.forget.tolist())}
    found = {}
    for name in PARTS:
        part = getattr(splits, name).numpy()
        copies = part[np.isin(groups[part], list(first))]
        if len(copies):
            found[name] = [(first[int(groups[image])], image) for image in copies.tolist()]
    return found


def tell_copies(copies: Copies, dataset: Dataset) -> list[str]:
    """A line for each part: how many images, the first of them, and what it means."""
    lines = []
    for name, pairs in copies.items():
        named = [f"{name_image(image, dataset)} = {name_image(copy, dataset)}" for image, copy in pairs[:NAMED]]
        lines.append(f"copies   {len(pairs):,} in {name} ({and_more(named, len(pairs))}): {MEANING[name]}")
    return lines


def report_copies(copies: Copies, dataset: Dataset) -> dict[str, dict]:
    """The same for a report: by part, `count` and up to 20 `examples`, each a forget image and its copy by name."""
    return {
        name: {
            "count": len(pairs),
            "examples": [[name_image(image, dataset) for image in pair] for pair in pairs[:EXAMPLES]],
        }
        for name, pairs in copies.items()
    }
