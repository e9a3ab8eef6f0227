"""Image classification data sets as one tensor, its labels and its class names."""

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.partition import copy_groups, groups_of
from data.pictures.fetched import Pictures
from data.pictures.reading import Cache, read_image_folder
from data.preprocessing import Preprocessing, as_flags
from helper_functions.errors import UserError
from helper_functions.files import check_folder
from helper_functions.safe_files.regular_files import open_bytes
from helper_functions.wording import counted

# The 20 superclasses and the five classes in each (Krizhevsky 2009).
CIFAR100_SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
# Of the data sets that have some.
SUPERCLASSES = {"cifar100": CIFAR100_SUPERCLASSES}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, their true labels, and the names of the classes.

    images: [N, C, H, W] in channels_last memory, or `Pictures` where they are not all there; uint8, or float32 where a
    user's own transform gives that; labels: int64 [N]; images[:num_train] are the data set's own training part in its
    own order, the rest its official test part (num_train == N where there is none). mean, std: per channel, of uint8
    pixels scaled to [0, 1]. superclasses: name to the class names in it, or empty. folder, file_names: of an image
    folder, and of its pictures, relative to it, with forward slashes. preprocessing: how the images became what they
    are, and are normalised. digests: of each image's pixels, [N]. pixel_file: folder of the file that holds the pixels,
    if one does. subclasses, sub_labels: where the classes are superclasses, the names and the labels, int64 [N], of
    what is in them.
    """

    name: str
    images: Tensor | Pictures
    labels: Tensor
    classes: tuple[str, ...]
    num_train: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    superclasses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    file_names: tuple[str, ...] | None = None
    folder: Path | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    digests: np.ndarray | None = None
    pixel_file: Path | None = None
    subclasses: tuple[str, ...] = ()
    sub_labels: Tensor | None = None

    @property
    def strata(self) -> Tensor:
        """int64 [N]: what splits and attacks match images by, the subclass where there are some, else the class."""
        return self.labels if self.sub_labels is None else self.sub_labels

    @cached_property
    def copy_groups(self) -> np.ndarray:
        """int64 [N]: for each image, the index of the first with identical pixels."""
        return copy_groups(self.images) if self.digests is None else groups_of(self.digests)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.images.shape[2:])

    def picture(self, index: int) -> Tensor:
        """An image to look at, uint8 [1 or 3, H, W]; floating point is stretched to the whole range."""
        image = self.images[index]
        if image.is_floating_point():
            low, high = image.aminmax()
            image = ((image - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
        return image if len(image) in (1, 3) else image[:1]


@dataclass(frozen=True)
class _Archive:
    """A data set that torchvision downloads: where a user finds its files, and the training part's statistics."""

    address: str
    files: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


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
    "fashion_mnist": _Archive(
        "https://github.com/zalandoresearch/fashion-mnist",
        tuple(f"FashionMNIST/raw/{name}" for name in (
            "train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte",
        )),
        (0.2860,), (0.3530,),
    ),
}  # fmt: skip
# torchvision compares the sums of Fashion-MNIST's archives, not those of the files that it unpacks and reads.
_FASHION_MNIST_SUMS = (
    "f4a8712d7a061bf5bd6d2ca38dc4d50a", "8181f5470baa50b63fa0f6fddb340f0a",
    "9018921c3c673c538a1fc5bad174d6f9", "15d484375f8d13e6eb1aabb0c3f46965",
)  # fmt: skip
# Bytes before the pixels, and before the labels, of the IDX format.
_IDX_HEADERS = (16, 16, 8, 8)
DOWNLOADED = tuple(_ARCHIVES)
_DIGITS = tuple(str(digit) for digit in range(10))
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError)


