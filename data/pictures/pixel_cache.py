"""One file of decoded pixels a machine, for image folders that do not fit in memory.

`CACHE_DIR/KEY/` belongs to a folder and a preprocessing. In it, each `pixels-*/` is complete: `pixels.npy`, the
pictures one after the other; `facts.npy`, what is known of each; `files`, their names. `building/` is one that is being
made; a later process goes on with it.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from data.pictures.decoding import DECODED, MISSING, WITHDRAWN, Decoded, decode, facts_of
from data.pictures.fetched import Pictures
from data.pictures.listing import Listing, joined_names, names_in
from data.preprocessing import Preprocessing, file_of, names_code
from helper_functions.errors import UserError
from helper_functions.files import key_of
from helper_functions.training.distribution import say
from helper_functions.wording import counted

BUILDING, PIXELS, FACTS, FILES, LOCK = "building", "pixels.npy", "facts.npy", "files", "lock"
# Seconds between two points from which a build that was killed with its machine goes on.
INTERVAL = 1.0


@dataclass(eq=False)
class PixelFile:
    """Pixels [M, H, W, C] and facts [M], both mapped, of the files of a listing, in its order."""

    folder: Path
    files: tuple[str, ...]
    facts: np.ndarray
    pixels: np.ndarray

    @classmethod
    def open(cls, folder: Path, mode: str = "r") -> "PixelFile | None":
        """Read one; None where there is none, or a damaged one."""
        try:
            files = names_in((folder / FILES).read_bytes())
            facts, pixels = (np.load(folder / name, mmap_mode=mode) for name in (FACTS, PIXELS))
        except (OSError, ValueError, EOFError):
            return None
        if facts.dtype != _row(facts_of(pixels.shape[-1])) or not len(facts) == len(files) == len(pixels):
            return None
        return cls(folder, files, facts, pixels)

    def serves(self, listing: Listing) -> bool:
        """Whether it is of exactly these pictures as they are now."""
        return self.files == listing.files and bool((self.facts["stamp"] == listing.stamps).all())

    def tensor(self, rows: np.ndarray, further: np.ndarray) -> Pictures:
        """The pictures in some rows; those behind the last one are `further` pictures, which are in memory."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            storage = torch.from_numpy(self.pixels)
        return Pictures(storage, torch.from_numpy(rows), torch.from_numpy(further) if len(further) else None)


def _row(facts: np.dtype) -> np.dtype:
    own = [("stamp", "<i8", (2,)), ("hash", "<u8"), ("hashed", "?")]
    return np.dtype([*own, *((name, facts[name]) for name in facts.names)])


def place_of(cache_dir: str | Path, folder: Path, stated: Preprocessing) -> Path:
    """Where the pixels of a folder under a preprocessing, which is resolved, are kept."""
    code = Path(file_of(stated.transform)).read_bytes() if names_code(stated.transform) else b""
    made = {name: value for name, value in stated.stated().items() if name not in ("mean", "std")}
    key = {"folder": str(folder.resolve()), "code": hashlib.sha256(code).hexdigest(), **made}
    return Path(cache_dir) / key_of(key)


def cached(place: Path, listing: Listing, stated: Preprocessing, shape: tuple[int, int, int], dtype) -> PixelFile:
    """The pixels of these pictures, built where they are not there; only what differs is decoded again.

    Raises:
        UserError: there is no room, or nothing can be written; for what is wrong with every picture.
    """
    found = newest(place)
    if found is not None and found.serves(listing):
        return found
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _lock(place):
            found = newest(place)
            if found is None or not found.serves(listing):
                found = _build(place, listing, stated, shape, dtype, found)
            return found
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--cache_dir {place.parent}: {reason}; name another folder, or give --cache none") from error


def newest(place: Path) -> PixelFile | None:
    """The complete file that is there, if one is."""
    return next((file for file in map(PixelFile.open, sorted(place.glob("pixels-*"), reverse=True)) if file), None)


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    lock = FileLock(place / LOCK, mode=0o644)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        say(f"cache    another process writes {place}; waiting for it")
        held = lock.acquire()
    with held:
        yield


