"""Bytes of pixels that each rank gathers for training on an image folder, in a pass over its first images.

    torchrun --standalone --nproc_per_node=2 -m benchmarks.speed.gathered FOLDER SIDE CACHE_DIR
"""

import json
import sys

import torch

from data.datasets import load_dataset
from data.loaders import TensorLoader
from data.pictures.fetched import Pictures
from data.preprocessing import Preprocessing
from helper_functions.training.distribution import process_group, rank, world_size

IMAGES, BATCH_SIZE = 10_240, 128


class CountedPictures(Pictures):
    """Pictures that note how many bytes of pixels this process gathers; `gathered` has an entry a batch."""

    gathered: tuple[int, ...] = ()

    def read(self, indices: torch.Tensor, pinned: bool = False) -> torch.Tensor:
        """As of `Pictures`."""
        pixels = super().read(indices, pinned)
        self.gathered += (pixels.nbytes,)
        return pixels


def main(folder: str, side: str, cache_dir: str) -> None:
    """Print, as JSON, the bytes that each rank gathers for a pass."""
    with process_group():
        dataset = load_dataset("imagefolder", folder, Preprocessing(int(side)), cache="disk", cache_dir=cache_dir)
        pictures = CountedPictures(dataset.images.storage, dataset.images.rows)
        wanted = torch.arange(min(IMAGES, len(pictures)))
        for _ in TensorLoader(
            pictures, dataset.labels, wanted, BATCH_SIZE, mean=dataset.mean, std=dataset.std, shuffle=True
        ):
            pass
        found = torch.zeros(world_size(), dtype=torch.int64)
        found[rank()] = sum(pictures.gathered)
        if world_size() > 1:
            torch.distributed.all_reduce(found)
        print(json.dumps({"images": len(wanted), "bytes": found.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
