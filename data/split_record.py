"""The splits of a data set as index tensors, and the file that saves them with a run."""

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.datasets import Dataset
from data.image_list import and_more
from data.pictures.listing import joined_names, names_in
from helper_functions.errors import UserError
from helper_functions.files import whole_file
from helper_functions.safe_files.archives import check_archive
from helper_functions.safe_files.printable import printable
from helper_functions.safe_files.regular_files import open_bytes
from helper_functions.training.distribution import on_main

PARTS = ("train", "validation", "unseen", "forget", "retain", "test")
TENSORS = (*PARTS, "labels")
# Part of digest and archive only where it holds an image, so that other files keep their digests.
OPTIONAL = "forgotten"
NAMES = "file_names"
TEXTS = ("forget_request", "dataset", "final_test")
FINAL_TESTS = ("official test", "stratified", "half of official test", "half of the never-seen")
# What NumPy and zipfile raise for files that are damaged, cut short or of another format.
READ_ERRORS = (
    OSError, ValueError, KeyError, EOFError, TypeError, IndexError, MemoryError, OverflowError, RuntimeError,
    SyntaxError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# Most unpacked bytes, against decompression bombs: enough for any downloaded data set's splits and twice this one's.
LARGEST = 2**26
BYTES_AN_IMAGE = 8 * 2 * len(TENSORS)
# The bytes of the entry that names the data set.
LONGEST_NAME = 4096


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Splits:
    """Sorted int64 indices into a data set's images, and the labels that its model is trained with.

    train = forget + retain and held-out = validation + unseen, both disjoint; test images are used by final figures and
    attacks alone. labels: int64 [N], the true ones with corrupted ones replaced. forget_request: as it was written,
    empty for none. final_test: the source of the test images, one of `FINAL_TESTS`. forgotten: images that earlier
    requests of a sequence forgot; in no other part. file_names: of an image folder, so that forgotten pictures can be
    deleted from it. deleted: the number of those that were.
    """

    train: Tensor
    validation: Tensor
    unseen: Tensor
    forget: Tensor
    retain: Tensor
    test: Tensor
    labels: Tensor
    forget_request: str
    dataset: str
    seed: int
    final_test: str
    forgotten: Tensor = field(default_factory=_nothing)
    file_names: tuple[str, ...] | None = None
    deleted: int = 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The index tensors and the labels by name; `forgotten` where it is not empty."""
        names = (*TENSORS, OPTIONAL) if len(self.forgotten) else TENSORS
        return {name: getattr(self, name) for name in names}

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal digest of the data set's name, the index tensors, the labels, and an image folder's file names
        and number of deleted pictures; equal on all platforms."""
        digest = hashlib.sha256(self.dataset.encode())
        for name, tensor in self.tensors.items():
            values = tensor.numpy().astype("<i8")
            digest.update(f"|{name}:{len(values)}|".encode())
            digest.update(values.tobytes())
        if self.file_names is not None:
            digest.update(f"|deleted:{self.deleted}|file_names:{len(self.file_names)}|".encode())
            digest.update(joined_names(self.file_names))
        return digest.hexdigest()

    @property
    def num_forgotten(self) -> int:
        """Images that earlier requests forgot, whether they are still there or deleted."""
        return len(self.forgotten) + self.deleted

    @property
    def short_request(self) -> str:
        """The request without the folders of a file, for names."""
        kind, colon, value = self.forget_request.partition(":")
        return f"{kind}{colon}{Path(value).name if kind in ('file', 'requests') else value}"

    def following(self, *, again: bool = False) -> "Splits":
        """The splits from which the next request of a sequence starts: its training set is this one's retain set.

        Held-out images, test images and labels stay; the images forgotten here join `forgotten`. again: they were not
        forgotten, and stay in `train` and `forget`, so that the next request asks for them once more.
        """
        held_out = torch.cat([self.validation, self.unseen]).sort().values
        start = replace(self, validation=held_out, unseen=_nothing(), forget_request="")
        if again:
            return start
        forgotten = torch.cat([self.forgotten, self.forget]).sort().values
        return replace(start, train=self.retain, forget=_nothing(), forgotten=forgotten)

    def without(self, images: Tensor) -> "Splits":
        """The same splits with some images in `forgotten` and in no other part; int64, in any order."""
        parts = {name: getattr(self, name) for name in PARTS}
        parts = {name: part[~torch.isin(part, images)] for name, part in parts.items()}
        return replace(self, **parts, forgotten=torch.cat([self.forgotten, images]).unique())

    @on_main
    def save(self, path: str | Path) -> None:
        """Write a compressed NumPy archive; the file appears whole or not at all. Raises OSError if it cannot."""
        arrays = {name: tensor.numpy() for name, tensor in self.tensors.items()}
        fields = {name: np.array(getattr(self, name)) for name in (*TEXTS, "sha256")}
        if self.file_names is not None:
            arrays |= {NAMES: np.frombuffer(joined_names(self.file_names), np.uint8), "deleted": np.array(self.deleted)}
        # NumPy would append its own suffix to a path, but not to an open file.
        with whole_file(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays, **fields, seed=np.array(self.seed, dtype=np.int64))

    @classmethod
    def load(cls, path: str | Path, dataset: Dataset, *, forget_may_lack: bool = False) -> "Splits":
        """Read what `save` wrote, for this data set.

        Pictures of an image folder that earlier requests forgot may have been deleted since, and those of the forget
        set with `forget_may_lack`. Raises UserError for a file that is missing, damaged, or was made for other data.
        """
        try:
            with open_bytes(path) as file:
                check_archive(file, max(LARGEST, BYTES_AN_IMAGE * len(dataset.labels)))
                archive = np.load(file, allow_pickle=False)
                names = (*TENSORS, OPTIONAL) if OPTIONAL in archive else TENSORS
                tensors = {name: _whole_numbers(archive[name]) for name in names}
                texts = {name: str(archive[name][()]) for name in TEXTS}
                splits = cls(**tensors, **texts, **_names_in(archive), seed=int(archive["seed"]))
                stored = str(archive["sha256"][()])
        except READ_ERRORS as error:
            reason = getattr(error, "strerror", None) or "it is damaged, or not a splits file"
            raise UserError(f"cannot read splits {path}: {reason}; give the splits.npz of a run") from error
        if stored != splits.sha256:
            raise UserError(f"splits {path} are damaged: their SHA-256 does not match; copy it again from its run")
        _check_source(splits, dataset, path)
        if splits.file_names not in (None, dataset.file_names):
            splits = _without_deleted(splits, dataset, path, forget_may_lack)
        _check_fits(splits, dataset, path)
        _check_parts(splits, dataset, path)
        return splits


def dataset_of(path: str | Path) -> str | None:
    """The name of the data set that a splits.npz was made for, read without the rest; None where it is unreadable."""
    try:
        with open_bytes(path) as file, zipfile.ZipFile(file) as archive:
            entry = archive.getinfo("dataset.npy")
            if entry.file_size > LONGEST_NAME:
                return None
            return str(np.lib.format.read_array(archive.open(entry), allow_pickle=False)[()])
    except READ_ERRORS:
        return None


def _names_in(archive: np.lib.npyio.NpzFile) -> dict[str, object]:
    """File names and the number of deleted pictures, where an archive has them."""
    if NAMES not in archive:
        return {}
    stored, deleted = archive[NAMES], int(archive["deleted"])
    if stored.dtype != np.uint8 or stored.ndim != 1 or deleted < 0:
        raise ValueError("no file names")
    return {"file_names": names_in(stored.tobytes()), "deleted": deleted}


def _without_deleted(splits: Splits, dataset: Dataset, path: str | Path, forget_may_lack: bool) -> Splits:
    """The same splits over the pictures that are in the folder now."""
    before, now = splits.file_names, dataset.file_names or ()
    places = {name: index for index, name in enumerate(now)}
    if new := sorted(places.keys() - set(before)):
        lacking = and_more([printable(new[0])], len(new))
        raise UserError(f"splits {path} lack {lacking}: move it out of the folder, {_RESTART}")
    moved = torch.tensor([places.get(name, -1) for name in before])
    may_lack = torch.zeros(len(before), dtype=torch.bool)
    for name in ("forgotten", "forget") if forget_may_lack else ("forgotten",):
        may_lack[getattr(splits, name)] = True
    gone = moved < 0
    if lost := torch.nonzero(gone & ~may_lack).flatten().tolist():
        missing = and_more([printable(before[lost[0]])], len(lost))
        raise UserError(f"splits {path} need {missing}, which is gone from the folder; put it back, {_RESTART}")
    labels = dataset.labels.clone()
    labels[moved[~gone]] = splits.labels[~gone]
    parts = {name: moved[getattr(splits, name)] for name in (*PARTS, OPTIONAL)}
    parts = {name: part[part >= 0].sort().values for name, part in parts.items()}
    return replace(splits, **parts, labels=labels, file_names=now, deleted=splits.deleted + int(gone.sum()))


_RESTART = "or start a new run with the weights as --weight_path"


def _check_source(splits: Splits, dataset: Dataset, path: str | Path) -> None:
    """The name of the data set, and an image behind every index and file name."""
    if splits.dataset != dataset.name:
        belongs = f"{splits.dataset}, not to {dataset.name}"
        raise UserError(f"splits {path} belong to {belongs}; pass --dataset {splits.dataset}")
    for name in (*PARTS, OPTIONAL):
        part = getattr(splits, name)
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) < len(splits.labels):
            raise UserError(f"splits {path} are damaged: {name} has an index outside the data set; make them again")
    names = splits.file_names
    if names is not None and not len(set(names)) == len(names) == len(splits.labels):
        raise UserError(f"splits {path} are damaged: the file names do not fit; copy the file again from its run")


