"""The pictures of an image folder as one tensor, rows of a file on the disk, or files that are decoded again and again.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.pictures.decoding import (
    DECODED,
    UNREADABLE,
    WITHDRAWN,
    Decoded,
    Files,
    decode,
    facts_of,
    first_shape,
    why_unreadable,
)
from data.pictures.fetched import Pictures
from data.pictures.listing import Listing, list_images
from data.pictures.pixel_cache import cached, newest, place_of
from data.preprocessing import Preprocessing
from helper_functions.errors import UserError
from helper_functions.training.distribution import say
from helper_functions.wording import counted

CACHES = ("auto", "memory", "disk", "none")
Cache = Literal[*CACHES]
# Share of the free memory that pictures may take.
SHARE = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class FolderImages:
    """Readable pictures of a folder, in the order of their names.

    images: [N, C, H, W]; listing: of them; facts: [N] of `facts_of`; place: of the file on the disk, if there is one.
    """

    images: Tensor | Pictures
    listing: Listing
    facts: np.ndarray
    place: Path | None = None


def read_image_folder(
    folder: Path, stated: Preprocessing, skip_unreadable: bool, cache: Cache = "memory",
    cache_dir: str | Path = "cache", whole: bool = False, write: bool = True,
) -> FolderImages:  # fmt: skip
    """Read a folder's pictures as `stated`, which is resolved, into memory, into a file in `cache_dir`, or not yet.

    `auto` takes memory for what fits in half of what is free there, and the file for more, or where several processes
    on this machine need it. Pictures that were overwritten in the file are left out; with `whole`, they are decoded
    from the folder into memory; without `write`, so are all those of a folder that has no file yet.

    Raises:
        UserError: a folder without classes or pictures, pictures of different shapes or that do not fit, and one that
            cannot be decoded, unless `skip_unreadable` leaves such pictures out and lists them on standard error.
    """
    listing = list_images(folder)
    shape, dtype = first_shape(listing, stated)
    count = len(listing.files)
    if not shape[0]:  # none of them can be read
        cache = "none"
    fits = count * int(np.prod(shape)) * dtype.itemsize <= SHARE * _free()
    if cache == "auto":
        cache = "memory" if fits and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) == 1 else "disk"
    place, facts, images = None, np.zeros(count, facts_of(shape[-1])), None
    further = np.empty((0, *shape), dtype)
    if cache == "disk":
        place = place_of(cache_dir, folder, stated)
        if not write and not ((there := newest(place)) and there.serves(listing)):
            cache = "memory" if fits else "none"
    if cache == "disk":
        file = cached(place, listing, stated, shape, dtype)
        facts = np.empty(count, facts.dtype)
        for name in facts.dtype.names:
            facts[name] = file.facts[name]
        withdrawn = np.flatnonzero(facts["state"] == WITHDRAWN)
        if whole and len(withdrawn):
            further, facts[withdrawn] = _decode(listing, stated, shape, dtype, withdrawn)
        elif len(withdrawn):
            count_left = counted(len(withdrawn), "withdrawn picture")
            say(f"cache    {count_left} left out; remove {place} to bring them back")
    if not shape[0]:
        facts["state"] = UNREADABLE
    elif cache != "disk":
        images, facts = _decode(listing, stated, shape, dtype, np.arange(count), cache == "memory")
    unreadable = np.flatnonzero(facts["state"] == UNREADABLE)
    if len(unreadable):
        _refuse(listing, stated, unreadable, skip_unreadable)
    rows = np.flatnonzero(facts["state"] == DECODED)
    listing = listing.only(rows)
    if cache == "disk":
        places = np.arange(count)
        places[withdrawn] = count + np.arange(len(withdrawn))
        images = file.tensor(places[rows], further)
    elif cache == "none":
        images = Files(listing, stated, shape, dtype)
    else:
        pixels = images if len(rows) == count else images[rows]
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return FolderImages(images, listing, facts[rows], place)


def _decode(
    listing: Listing, stated: Preprocessing, shape: tuple[int, int, int], dtype: np.dtype, wanted: np.ndarray,
    keep: bool = True,
) -> tuple[np.ndarray | None, np.ndarray]:  # fmt: skip
    """Pixels [n, H, W, C], where they are kept, and facts [n] of the pictures at some places, in ascending order."""
    count = len(wanted)
    facts = np.zeros(count, facts_of(shape[-1]))
    try:
        pixels = np.empty((count, *shape), dtype) if keep else None
    except MemoryError:
        size = f"{count} pictures of {shape[0]} x {shape[1]} pixels"
        raise UserError(f"{size} do not fit in memory; give --cache disk, or a smaller --image_size") from None

    def put(found: Decoded) -> None:
        rows = np.searchsorted(wanted, found.places)
        facts[rows] = found.facts
        if keep:
            pixels[rows] = found.pixels

    decode(listing, stated, shape, dtype, wanted, put, keep=keep)
    return pixels, facts


def _refuse(listing: Listing, stated: Preprocessing, unreadable: np.ndarray, skip: bool) -> None:
    """Name pictures that cannot be read."""
    shown = (unreadable if skip else unreadable[:1]).tolist()
    told = [f"{listing.files[place]} ({why_unreadable(listing, stated, place)})" for place in shown]
    if not skip:
        raise UserError(f"cannot read image {listing.folder / told[0]}; remove it or pass --skip_unreadable")
    say(f"skipped {counted(len(told), 'file')} that cannot be read: {', '.join(told)}", file=sys.stderr)


def _free() -> int:
    """Bytes of memory that this process may still fill: of the machine, of its container, and by its own limit."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, KeyError, ValueError):  # not on this system, or "max"
        pass
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        found += [limit] if limit != resource.RLIM_INFINITY else []
    except ImportError:
        pass
    return min(found)