def load_dataset(
    name: str, data_dir: str | Path, stated: Preprocessing | None = None, *, skip_unreadable: bool = False,
    cache: Cache = "memory", cache_dir: str | Path = "cache", whole: bool = False, write: bool = True,
) -> Dataset:  # fmt: skip
    """Load one of `DATASETS` from data_dir; those of `DOWNLOADED` are downloaded with progress where they are absent.

    Of what is `stated`, mean and std apply to all data sets, everything else to `imagefolder` alone, as does
    skip_unreadable: whether undecodable files are left out; cache and the rest as of `read_image_folder`.
    Raises UserError for an unknown name and for data that is absent, damaged or unreadable, or does not fit what is
    stated.
    """
    stated = stated or Preprocessing()
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; choose from {', '.join(DATASETS)}")
    if name == "imagefolder":
        dataset = _load_imagefolder(Path(data_dir), stated.resolved(), skip_unreadable, cache, cache_dir, whole, write)
    else:
        given = {key: value for key, value in stated.stated().items() if key not in ("mean", "std")}
        if given:
            flag = next(iter(given))
            raise UserError(f"{as_flags({flag: given[flag]})} cannot be set for {name}; leave --{flag} out")
        dataset = replace(DATASETS[name](Path(data_dir)), preprocessing=stated)
    if dataset.images.is_floating_point():
        return dataset
    used = {}
    for key in ("mean", "std"):
        used[key] = getattr(dataset.preprocessing, key) or list(getattr(dataset, key))
        if len(used[key]) != dataset.in_channels:
            channels = counted(dataset.in_channels, "channel")
            raise UserError(f"--{key} {used[key]}: {name} has {channels}, give one number for each")
    preprocessing = replace(dataset.preprocessing, **used)
    return replace(dataset, mean=tuple(used["mean"]), std=tuple(used["std"]), preprocessing=preprocessing)


def _load_cifar(name: str, data_dir: Path) -> Dataset:
    parts = _open(name, data_dir, (True, False))
    pixels, labels = [part.data for part in parts], [part.targets for part in parts]
    return _from_archive(name, pixels, labels, tuple(parts[0].classes))


def _load_svhn(data_dir: Path) -> Dataset:
    parts = _open("svhn", data_dir, ("train", "test"))
    pixels = [part.data.transpose(0, 2, 3, 1) for part in parts]
    return _from_archive("svhn", pixels, [part.labels for part in parts], _DIGITS)


def _load_fashion_mnist(data_dir: Path) -> Dataset:
    name, archive = "fashion_mnist", _ARCHIVES["fashion_mnist"]
    paths = [data_dir / file for file in archive.files]
    if not all(path.is_file() for path in paths):
        _open(name, data_dir, (True,))
    parts = []
    for path, wanted, header in zip(paths, _FASHION_MNIST_SUMS, _IDX_HEADERS, strict=True):
        try:
            with open_bytes(path) as file:
                content = file.read()
        except OSError as error:
            raise UserError(f"cannot read {path}: {_one_line(error)}; {_remedy(name, data_dir)}") from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != wanted:
            raise UserError(f"{path} is damaged: its MD5 sum is another one; {_remedy(name, data_dir)}")
        parts.append(np.frombuffer(content, np.uint8, offset=header))
    import torchvision.datasets

    pixels = [part.reshape(-1, 28, 28, 1) for part in parts[:2]]
    return _from_archive(name, pixels, parts[2:], tuple(torchvision.datasets.FashionMNIST.classes))


def _open(name: str, data_dir: Path, parts: Sequence[bool | str]) -> list[Any]:
    """Both parts, read by torchvision, which compares MD5 sums before it opens a file."""
    import torchvision.datasets

    if data_dir.exists():
        check_folder("data_dir", data_dir)
    reader = getattr(torchvision.datasets, "FashionMNIST" if name == "fashion_mnist" else name.upper())
    remedy = _remedy(name, data_dir)
    try:
        return [reader(data_dir, part, download=False) for part in parts]
    except RuntimeError:  # torchvision raises it for files that are absent or damaged
        absent = f"{name} is absent from {data_dir} or damaged"
    except _READ_ERRORS as error:
        raise UserError(f"cannot read {name} in {data_dir}: {_one_line(error)}; {remedy}") from error
    try:
        return [reader(data_dir, part, download=True) for part in parts]
    except (RuntimeError, *_READ_ERRORS) as error:
        raise UserError(f"{absent}, and cannot be downloaded: {_one_line(error)}; {remedy}") from error