def _check_fits(splits: Splits, dataset: Dataset, path: str | Path) -> None:
    if len(splits.labels) != len(dataset.labels):
        sizes = f"{len(splits.labels)} images, the data set has {len(dataset.labels)}"
        raise UserError(f"splits {path} were made for {sizes}; give the data they were made for")
    # Only labels of trained images are ever corrupted, so a difference elsewhere is another folder of the same size.
    elsewhere = torch.ones(len(dataset.labels), dtype=torch.bool)
    elsewhere[splits.train] = elsewhere[splits.forgotten] = False
    if not torch.equal(splits.labels[elsewhere], dataset.labels[elsewhere]):
        remedy = "give their run's --labels" if dataset.superclasses else "give the data they belong to"
        raise UserError(f"splits {path} were made for other labels than this data set's; {remedy}")


def _check_parts(splits: Splits, dataset: Dataset, path: str | Path) -> None:
    """The invariants of the parts, which a forged file violates under a digest that matches."""
    train = torch.cat([splits.forget, splits.retain]).sort().values
    everything = torch.cat([splits.train, splits.validation, splits.unseen, splits.test, splits.forgotten])
    ascending = all(bool((getattr(splits, name).diff() > 0).all()) for name in (*PARTS, OPTIONAL))
    problems = {
        "indices are not in ascending order": not ascending,
        "train is not forget and retain together": not torch.equal(train, splits.train),
        "an image stands in two parts": len(everything.unique()) < len(everything),
        "a label is no class": not bool(((splits.labels >= 0) & (splits.labels < dataset.num_classes)).all()),
        "the test part is of no known kind": splits.final_test not in FINAL_TESTS,
    }
    if found := [problem for problem, there in problems.items() if there]:
        raise UserError(f"splits {path} are damaged: {found[0]}; copy the file again from its run")


def _whole_numbers(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError("no list of indices")
    return torch.from_numpy(array.astype(np.int64))
