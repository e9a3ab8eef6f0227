"""The flags of the data set, its parts and the forget set."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Literal

from data.augmentation import Augmentation
from data.datasets import DATASETS, SUPERCLASSES, Dataset, by_superclass, load_dataset
from data.forget import CONFUSIONS
from data.image_list import in_class_order
from data.pictures.reading import CACHES
from data.preprocessing import Preprocessing
from helper_functions.config import NonNegativeInt, OpenUnitInterval, PositiveInt
from helper_functions.errors import UserError
from helper_functions.files import check_folder
from helper_functions.progress import progress_bar
from helper_functions.training.distribution import first_on_machine

AUGMENTATIONS = {"none": (0, False), "flip": (0, True), "crop": (4, False), "crop_flip": (4, True)}  # padding, flip
# A mirrored digit is another symbol or none; 8 x 8 digits have no margin to crop.
OWN_AUGMENTATION = {
    "cifar10": "crop_flip", "cifar100": "crop_flip", "svhn": "crop", "fashion_mnist": "crop_flip", "digits": "none",
    "imagefolder": "crop_flip",
}  # fmt: skip
MARKERS = {
    "cifar-100-python": "cifar100", "cifar-10-batches-py": "cifar10", "train_32x32.mat": "svhn",
    "FashionMNIST": "fashion_mnist",
}  # fmt: skip


@dataclasses.dataclass
class DataArgs(Preprocessing):
    """Data set, its parts, and the forget set."""

    dataset: Literal["auto", *DATASETS] = "auto"
    """auto recognises the data set in --data_dir, and is digits without one."""
    data_dir: str | None = None
    """Folder of the data set; CIFAR, SVHN and Fashion-MNIST are downloaded to it when absent."""
    labels: Literal["fine", "superclass"] = "fine"
    """superclass trains on CIFAR-100's 20 superclasses, of which --forget class:rocket is a subclass."""
    forget: str | None = None
    """The forget set: random:0.1, random:500, class:apple,7, superclass:fish, mislabelled:0.1, group:NAME or
    file:PATH; long_tailed:0.1:10, a random one with ten times as many images of the most frequent class as of the
    rarest; mislabelled:0.1:0.5, half of the wrong labels, while the others stay, unknown. Without it, random:0.1 of a
    built-in data set; of an imagefolder, it has to be given."""
    requests: str | None = None
    """CSV file of request_id, requester and file, an image or a list of images: all of them are the forget set, and
    each requester gets a page of his own."""
    groups: str | None = None
    """CSV file of file and group, such as persons, for --forget group:NAME."""
    confusion: Literal[*CONFUSIONS] = "uniform"
    """How mislabelled:FRACTION corrupts: to any other class, or to the next one."""
    validation: str = "0.1"
    """Share of the training part that is held out, or file:PATH listing images that the model was not trained on."""
    test: OpenUnitInterval = 0.2
    """Share of test images where the data set has no test part of its own."""
    subset: PositiveInt | None = None
    """Use so many images of the training part, held-out ones among them, drawn by class; by default all."""
    splits: str | None = None
    """A splits.npz of an earlier run, whose train, held-out and test images are used again."""
    augmentation: Literal["auto", *AUGMENTATIONS] = "auto"
    """Augmentation of training images; auto is crop_flip for photographs, crop for svhn, none for digits."""
    cutout: NonNegativeInt = 0
    """Side of a square that is blanked at a random place of each training image."""
    class_order: str | None = None
    """File of class names, one a line, in the order of the model's outputs; by default that of the data set, for an
    imagefolder alphabetical."""
    skip_unreadable: bool = False
    """Leave out an imagefolder's unreadable files instead of stopping at the first."""
    cache: Literal[*CACHES] = "auto"
    """Where an imagefolder's decoded pictures are: in memory; in a file on the disk, which later runs use again; or
    nowhere, decoded for each batch. auto is memory for what fits in half of what is free, the disk for more."""
    cache_dir: str | None = None
    """Folder of that file; cache in --log_dir by default."""


def dataset_from(args: DataArgs, whole: bool = False) -> Dataset:
    """Load the data set as it is stated; `whole`, with pictures that were overwritten in the file on the disk.

    Raises UserError where it cannot be loaded, or does not fit what is stated.
    """
    name = dataset_name(args)
    if args.labels == "superclass" and name not in SUPERCLASSES:
        raise UserError(f"--labels superclass: {name} has no superclasses; leave it out, or give --dataset cifar100")
    data_dir = args.data_dir or f"data/{name}"
    # Pictures of a folder have a bar of their own.
    bar = contextlib.nullcontext() if name == "imagefolder" else progress_bar(f"loading {name}")
    with bar, contextlib.nullcontext() if name == "digits" else first_on_machine():
        dataset = load_dataset(
            name, data_dir, Preprocessing.of(args), skip_unreadable=args.skip_unreadable, cache=args.cache,
            cache_dir=args.cache_dir or Path(getattr(args, "log_dir", None) or "runs") / "cache", whole=whole,
            write=not getattr(args, "dry_run", False),
        )  # fmt: skip
    dataset = dataset if args.labels == "fine" else by_superclass(dataset)
    return dataset if args.class_order is None else in_class_order(dataset, args.class_order)


def dataset_name(args: DataArgs) -> str:
    """The data set that `dataset` names, or that is recognised in `data_dir`; raises UserError where there is none."""
    if args.dataset != "auto":
        return args.dataset
    if args.data_dir is None:
        return "digits"
    folder = Path(args.data_dir)
    if folder.name in DATASETS:
        return folder.name
    for marker, name in MARKERS.items():
        if (folder / marker).exists():
            return name
    remedy = "; --dataset cifar10, cifar100 or svhn downloads into one"
    check_folder("data_dir", folder, remedy)
    if not any(folder.iterdir()):
        raise UserError(f"--data_dir {folder}: the folder is empty{remedy}")
    if any(child.is_dir() for child in folder.iterdir()):
        return "imagefolder"
    raise UserError(f"--data_dir {args.data_dir}: no data set is recognised in it; name it by --dataset")


def augmentation_from(args: DataArgs, dataset: Dataset) -> Augmentation | None:
    """The augmentation of training images, None where they stay unchanged."""
    name = OWN_AUGMENTATION[dataset.name] if args.augmentation == "auto" else args.augmentation
    if name == "none" and not args.cutout:
        return None
    padding, flip = AUGMENTATIONS[name]
    # The paddings are for 32 x 32 images and scale with the size.
    return Augmentation(round(padding * min(dataset.image_size) / 32), flip, args.cutout)
