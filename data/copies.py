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


def find_copies(dataset: Dataset, splits: Splits) -> dict[str, dict]:
    """For each part that has some: `count`, and up to 20 `examples`, of its images that equal a forget image bit by bit.

    An example is the first such forget image and the part's, each by its file name or, where there are none, its index.
    """
    if len(splits.forget) == 0:
        return {}
    groups = copy_groups(dataset.images)
    first = {int(groups[image]): image for image in reversed(splits.forget.tolist())}
    found = {}
    for name in PARTS:
        part = getattr(splits, name).numpy()
        copies = part[np.isin(groups[part], list(first))]
        pairs = [(first[int(groups[image])], image) for image in copies[:EXAMPLES]]
        if len(copies):
            examples = [[name_image(image, dataset) for image in pair] for pair in pairs]
            found[name] = {"count": len(copies), "examples": examples}
    return found


def tell_copies(copies: dict[str, dict], splits: Splits) -> list[str]:
    """A line for each part of what `find_copies` gave: how many images, the first of them, and what it means."""
    wrong = splits.forget_request.startswith("mislabelled")
    meaning = MEANING | ({"retain": "there they have their right labels"} if wrong else {})
    lines = []
    for name, found in copies.items():
        named = and_more([f"{image} = {copy}" for image, copy in found["examples"][:NAMED]], found["count"])
        lines.append(f"copies   {found['count']:,} in {name} ({named}): {meaning[name]}")
    return lines
