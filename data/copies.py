"""Exact copies of forget images in other parts of the data set, by decoded pixels."""

import numpy as np

from data.datasets import Dataset
from data.forget import NAMED
from data.image_list import and_more, name_image
from data.partition import copy_groups
from data.split_record import Splits

EXAMPLES = 20
# The parts in which a copy affects the result, and how. Images that were forgotten before are no such part.
MEANING = {
    "retain": "they stay in training; forget them by --with_copies, or list them as well",
    "validation": "epochs are chosen by images that were trained on",
    "unseen": "the target of forgetting was trained on",
    "test": "attacks and test figures use images that were trained on",
}


def find_copies(dataset: Dataset, splits: Splits) -> dict[str, dict]:
    """For each part with copies of forget images: their `count`, and up to 20 `examples`.

    An example is the first such forget image and its copy, each by its file name, or its index where it has no name.
    """
    if len(splits.forget) == 0:
        return {}
    groups = copy_groups(dataset.images)
    first = {int(groups[image]): image for image in reversed(splits.forget.tolist())}
    found = {}
    for name in MEANING:
        part = getattr(splits, name).numpy()
        copies = part[np.isin(groups[part], list(first))]
        pairs = [(first[int(groups[image])], image) for image in copies[:EXAMPLES]]
        if len(copies):
            examples = [[name_image(image, dataset) for image in pair] for pair in pairs]
            found[name] = {"count": len(copies), "examples": examples}
    return found


def tell_copies(copies: dict[str, dict], splits: Splits) -> list[str]:
    """A line for each part in a result of `find_copies`: the number of copies, the first of them, and their effect."""
    wrong = splits.forget_request.startswith("mislabelled")
    meaning = MEANING | ({"retain": "there they have their right labels"} if wrong else {})
    lines = []
    for name, found in copies.items():
        named = and_more([f"{image} = {copy}" for image, copy in found["examples"][:NAMED]], found["count"])
        lines.append(f"copies   {found['count']:,} in {name} ({named}): {meaning[name]}")
    return lines
