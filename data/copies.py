"""Copies of forget images in other parts: exact ones by decoded pixels, near-duplicates by perceptual hashes."""

import numpy as np
from PIL import Image

from data.datasets import Dataset
from data.image_list import NAMED, and_more, name_image
from data.pictures.pixel_cache import noted_hashes
from data.split_record import Splits

EXAMPLES = 20
# Of 64 bits; --near_duplicates auto, for an image folder. On CIFAR-100 it finds recompressed, resized and brightened
# pictures, and no pair of other ones among 3.5 million.
NEAR = 6
# Images of a part that are compared at a time.
BLOCK = 4096
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
    groups = dataset.copy_groups
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


def near_distance(asked: int | str, dataset: Dataset) -> int | None:
    """Bits of --near_duplicates; None: no image is compared. `auto` compares photographs, not built-in data sets."""
    if asked == "auto":
        return NEAR if dataset.file_names is not None else None
    return None if asked == "off" else asked


def find_near_duplicates(dataset: Dataset, splits: Splits, distance: int) -> dict:
    """Images of other parts whose perceptual hash differs by at most `distance` of 64 bits from a forget image's.

    Gives `distance` and, for each of `parts` with such images, their `count` and up to 20 `examples`: the nearest
    forget image, the other one, and the bits between them. Exact copies are left out.
    """
    forget, groups, found = splits.forget.numpy(), dataset.copy_groups, {}
    parts = {name: getattr(splits, name).numpy() for name in MEANING if len(forget)}
    parts = {name: part[~np.isin(groups[part], groups[forget])] for name, part in parts.items()}
    images, hashes = np.concatenate([forget, *parts.values()]), np.zeros(len(groups), np.uint64)
    hashes[images] = noted_perceptual_hashes(dataset, images)
    ours = _signs(hashes[forget])
    for name, part in parts.items():
        count, examples = 0, []
        for start in range(0, len(part), BLOCK):
            images = part[start : start + BLOCK]
            bits = (64 - ours @ _signs(hashes[images]).T) / 2
            nearest, fewest = bits.argmin(0), bits.min(0)
            near = np.flatnonzero(fewest <= distance)
            count += len(near)
            for at in near[: EXAMPLES - len(examples)]:
                pair = [name_image(image, dataset) for image in (forget[nearest[at]], images[at])]
                examples.append([*pair, int(fewest[at])])
        if count:
            found[name] = {"count": count, "examples": examples}
    return {"distance": distance, "parts": found}


def noted_perceptual_hashes(dataset: Dataset, images: np.ndarray) -> np.ndarray:
    """Perceptual hashes, uint64 [n]; where a file holds the pixels, later runs find them there."""
    if dataset.pixel_file is None:
        return perceptual_hashes(dataset, images)
    names = [dataset.file_names[index] for index in images.tolist()]
    return noted_hashes(
        dataset.pixel_file, names, dataset.digests[images], lambda places: perceptual_hashes(dataset, images[places])
    )


def perceptual_hashes(dataset: Dataset, images: np.ndarray) -> np.ndarray:
    """pHash of each image, uint64 [n]: which of its 64 lowest frequencies are above their median (Zauner 2010).

    The bits are those of the library imagehash, which takes three times as long.
    """
    from scipy.fftpack import dct

    found = np.empty(len(images), np.uint64)
    for start in range(0, len(images), BLOCK):
        part = images[start : start + BLOCK]
        pixels = (dataset.picture(index).permute(1, 2, 0).numpy() for index in part)
        pictures = (Image.fromarray(each[:, :, 0] if each.shape[2] == 1 else each) for each in pixels)
        small = [np.asarray(each.convert("L").resize((32, 32), Image.Resampling.LANCZOS)) for each in pictures]
        low = dct(dct(np.stack(small), axis=1), axis=2)[:, :8, :8].reshape(-1, 64)
        bits = low > np.median(low, axis=1, keepdims=True)
        found[start : start + BLOCK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return found


def _signs(hashes: np.ndarray) -> np.ndarray:
    """The bits of hashes, uint64 [n], as 1 and -1, float32 [n, 64]."""
    return np.unpackbits(hashes[:, None].view(np.uint8), axis=1).astype(np.float32) * 2 - 1


def tell_near_duplicates(near: dict) -> list[str]:
    """A line for each part in a result of `find_near_duplicates`."""
    lines = []
    for name, found in near["parts"].items():
        named = and_more([f"{image} ~ {other}" for image, other, _ in found["examples"][:NAMED]], found["count"])
        lines.append(
            f"similar  {found['count']:,} in {name} ({named}): hashes within {near['distance']} of 64 bits; look at "
            "them, and list those that show the same"
        )
    return lines


def tell_copies(copies: dict[str, dict], splits: Splits) -> list[str]:
    """A line for each part in a result of `find_copies`: the number of copies, the first of them, and their effect."""
    wrong = splits.forget_request.startswith("mislabelled")
    meaning = MEANING | ({"retain": "there they have their right labels"} if wrong else {})
    lines = []
    for name, found in copies.items():
        named = and_more([f"{image} = {copy}" for image, copy in found["examples"][:NAMED]], found["count"])
        lines.append(f"copies   {found['count']:,} in {name} ({named}): {meaning[name]}")
    return lines