def _remedy(name: str, data_dir: Path) -> str:
    archive = _ARCHIVES[name]
    unpack = " and unpack it there" if archive.files[0].endswith(".tar.gz") else ""
    return f"put {' and '.join(archive.files)} from {archive.address} into {data_dir}{unpack}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _from_archive(name: str, pixels: list[np.ndarray], labels: list[Sequence], classes: tuple[str, ...]) -> Dataset:
    """pixels: uint8 [n, H, W, C] of the training and the test part; labels: of the same two."""
    images, all_labels = _as_images(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels).astype(np.int64))
    mean, std = _ARCHIVES[name].mean, _ARCHIVES[name].std
    return Dataset(name, images, all_labels, classes, len(pixels[0]), mean, std, SUPERCLASSES.get(name, {}))


def by_superclass(dataset: Dataset) -> Dataset:
    """The data set with its superclasses as classes, and its classes as their subclasses."""
    names = tuple(dataset.superclasses)
    place = {member: label for label, name in enumerate(names) for member in dataset.superclasses[name]}
    labels = torch.tensor([place[name] for name in dataset.classes])[dataset.labels]
    return replace(dataset, labels=labels, classes=names, subclasses=dataset.classes, sub_labels=dataset.labels)


def _load_digits(data_dir: Path) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Dataset("digits", _as_images(pixels), labels, _DIGITS, len(pixels), *_channel_statistics(pixels))


def _load_imagefolder(
    data_dir: Path, stated: Preprocessing, skip_unreadable: bool, *where: Cache | str | Path | bool
) -> Dataset:
    found = read_image_folder(data_dir, stated, skip_unreadable, *where)
    listing, (count, channels, height, width) = found.listing, found.images.shape
    floating = found.images.is_floating_point()
    stated = stated.of_pixels(np.empty((0, height, width, channels), np.float32 if floating else np.uint8))
    identity = (0.0,) * channels, (1.0,) * channels
    statistics = identity if floating else _statistics(found.facts["sums"].sum(0), count * height * width)
    return Dataset(
        "imagefolder", found.images, torch.from_numpy(listing.labels), listing.classes, count, *statistics,
        file_names=listing.files, folder=data_dir, preprocessing=stated, digests=found.facts["digest"],
        pixel_file=found.place,
    )  # fmt: skip


def _as_images(pixels: np.ndarray) -> Tensor:
    """[N, H, W, C] to [N, C, H, W] in the same memory, so that loaders gather whole pixels."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def _channel_statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels uint8 [N, H, W, C] scaled to [0, 1]."""
    values = pixels.reshape(-1, pixels.shape[-1]).astype(np.int64)
    return _statistics(np.stack([values.sum(0), (values * values).sum(0)]), len(values))


def _statistics(sums: np.ndarray, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same from sums and sums of squares, int64 [2, C], of so many pixels; exact for any number of images."""
    means = tuple(int(total) / (255 * count) for total in sums[0])
    # Python's integers do not overflow.
    spread = [(count * int(square) - int(total) ** 2) / (255 * count) ** 2 for total, square in sums.T]
    # Images of one colour have no spread; any positive number then serves.
    return means, tuple(max(variance**0.5, 1 / 255) for variance in spread)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "cifar10": partial(_load_cifar, "cifar10"),
    "cifar100": partial(_load_cifar, "cifar100"),
    "svhn": _load_svhn,
    "fashion_mnist": _load_fashion_mnist,
    "digits": _load_digits,
    "imagefolder": _load_imagefolder,
}
