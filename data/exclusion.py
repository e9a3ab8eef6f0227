"""Hashes of decoded pixels, by which a later training recognises pictures that were forgotten."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.datasets import Dataset
from data.image_list import lines
from data.pictures.listing import read_pictures
from data.preprocessing import upright
from data.split_record import Splits
from helper_functions.errors import UserError
from helper_functions.training.distribution import say
from helper_functions.wording import counted

# Beside the weights that have forgotten.
HASHES = "forgotten.sha256"


def pixel_hashes(dataset: Dataset, images: Sequence[int]) -> list[str]:
    """Of each image, SHA-256 of its height, its width and its RGB pixels, in hexadecimal.

    Pictures of an image folder are read again: hashed are those of the files, whole and upright, whatever they become.
    """
    if not len(images):
        return []
    if dataset.folder is None:
        return [_digest(dataset.images[index].permute(1, 2, 0).numpy()).tobytes().hex() for index in images]
    names = [dataset.file_names[index] for index in images]
    (digests,) = read_pictures(dataset.folder, names, [lambda image: _digest(np.asarray(upright(image)))])
    return [digest.tobytes().hex() for digest in digests]


def _digest(pixels: np.ndarray) -> np.ndarray:
    """SHA-256 of pixels uint8 [H, W, 1 or 3], as uint8 [32]; grey ones are hashed as RGB."""
    height, width, _ = pixels.shape
    content = np.broadcast_to(pixels, (height, width, 3)).tobytes()
    return np.frombuffer(hashlib.sha256(f"{height} {width}\n".encode() + content).digest(), np.uint8)


def read_hashes(path: str | Path, images: int) -> set[str]:
    """The hashes that a file lists, one a line; lines that begin with # are skipped.

    Raises UserError for anything else, for a file that cannot be read, and for many times more lines than images.
    """
    found = set()
    for where, line in lines(path, images, f"hashes, such as the {HASHES} of a run"):
        if not re.fullmatch(r"[0-9a-f]{64}|#.*|", entry := line.strip()):
            raise UserError(f"--exclude, {where} of {path}: no hash; give the {HASHES} of a run")
        if entry and not entry.startswith("#"):
            found.add(entry)
    return found


def exclude(splits: Splits, dataset: Dataset, path: str | Path) -> Splits:
    """The splits without the images whose hashes a file lists, which join `forgotten`; says how many there are.

    Raises UserError where the file is none of hashes, or names all of a part.
    """
    listed = read_hashes(path, len(dataset.labels))
    hashes = pixel_hashes(dataset, range(len(dataset.labels)))
    found = torch.tensor([index for index, each in enumerate(hashes) if each in listed], dtype=torch.int64)
    named = len({hashes[index] for index in found.tolist()})
    pictures, images = counted(len(listed), "picture"), counted(len(found), "image")
    say(f"exclude  {named:,} of the {pictures} of {path} found: {images} left out")
    left = splits.without(found)
    if empty := [part for part in ("train", "validation", "test") if not len(getattr(left, part))]:
        raise UserError(f"--exclude {path}: it leaves no {empty[0]} image; give more data")
    return left
