"""A user's own pictures: a folder with a folder for each class."""

import contextlib
import os
import stat
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.preprocessing import Reader
from helper_functions.errors import UserError
from helper_functions.training.distribution import say
from helper_functions.wording import counted

if TYPE_CHECKING:
    from PIL.Image import Image

# Other formats of Pillow's need other programs, hold no pictures of classes, or are rarely fuzzed.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
# Pictures of more pixels are decoded one at a time, because a small file can unpack to gigabytes.
LARGE = 16_000_000
_one_large = threading.Lock()


@dataclass(frozen=True, eq=False)
class Listing:
    """What an image folder holds: sorted class names, and the pictures in the order of their names.

    files: relative to the folder, with forward slashes; labels: int64 [N]; stamps: size in bytes and time of the last
    change in nanoseconds, int64 [N, 2].
    """

    folder: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    stamps: np.ndarray

    def only(self, wanted: np.ndarray) -> "Listing":
        """The pictures at some places; UserError for a class that is left without any."""
        missing = np.setdiff1d(np.arange(len(self.classes)), self.labels[wanted])
        if len(missing):
            kinds = ", ".join(FORMATS)
            raise UserError(f"class folder {self.folder / self.classes[missing[0]]} holds no readable picture "
                            f"({kinds}); remove or fill it")  # fmt: skip
        files = tuple(self.files[place] for place in wanted.tolist())
        return replace(self, files=files, labels=self.labels[wanted], stamps=self.stamps[wanted])


def joined_names(files: Sequence[str]) -> bytes:
    """File names, joined by NUL, which none of them contains."""
    return "\0".join(files).encode("utf-8", "surrogateescape")


def names_in(joined: bytes) -> tuple[str, ...]:
    """Inverse of `joined_names`."""
    return tuple(joined.decode("utf-8", "surrogateescape").split("\0"))


def read_pictures(folder: Path, files: Sequence[str], readers: Sequence[Reader]) -> list[np.ndarray]:
    """Pictures of a folder as each of the readers reads them, `[n, H, W, C]` a reader; each file is decoded once."""

    def read(name: str) -> list[np.ndarray]:
        with opened(folder / name) as image:
            return [reader(image) for reader in readers]

    with strict(), ThreadPoolExecutor() as pool:
        return [np.stack(found) for found in zip(*pool.map(read, files), strict=True)]


def list_images(folder: Path) -> Listing:
    """The pictures in `folder/<class>/**/`, in any of `FORMATS`; none of them is opened.

    Links to files and to class folders are followed, other links to folders are not. Files of other kinds are counted
    on standard error. Raises UserError for a folder without classes.
    """
    files, labels, stamps, others = [], [], [], []
    try:
        classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        # A network's file system answers many questions in the time of one.
        with ThreadPoolExecutor() as pool:
            for label, (found, left) in enumerate(pool.map(partial(_pictures, str(folder)), classes)):
                files += [each for each, _, _ in found]
                stamps += [each[1:] for each in found]
                labels += [label] * len(found)
                others += left
    except OSError as error:
        raise UserError(f"--data_dir {folder}: {error.strerror}; give a folder of class folders") from error
    if len(classes) < 2:
        count = f"one class folder, {classes[0]}" if classes else "no class folders"
        raise UserError(f"--data_dir {folder}: it has {count}; give a folder with at least two")
    if others:
        kinds = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in others).most_common()
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
        say(f"left out {counted(len(others), 'file of other kinds')}: {told} (first: {min(others)})", file=sys.stderr)
    stamps = np.array(stamps, dtype=np.int64).reshape(-1, 2)
    return Listing(folder, tuple(classes), tuple(files), np.array(labels, dtype=np.int64), stamps)


def _pictures(root: str, name: str) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Regular files in a class folder and its sub-folders, by their names relative to the root, in their order.

    Those with a picture's suffix, with their size and time, and others that are not hidden. Opening a FIFO or a device
    would block. `os.walk` recurses in Python 3.11, so that a deep folder would exhaust the stack.
    """
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    found, others, folders = [], [], [name]
    while folders:
        inside = folders.pop()
        with os.scandir(os.path.join(root, inside)) as entries:
            for entry in entries:
                each, name = f"{inside}/{entry.name}", entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(each)
                    continue
                try:
                    status = entry.stat()
                except OSError:  # a link to itself, or to nothing
                    continue
                if name[0] == "." or not stat.S_ISREG(status.st_mode):
                    continue
                if name[name.rfind(".") :].lower() in suffixes:
                    found.append((each, status.st_size, status.st_mtime_ns))
                else:
                    others.append(each)
    return sorted(found), others


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Inside, a picture that unpacks to very many pixels is an error, and malformed EXIF data, which is ignored, not.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def opened(path: str | Path, one_large: contextlib.AbstractContextManager = _one_large) -> "Iterator[Image]":
    """An open picture; of the large ones, one at a time is open among all who share the lock."""
    from PIL import Image

    with (
        Image.open(path, formats=FORMATS) as image,
        one_large if image.width * image.height > LARGE else contextlib.nullcontext(),
    ):
        yield image
