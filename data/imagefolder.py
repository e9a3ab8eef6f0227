"""A user's own pictures: a folder with a folder for each class."""

import contextlib
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.preprocessing import Preprocessing, Reader
from helper_functions.errors import UserError
from helper_functions.progress import progress
from helper_functions.training.distribution import say
from helper_functions.wording import counted

if TYPE_CHECKING:
    from PIL.Image import Image

# Other formats of Pillow's need other programs, hold no pictures of classes, or are rarely fuzzed.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
# Pictures of more pixels are decoded one at a time, because a small file can unpack to gigabytes.
LARGE = 16_000_000
_one_large = threading.Lock()


def read_image_folder(
    folder: Path, stated: Preprocessing, skip_unreadable: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Read the pictures in `folder/<class>/**/`, in any of `FORMATS`, as `stated`, which is resolved.

    Returns pixels uint8 or float32 [N, H, W, C], labels int64 [N], class names (sorted folder names) and file names
    (relative to the folder, with forward slashes). Links to files and to class folders are followed, other links to
    folders are not. Files of other kinds are counted on standard error. Raises UserError for a folder without classes
    or images, for pictures that do not fit in memory or have different shapes, and for a file that cannot be decoded,
    unless `skip_unreadable` leaves such files out and lists them on standard error.
    """
    classes, files, labels = _list_images(folder)
    pixels, errors = _decode_all(folder, files, stated)
    readable = np.array([error is None for error in errors])
    unreadable = [f"{name} ({error})" for name, error in zip(files, errors, strict=True) if error is not None]
    if unreadable and not skip_unreadable:
        raise UserError(f"cannot read image {folder / unreadable[0]}; remove it or pass --skip_unreadable")
    if unreadable:
        say(f"skipped {counted(len(unreadable), 'file')} that cannot be read: {', '.join(unreadable)}", file=sys.stderr)
        pixels, labels = pixels[readable], labels[readable]
        files = [name for name, good in zip(files, readable, strict=True) if good]
    missing = np.setdiff1d(np.arange(len(classes)), labels)
    if len(missing):
        kinds = ", ".join(FORMATS)
        raise UserError(f"class folder {folder / classes[missing[0]]} holds no readable picture ({kinds}); remove or "
                        "fill it")  # fmt: skip
    return pixels, labels, tuple(classes), tuple(files)


def read_pictures(folder: Path, files: Sequence[str], readers: Sequence[Reader]) -> list[np.ndarray]:
    """Pictures of a folder as each of the readers reads them, `[n, H, W, C]` a reader; each file is decoded once."""

    def read(name: str) -> list[np.ndarray]:
        with _opened(folder / name) as image:
            return [reader(image) for reader in readers]

    with _pool() as pool:
        return [np.stack(found) for found in zip(*pool.map(read, files), strict=True)]


def _list_images(folder: Path) -> tuple[list[str], list[str], np.ndarray]:
    files, labels, others = [], [], []
    try:
        classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        for label, name in enumerate(classes):
            pictures, left = _pictures(folder / name)
            found = sorted(path.relative_to(folder).as_posix() for path in pictures)
            files += found
            others += left
            labels += [label] * len(found)
    except OSError as error:
        raise UserError(f"--data_dir {folder}: {error.strerror}; give a folder of class folders") from error
    if len(classes) < 2:
        count = f"one class folder, {classes[0]}" if classes else "no class folders"
        raise UserError(f"--data_dir {folder}: it has {count}; give a folder with at least two")
    if others:
        kinds = Counter(path.suffix.lower() or "no suffix" for path in others).most_common()
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
        first = min(others).relative_to(folder).as_posix()
        say(f"left out {counted(len(others), 'file of other kinds')}: {told} (first: {first})", file=sys.stderr)
    return classes, files, np.array(labels, dtype=np.int64)


def _pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Regular files in a folder and its sub-folders: those with a picture's suffix, and others that are not hidden.

    Opening a FIFO or a device would block. `os.walk` recurses in Python 3.11, so that a deep folder would exhaust the
    stack.
    """
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    found, others, folders = [], [], [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif not entry.name.startswith(".") and path.is_file():
                    (found if path.suffix.lower() in suffixes else others).append(path)
    return found, others


def _decode_all(folder: Path, files: list[str], stated: Preprocessing) -> tuple[np.ndarray, list[str | None]]:
    """Pixels [N, H, W, C], and for each file its error, or None."""
    reader = stated.reader()

    def decode(name: str) -> np.ndarray | str:
        try:
            with _opened(folder / name) as image:
                return reader(image)
        except UserError as error:
            raise UserError(f"{error} ({folder / name})") from error
        except Exception as error:  # PIL's decoders raise nearly any type for damaged files
            return " ".join(str(error).split()) or type(error).__name__

    with _pool() as pool:
        # The first picture that can be read has the shape of all.
        first = next((found for found in map(decode, files) if not isinstance(found, str)), np.zeros((0, 0, 0)))
        try:
            pixels = np.empty((len(files), *first.shape), first.dtype)
        except MemoryError:
            size = f"{len(files)} pictures of {first.shape[0]} x {first.shape[1]} pixels"
            raise UserError(f"{size} do not fit in memory; give a smaller --image_size") from None

        def place(name: str, target: np.ndarray) -> str | None:
            found = decode(name)
            if isinstance(found, str):
                return found
            if found.shape != target.shape or found.dtype != target.dtype:
                shapes = " and ".join(f"{one.dtype} {list(one.shape)}" for one in (target, found))
                raise UserError(f"pictures become {shapes} (the latter: {folder / name}); give --resize squash or fit, "
                                "--crop center, or a --transform with one size")  # fmt: skip
            target[:] = found
            return None

        return pixels, list(progress(pool.map(place, files, pixels), "reading pictures", len(files)))


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    from PIL import Image

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # of malformed EXIF, which is ignored
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield pool


@contextlib.contextmanager
def _opened(path: Path) -> "Iterator[Image]":
    from PIL import Image

    with (
        Image.open(path, formats=FORMATS) as image,
        _one_large if image.width * image.height > LARGE else contextlib.nullcontext(),
    ):
        yield image
