"""Image classification data sets as one uint8 tensor, its labels and its class names."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.cifar100_superclasses import CIFAR100_SUPERCLASSES
from data.imagefolder import DEFAULT_IMAGE_SIZE, read_image_folder
from helper_functions.errors import UserError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, their true labels, and what the two mean.

    images: uint8 [N, C, H, W] over channels_last memory; labels: int64 [N]; images[:num_train] are the data set's own
    training part in its own order, the rest its official test part (num_train == N where there is none).
    mean, std: per channel, of pixels scaled to [0, 1]. superclasses: name to the class names in it, or empty.
    file_names: of an image folder, relative to it, with forward slashes.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    num_train: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    superclasses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    file_names: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height in pixels; the width is the same."""
        return self.images.shape[2]


@dataclass(frozen=True)
class _Archive:
    """What torchvision downloads: what to tell a user without a network, and the training part's statistics."""

    address: str
    files: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_ARCHIVES = {
    "cifar10": _Archive(
        "https://www.cs.toronto.edu/~kriz/", ("cifar-10-python.tar.gz",),
        (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
    ),
    "cifar100": _Archive(
        "https://www.cs.toronto.edu/~kriz/", ("cifar-100-python.tar.gz",),
        (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
    ),
    "svhn": _Archive(
        "http://ufldl.stanford.edu/housenumbers/", ("train_32x32.mat", "test_32x32.mat"),
        (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970),
    ),
}  # fmt: skip
DOWNLOADED = tuple(_ARCHIVES)
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError)


def load_dataset(
    name: str,
    data_dir: str | Path,
    *,
    image_size: int | None = None,
    skip_unreadable: bool = False,
    download: bool = True,
) -> Dataset:
    """Load one of `DATASETS` from data_dir, downloading CIFAR and SVHN with progress where they are absent.

    image_size and skip_unreadable are for `imagefolder`: the side to which images are scaled (64 by default), and
    whether undecodable files are left out. Raises UserError for an unknown name and for data that is absent, damaged
    or unreadable.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    if image_size is not None and name != "imagefolder":
        raise UserError(f"image size {image_size} cannot be set for {name}; leave --image_size out")
    return DATASETS[name](Path(data_dir), image_size=image_size, skip_unreadable=skip_unreadable, download=download)


def _load_cifar10(data_dir: Path, *, download: bool, **_: Any) -> Dataset:
    from torchvision.datasets import CIFAR10

    train, test = (_open("cifar10", data_dir, download, partial(CIFAR10, data_dir, part)) for part in (True, False))
    return _from_archive("cifar10", train.data, train.targets, test.data, test.targets, train.classes)


def _load_cifar100(data_dir: Path, *, download: bool, **_: Any) -> Dataset:
    from torchvision.datasets import CIFAR100

    train, test = (_open("cifar100", data_dir, download, partial(CIFAR100, data_dir, part)) for part in (True, False))
    dataset = _from_archive("cifar100", train.data, train.targets, test.data, test.targets, train.classes)
    return replace(dataset, superclasses=CIFAR100_SUPERCLASSES)


def _load_svhn(data_dir: Path, *, download: bool, **_: Any) -> Dataset:
    from torchvision.datasets import SVHN

    train, test = (_open("svhn", data_dir, download, partial(SVHN, data_dir, part)) for part in ("train", "test"))
    pixels = (part.data.transpose(0, 2, 3, 1) for part in (train, test))
    digits = tuple(str(digit) for digit in range(10))
    return _from_archive("svhn", next(pixels), train.labels, next(pixels), test.labels, digits)


def _open(name: str, data_dir: Path, download: bool, build: Callable[..., Any]) -> Any:
    """Read by torchvision, which compares MD5 sums before it opens a file; download where they do not fit."""
    archive = _ARCHIVES[name]
    unpack = " and unpack it there" if archive.files[0].endswith(".tar.gz") else ""
    remedy = f"put {' and '.join(archive.files)} from {archive.address} into {data_dir}{unpack}"
    try:
        return build(download=False)
    except RuntimeError as error:  # torchvision's word for absent or damaged
        if not download:
            raise UserError(f"{name} is absent from {data_dir} or damaged; {remedy}") from error
    except _READ_ERRORS as error:
        raise UserError(f"cannot read {name} in {data_dir}: {_one_line(error)}; {remedy}") from error
    try:
        return build(download=True)
    except (RuntimeError, *_READ_ERRORS) as error:
        problem = f"{name} is absent from {data_dir} or damaged, and cannot be downloaded: {_one_line(error)}"
        raise UserError(f"{problem}; {remedy}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _from_archive(
    name: str,
    train: np.ndarray,
    train_labels: Sequence[int],
    test: np.ndarray,
    test_labels: Sequence[int],
    classes: Sequence[str],
) -> Dataset:
    """train, test: uint8 [n, H, W, C]."""
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    return Dataset(
        name=name,
        images=_as_images(np.concatenate([train, test])),
        labels=torch.from_numpy(labels),
        classes=tuple(classes),
        num_train=len(train),
        mean=_ARCHIVES[name].mean,
        std=_ARCHIVES[name].std,
    )


def _load_digits(data_dir: Path, **_: Any) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    mean, std = _channel_statistics(pixels)
    return Dataset(
        name="digits",
        images=_as_images(pixels),
        labels=torch.from_numpy(digits.target.astype(np.int64)),
        classes=tuple(str(digit) for digit in range(10)),
        num_train=len(pixels),
        mean=mean,
        std=std,
    )


def _load_imagefolder(data_dir: Path, *, image_size: int | None, skip_unreadable: bool, **_: Any) -> Dataset:
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    pixels, labels, classes, file_names = read_image_folder(data_dir, size, skip_unreadable)
    mean, std = _channel_statistics(pixels)
    return Dataset(
        name="imagefolder",
        images=_as_images(pixels),
        labels=torch.from_numpy(labels),
        classes=classes,
        num_train=len(pixels),
        mean=mean,
        std=std,
        file_names=file_names,
    )


def _as_images(pixels: np.ndarray) -> Tensor:
    """[N, H, W, C] to [N, C, H, W] without moving memory, so that loaders gather whole pixels."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def _channel_statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels uint8 [N, H, W, C] scaled to [0, 1].

    From counts of the 256 values: exact integers, whatever the number of images.
    """
    values = np.arange(256) / 255
    counts = [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(pixels.shape[-1])]
    means = [float(count @ values / count.sum()) for count in counts]
    variances = [float(count @ (values - mean) ** 2 / count.sum()) for count, mean in zip(counts, means, strict=True)]
    # Images of one colour have no spread; any positive number then serves.
    return tuple(means), tuple(max(variance**0.5, 1 / 255) for variance in variances)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "cifar10": _load_cifar10,
    "cifar100": _load_cifar100,
    "svhn": _load_svhn,
    "digits": _load_digits,
    "imagefolder": _load_imagefolder,
}