def _build(
    place: Path, listing: Listing, stated: Preprocessing, shape: tuple[int, int, int], dtype, old: PixelFile | None
) -> PixelFile:
    folder, count = place / BUILDING, len(listing.files)
    begun = PixelFile.open(folder, "r+")
    if begun is None or not begun.serves(listing):
        begun = _empty(folder, listing, shape, dtype)
        kinds = {(file.pixels.shape[1:], file.pixels.dtype) for file in (old, begun) if file is not None}
        if old is not None and len(kinds) == 1:
            _take_over(old, begun)
    wanted = np.flatnonzero(begun.facts["state"] == MISSING)
    size = f"{begun.pixels.nbytes / 1e9:,.2f} GB"
    say(f"cache    {len(wanted):,} of {counted(count, 'picture')} to decode into {place}, {size}")
    gone = frozenset() if old is None else _withdrawn(old)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    # The disk writes while the workers decode.
    with ThreadPoolExecutor(1) as pool:
        settled, flushed = pool.submit(int), time.monotonic()

        def put(found: Decoded) -> None:
            nonlocal settled, flushed, waiting
            waiting.append((found.places, found.facts))
            if time.monotonic() - flushed > INTERVAL:
                settled.result()
                settled, flushed, waiting = pool.submit(_settle, begun, waiting), time.monotonic(), []

        try:
            decode(listing, stated, shape, dtype, wanted, put, keep=True, into=folder / PIXELS, withdrawn=gone)
        finally:
            last = pool.submit(_settle, begun, waiting)
            settled.result()
            last.result()
    name = f"pixels-{time.time_ns():020d}"
    folder.rename(place / name)
    for other in place.glob("pixels-*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return PixelFile.open(place / name)


def _settle(begun: PixelFile, waiting: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Pixels reach the disk before the facts that say that they are there."""
    with open(begun.folder / PIXELS, "rb+") as file:  # also what workers have written to it
        os.fsync(file.fileno())
    for places, facts in waiting:
        for name in facts.dtype.names:
            begun.facts[name][places] = facts[name]
    begun.facts.flush()


def _empty(folder: Path, listing: Listing, shape: tuple[int, int, int], dtype) -> PixelFile:
    """A file with room for all pictures, so that a full disk is noticed now."""
    making = folder.with_name(f".{BUILDING}")
    for left in (folder, making):
        shutil.rmtree(left, ignore_errors=True)
    making.mkdir()
    try:
        count = len(listing.files)
        pixels = np.lib.format.open_memmap(making / PIXELS, "w+", np.dtype(dtype), (count, *shape))
        if hasattr(os, "posix_fallocate"):
            with open(making / PIXELS, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, pixels.offset + pixels.nbytes)
        facts = np.lib.format.open_memmap(making / FACTS, "w+", _row(facts_of(shape[-1])), (count,))
        facts["stamp"] = listing.stamps
        facts.flush()
        (making / FILES).write_bytes(joined_names(listing.files))
        making.rename(folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return PixelFile(folder, listing.files, facts, pixels)


def _take_over(old: PixelFile, new: PixelFile) -> None:
    """Copy the rows of pictures that have not changed; tells what has."""
    places = {name: row for row, name in enumerate(old.files)}
    rows = np.array([places.get(name, -1) for name in new.files])
    known = np.flatnonzero(rows >= 0)
    same = known[(old.facts["stamp"][rows[known]] == new.facts["stamp"][known]).all(1)]
    for part in np.array_split(same, max(1, len(same) // 1024)):
        new.pixels[part] = old.pixels[rows[part]]
        new.facts[part] = old.facts[rows[part]]
    changed = np.setdiff1d(known, same)
    names = {
        "changed": [new.files[place] for place in changed], "gone": sorted(set(old.files) - set(new.files)),
        "new": [new.files[place] for place in np.flatnonzero(rows < 0)],
    }  # fmt: skip
    for what, found in names.items():
        if found:
            say(f"cache    {what}: {len(found):,} (first: {found[0]})")


def _withdrawn(file: PixelFile) -> frozenset[bytes]:
    """Digests of the pictures that were overwritten."""
    return frozenset(digest.tobytes() for digest in file.facts["digest"][file.facts["state"] == WITHDRAWN])


def noted_hashes(
    place: Path, names: list[str], digests: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Perceptual hashes, uint64 [n], of pictures by their names and digests.

    `compute` gives those of the places in `names` that the file does not know yet; they are noted in it.
    """
    places = {name: place for place, name in enumerate(names)}

    def known(file: PixelFile | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of pictures that are still the same, and their places in `names`."""
        files = () if file is None else file.files
        rows = np.array([row for row, name in enumerate(files) if name in places], dtype=np.int64)
        found = np.array([places[files[row]] for row in rows], dtype=np.int64)
        if not len(rows):
            return rows, found
        facts = file.facts[rows]
        same = (facts["state"] == DECODED) & (facts["digest"] == digests[found])
        return rows[same], found[same]

    hashes, missing, file = np.zeros(len(names), np.uint64), np.ones(len(names), dtype=bool), newest(place)
    rows, found = known(file)
    if len(rows):
        hashes[found], missing[found] = file.facts["hash"][rows], ~file.facts["hashed"][rows]
    if missing.any():
        hashes[missing] = compute(np.flatnonzero(missing))
        # Who may only read the file computes them each time.
        with contextlib.suppress(OSError), _opened(place) as file:
            rows, found = known(file)
            for name, values in (("hash", hashes[found]), ("hashed", True)) if len(rows) else ():
                file.facts[name][rows] = values
                file.facts.flush()
    return hashes


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[PixelFile | None]:
    """The complete file, to be written to by this process alone; None where there is none, or it cannot be written."""
    with _lock(place):
        file = newest(place)
        yield None if file is None else PixelFile.open(file.folder, "r+")


def check_writable(place: Path) -> None:
    """Refuse a file in which no picture can be overwritten, if there is one, by a UserError."""
    if newest(place) is not None:
        with _writable(place):
            pass


@contextlib.contextmanager
def _writable(place: Path) -> Iterator[PixelFile]:
    try:
        with _opened(place) as file:
            if file is None:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            yield file
    except OSError as error:
        raise UserError(
            f"--cache_dir {place.parent}: withdrawn pictures cannot be overwritten in {place} "
            f"({error.strerror or error}); have its owner remove that folder, or name another --cache_dir"
        ) from error


def overwrite(place: Path, names: list[str]) -> int:
    """Overwrite the pixels of these pictures with zeros, on the disk, and note it; how many there were.

    A later run leaves such pictures out, also where the same pixels come back under the same name.

    Raises:
        UserError: the file cannot be written.
    """
    if newest(place) is None:
        return 0
    with _writable(place) as file:
        wanted = set(names)
        rows = np.array([row for row, name in enumerate(file.files) if name in wanted], dtype=np.int64)
        file.pixels[rows] = 0
        file.pixels.flush()
        for name in ("sums", "hash", "hashed"):
            file.facts[name][rows] = 0
        file.facts["state"][rows] = WITHDRAWN
        file.facts.flush()
    return len(rows)
