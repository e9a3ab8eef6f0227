"""Decoding of an image folder by all cores: into memory, into a file, or for a batch when it is needed."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from data.partition import DIGEST, digest_of
from data.pictures.fetched import AHEAD, Pictures
from data.pictures.listing import Listing, opened, strict
from data.preprocessing import Preprocessing
from helper_functions.errors import UserError
from helper_functions.progress import progress_bar

# Bytes of pixels, and pictures, that a worker decodes at a time. So few pictures are not worth starting workers.
CHUNK_BYTES, CHUNK, FEW = 2**21, 256, 64
# States of a picture.
MISSING, DECODED, UNREADABLE, WITHDRAWN = range(4)


def facts_of(channels: int) -> np.dtype:
    """What is known of a decoded picture: its state, a digest of its pixels, and their sums and sums of squares."""
    return np.dtype([("state", "u1"), ("digest", f"V{DIGEST}"), ("sums", "<i8", (2, channels))])


@dataclass
class Decoded:
    """Some pictures as a worker gives them.

    places: in the listing, [n]; pixels: [n, H, W, C], None where they are in a file or not kept; facts: [n] of
    `facts_of`; fatal: what is wrong with every picture.
    """

    places: np.ndarray
    pixels: np.ndarray | None
    facts: np.ndarray
    fatal: str | None = None


class _Files(MapDataset):
    """Pictures of a listing, chunk by chunk; its state is small, and each worker builds its own reader.

    `into` is a .npy file with a row for each picture of the listing, to which workers write, so that no pixel passes
    through a pipe. `withdrawn` are digests of pictures that become zeros there.
    """

    def __init__(
        self, listing: Listing, stated: Preprocessing, shape: tuple[int, int, int], dtype, keep: bool,
        into: Path | None = None, withdrawn: frozenset[bytes] = frozenset(),
    ) -> None:  # fmt: skip
        self.listing, self.stated, self.shape, self.dtype, self.keep = listing, stated, shape, dtype, keep
        self.into, self.withdrawn = into, withdrawn
        self.start = None if into is None else np.load(into, mmap_mode="r").offset
        # Of large pictures, one is open at a time, whichever worker decodes it.
        self.one_large, self.reader = multiprocessing.Lock(), None

    def __getitem__(self, places: np.ndarray) -> Decoded:
        facts = np.zeros(len(places), facts_of(self.shape[-1]))
        pixels = np.empty((len(places) if self.keep else 1, *self.shape), self.dtype)
        with strict():
            for number, place in enumerate(places.tolist()):
                target = pixels[number if self.keep else 0]
                try:
                    found = self.read(place)
                except UserError as error:
                    fatal = f"{error} ({self.listing.folder / self.listing.files[place]})"
                    return Decoded(places, None, facts, fatal)
                unreadable = isinstance(found, str)
                target[:] = 0 if unreadable else found
                facts[number] = describe(target, UNREADABLE if unreadable else DECODED)
                if self.withdrawn and facts[number]["digest"].tobytes() in self.withdrawn:
                    target[:], facts["state"][number] = 0, WITHDRAWN
        if self.into is None:
            return Decoded(places, pixels if self.keep else None, facts)
        try:
            self.write(places, pixels)
        except OSError as error:
            fatal = f"{self.into}: {error.strerror or error}; name another --cache_dir, or give --cache none"
            return Decoded(places, None, facts, fatal)
        return Decoded(places, None, facts)

    def write(self, places: np.ndarray, pixels: np.ndarray) -> None:
        """Put pixels [n, H, W, C] into their rows of the file, neighbours together: each new page of a map is a fault.
        """
        ends = [*(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        with open(self.into, "rb+") as file:
            for first, end in zip([0, *ends], ends, strict=False):
                file.seek(self.start + int(places[first]) * pixels[0].nbytes)
                file.write(pixels[first:end])

    def read(self, place: int) -> np.ndarray | str:
        """Pixels [H, W, C], or why the picture cannot be read; UserError for what is wrong with every picture.

        The caller is `strict`.
        """
        self.reader = self.reader or self.stated.reader()
        try:
            with opened(f"{self.listing.folder}/{self.listing.files[place]}", self.one_large) as image:
                found = self.reader(image)
        except UserError:
            raise
        except FileNotFoundError:
            return "it has vanished"
        except Exception as error:  # PIL's decoders raise nearly any type for damaged files
            return " ".join(str(error).split()) or type(error).__name__
        if self.shape and (found.shape != self.shape or found.dtype != self.dtype):
            shapes = f"{np.dtype(self.dtype)} {list(self.shape)} and {found.dtype} {list(found.shape)}"
            raise UserError(f"pictures become {shapes}; give --resize squash or fit, --crop center, or a --transform "
                            "with one size")  # fmt: skip
        return found


def describe(pixels: np.ndarray, state: int) -> tuple:
    """The facts of a picture [H, W, C]."""
    digest, channels = digest_of(pixels), pixels.shape[-1]
    if pixels.dtype != np.uint8:
        return state, digest, np.zeros((2, channels), np.int64)
    # 32 bits hold the sum of 66,000 squares of bytes.
    wide = pixels.reshape(len(pixels), -1).astype(np.uint32)
    sums = wide.sum(0, dtype=np.uint32)
    columns = (sums, np.square(wide, out=wide).sum(0, dtype=np.uint32))
    return state, digest, [each.reshape(-1, channels).sum(0) for each in columns]


def first_shape(listing: Listing, stated: Preprocessing) -> tuple[tuple[int, int, int], np.dtype]:
    """Shape and dtype of the first picture that can be read, which all others share; those of none: 0 x 0 x 0."""
    files = _Files(listing, stated, (), None, True)
    with strict():
        for place, name in enumerate(listing.files):
            try:
                found = files.read(place)
            except UserError as error:
                raise UserError(f"{error} ({listing.folder / name})") from error
            if not isinstance(found, str):
                return found.shape, found.dtype
    return (0, 0, 0), np.dtype(np.uint8)


def why_unreadable(listing: Listing, stated: Preprocessing, place: int) -> str:
    """Why a picture cannot be read."""
    with strict():
        found = _Files(listing, stated, (), None, True).read(place)
    return found if isinstance(found, str) else "it has changed meanwhile"


def decode(
    listing: Listing, stated: Preprocessing, shape: tuple[int, int, int], dtype: np.dtype, wanted: np.ndarray,
    place: Callable[[Decoded], None], **how: Any,
) -> None:  # fmt: skip
    """Decode the pictures at the places `wanted` and hand each chunk to `place`; `how` as of `_Files`.

    Raises:
        UserError: for what is wrong with every picture.
    """
    size = max(1, min(CHUNK, CHUNK_BYTES // max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)))
    chunks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    workers = 0 if len(wanted) <= FEW else min(os.cpu_count() or 1, len(chunks))
    files = _Files(listing, stated, shape, dtype, **how)
    loader = DataLoader(files, None, sampler=chunks, num_workers=workers, generator=torch.Generator())
    with progress_bar("reading pictures", len(wanted), unit=" pictures") as bar:
        for found in loader:
            if found.fatal:
                raise UserError(found.fatal)
            place(found)
            bar.update(len(found.places))


class Files(Pictures):
    """Pictures of a listing that are decoded by worker processes for each batch, again and again.

    Args:
        listing: readable pictures.
        stated: how a picture becomes pixels, resolved.
        shape: [H, W, C], with the dtype, of each of them.
    """

    def __init__(self, listing: Listing, stated: Preprocessing, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        super().__init__(torch.from_numpy(np.empty((0, *shape), dtype)), torch.arange(len(listing.files)))
        self.files = _Files(listing, stated, shape, dtype, True)

    def read(self, indices: Tensor, pinned: bool = False) -> Tensor:
        """The pixels [n, H, W, C] of images int64 [n]."""
        return next(self.fetch([indices], pinned, workers=0))

    def fetch(self, batches: Iterable[Tensor], pinned: bool = False, workers: int | None = None) -> Iterator[Tensor]:
        """The pixels of one batch of indices after another.

        Raises:
            UserError: a picture has vanished or been damaged since it was listed.
        """
        workers = (os.cpu_count() or 1) if workers is None else workers
        ahead = {"prefetch_factor": AHEAD} if workers else {}
        loader = DataLoader(
            self.files, None, sampler=(indices.numpy() for indices in batches), num_workers=workers,
            generator=torch.Generator(), **ahead,
        )  # fmt: skip
        for found in loader:
            lost = found.places[found.facts["state"] != DECODED].tolist()
            if found.fatal or lost:
                listing = self.files.listing
                what = found.fatal or f"{listing.folder / listing.files[lost[0]]}: {self.files.read(lost[0])}"
                raise UserError(f"{what}; put it back, or start a new run without it")
            pixels = torch.from_numpy(found.pixels)
            yield pixels.pin_memory() if pinned else pixels
