"""A user's own pictures: a folder with a folder for each class."""

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helper_functions.errors import UserError
from helper_functions.training.distribution import say

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".png", ".jpg", ".jpeg")
DEFAULT_IMAGE_SIZE = 64
LARGEST_IMAGE_SIZE = 4096
# Pictures of more pixels are decoded one at a time, because a small file can unpack to gigabytes.
LARGE = 16_000_000
_one_large = threading.Lock()


def read_image_folder(
    folder: Path, image_size: int, skip_unreadable: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Read `folder/<class>/**/*.png|jpg|jpeg` as square RGB images.

    Returns pixels uint8 [N, S, S, 3], labels int64 [N], class names (sorted folder names) and file names (relative to
    the folder, with forward slashes). Links to files and to class folders are followed, other links to folders are
    not. Raises UserError for a folder without classes or images, for pictures that do not fit in memory, and for a file
    that cannot be decoded, unless `skip_unreadable` leaves such files out and lists them on standard error.
    """
    if not 1 <= image_size <= LARGEST_IMAGE_SIZE:
        raise UserError(f"image size {image_size} is not between 1 and {LARGEST_IMAGE_SIZE}; try --image_size 64")
    classes, files, labels = _list_images(folder)
    try:
        pixels = np.empty((len(files), image_size, image_size, 3), dtype=np.uint8)
    except MemoryError:
        size = f"{len(files)} pictures of {image_size} x {image_size} pixels"
        raise UserError(f"{size} do not fit in memory; give a smaller --image_size") from None
    errors = _decode_all([folder / name for name in files], pixels)
    readable = np.array([error is None for error in errors])
    unreadable = [f"{name} ({error})" for name, error in zip(files, errors, strict=True) if error is not None]
    if unreadable and not skip_unreadable:
        raise UserError(f"cannot read image {folder / unreadable[0]}; remove it or pass --skip_unreadable")
    if unreadable:
        say(f"skipped {len(unreadable)} unreadable images: {', '.join(unreadable)}", file=sys.stderr)
        pixels, labels = pixels[readable], labels[readable]
        files = [name for name, good in zip(files, readable, strict=True) if good]
    missing = np.setdiff1d(np.arange(len(classes)), labels)
    if len(missing):
        raise UserError(f"class folder {folder / classes[missing[0]]} holds no readable PNG or JPEG; remove or fill it")
    return pixels, labels, tuple(classes), tuple(files)


def read_pictures(
    folder: Path, files: Sequence[str], readers: Sequence[Callable[["Image"], np.ndarray]]
) -> list[np.ndarray]:
    """Pictures of a folder as each of the readers reads them, `[n, ...]` a reader; each file is decoded once."""

    def read(name: str) -> list[np.ndarray]:
        with _opened(folder / name) as image:
            return [reader(image) for reader in readers]

    with _pool() as pool:
        return [np.stack(found) for found in zip(*pool.map(read, files), strict=True)]


def upright(image: "Image") -> "Image":
    """A whole picture in RGB as its EXIF data turn it."""
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        # 16-bit grey, of which a plain conversion turns every value above 255 to white.
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    return turned.convert("RGB")


def _list_images(folder: Path) -> tuple[list[str], list[str], np.ndarray]:
    files, labels = [], []
    try:
        classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        for label, name in enumerate(classes):
            found = sorted(path.relative_to(folder).as_posix() for path in _pictures(folder / name))
            files += found
            labels += [label] * len(found)
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}; give --data_dir a folder of class folders") from error
    if len(classes) < 2:
        raise UserError(f"{folder} has {len(classes)} class folders; give --data_dir a folder with at least two")
    return classes, files, np.array(labels, dtype=np.int64)


def _pictures(folder: Path) -> list[Path]:
    """Regular files with a picture's suffix in a folder and its sub-folders; opening a FIFO or a device would block.

    `os.walk` recurses in Python 3.11, so that a deep folder would exhaust the stack.
    """
    found, folders = [], [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif path.suffix.lower() in EXTENSIONS and not entry.name.startswith(".") and path.is_file():
                    found.append(path)
    return found


def _decode_all(paths: list[Path], pixels: np.ndarray) -> list[str | None]:
    """Decode into pixels [N, S, S, 3]; returns for each file its error, or None."""

    def decode(path: Path, target: np.ndarray) -> str | None:
        try:
            target[:] = _decode(path, len(target))
        except Exception as error:  # PIL's decoders raise nearly any type for damaged files
            return " ".join(str(error).split()) or type(error).__name__
        return None

    with _pool() as pool:
        return list(pool.map(decode, paths, pixels))


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
        Image.open(path, formats=("PNG", "JPEG")) as image,
        _one_large if image.width * image.height > LARGE else contextlib.nullcontext(),
    ):
        yield image


def _decode(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    with _opened(path) as image:
        whole = upright(image)
        # Only the centre square is resized: a thin strip, resized whole, would become a giant image.
        side = min(whole.size)
        left, top = (whole.width - side) // 2, (whole.height - side) // 2
        square = whole.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square)
