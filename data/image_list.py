"""Text files that list images of a data set: one index or file name a line."""

import posixpath
from pathlib import Path

import numpy as np

from data.datasets import Dataset
from helper_functions.errors import UserError
from helper_functions.safe_files.regular_files import open_text

# A wrong path, such as a video's, ends in an error before it fills the memory.
LONGEST_LINE = 4096
LINES_PER_IMAGE, FURTHER_LINES = 10, 1000


def read_image_list(path: str | Path, dataset: Dataset) -> np.ndarray:
    """The images that a file lists, as sorted distinct int64 indices into the data set's own training part.

    A line is an index in the training part's order, from 0, or, for an image folder, a file name relative to it; blank
    lines and lines that begin with # are skipped. Raises UserError naming the line for anything else, and for a file
    that cannot be read, lists nothing, or has many times more lines than the data set has images.
    """
    names = {name: index for index, name in enumerate(dataset.file_names or ())}
    most = LINES_PER_IMAGE * dataset.num_train + FURTHER_LINES
    found: set[int] = set()
    try:
        with open_text(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), start=1):
                where = f"line {number} of {path}"
                if number > most:
                    many = f"{path} has more than {most} lines, and {dataset.name} {dataset.num_train} images to list"
                    raise UserError(f"{many}; list each once")
                if len(line) > LONGEST_LINE:
                    raise UserError(f"{where} is longer than {LONGEST_LINE} characters; list one image")
                entry = line.strip()
                if entry and not entry.startswith("#"):
                    found.add(_resolve(entry, names, dataset, where))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a file with one image a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text; give a file with one index or file name a line") from error
    if not found:
        raise UserError(f"{path} lists no image; give one index or file name a line")
    return np.array(sorted(found), dtype=np.int64)


def name_image(index: int, dataset: Dataset) -> str | int:
    """An image's entry in a list: its file name where the data set has file names, else its index."""
    return int(index) if dataset.file_names is None else dataset.file_names[index]


def and_more(names: list[str], count: int) -> str:
    """The first few names out of `count`, and the number of the others."""
    more = count - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


def _resolve(entry: str, names: dict[str, int], dataset: Dataset, where: str) -> int:
    # An entry is only compared with the data set's own names and never opened, so it cannot lead out of the folder.
    for name in (entry, posixpath.normpath(entry)):
        if name in names:
            return names[name]
    shown = repr(entry if len(entry) <= 200 else f"{entry[:200]}…")
    if not (entry.isascii() and entry.isdigit()):
        expected = "an index or a file name of the data set" if names else "an index"
        raise UserError(f"{where}: {shown} is no image of {dataset.name}; give {expected}")
    # Python refuses to convert numbers of thousands of digits; no data set has an index of 19.
    index = int(entry) if len(entry) < 19 else dataset.num_train
    if index >= dataset.num_train:
        outside = f"{shown} is not in the training part of {dataset.name}"
        raise UserError(f"{where}: {outside}; give an index from 0 to {dataset.num_train - 1}")
    return index
