"""Download, verify and describe a data set, for machines whose compute nodes have no network.

python -m data.prepare --dataset cifar100 --data_dir data/cifar100
"""

import sys

if __name__ == "__main__" and sys.stderr.isatty() and "--quiet" not in sys.argv:
    print("data.prepare: loading PyTorch, which takes seconds", file=sys.stderr, flush=True)

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this file is run by its path

from data.datasets import DATASETS, DOWNLOADED, Dataset, load_dataset
from data.pixels import channels_last_storage
from data.preprocessing import Preprocessing
from helper_functions.config import ScriptParser, run_script


@dataclasses.dataclass
class Args(Preprocessing):
    """A data set and its folder."""

    dataset: Literal[*DATASETS] = "cifar100"
    """Which data set to prepare."""
    data_dir: str | None = None
    """Its folder, data/NAME by default; CIFAR, SVHN and Fashion-MNIST are downloaded to it when absent."""
    skip_unreadable: bool = False
    """Leave out an imagefolder's unreadable files instead of stopping at the first."""


# Images that are hashed at a time.
CHUNK = 4096


def get_parser() -> ScriptParser:
    return ScriptParser(Args, "data.prepare", "Download, verify and describe a data set.")


def main(args: Args) -> dict[str, Any]:
    """Prepare one data set; prints and returns its description.

    Raises UserError where it cannot be downloaded or read.
    """
    folder = Path(args.data_dir or f"data/{args.dataset}")
    dataset = load_dataset(args.dataset, folder, Preprocessing.of(args), skip_unreadable=args.skip_unreadable)
    found = describe(dataset, folder)
    for name, value in found.items():
        print(f"{name:15} {value}")
    return found


def describe(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Sizes, classes, how the files were verified, and the SHA-256 of the decoded pixels and labels."""
    digest = hashlib.sha256()
    for part in torch.arange(len(dataset.images)).split(CHUNK):
        digest.update(channels_last_storage(dataset.images[part]).numpy())
    digest.update(dataset.labels.numpy().astype("<i8"))
    counts = torch.bincount(dataset.labels, minlength=dataset.num_classes)
    return {
        "dataset": dataset.name,
        "folder": "inside scikit-learn" if dataset.name == "digits" else str(folder.resolve()),
        "verified": VERIFIED[dataset.name],
        "training_images": dataset.num_train,
        "test_images": len(dataset.labels) - dataset.num_train,
        "classes": dataset.num_classes,
        "class_sizes": f"{int(counts.min())} to {int(counts.max())}",
        "image": " x ".join(map(str, dataset.images.shape[1:])),
        "sha256": digest.hexdigest(),
    }


VERIFIED = dict.fromkeys(DOWNLOADED, "MD5 sums match") | {
    "digits": "part of the installed package",
    "imagefolder": "every image was decoded",
}


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
