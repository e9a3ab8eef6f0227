"""Pictures that are not all on the device: batches of them are fetched while the device works on the one before."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

# Batches that are fetched before they are needed.
AHEAD = 2


class Pictures:
    """Images [N, C, H, W] of which some are fetched at a time: rows of a tensor in host memory or in a mapped file.

    storage: uint8 or float32 [M, H, W, C] on the CPU; rows: int64 [N], the row of each image; the images are all rows
    by default. further: [K, H, W, C] in memory, rows M to M + K - 1. `len`, `shape`, `dtype`, `nbytes` and indexing are
    those of a tensor.
    """

    def __init__(self, storage: Tensor, rows: Tensor | None = None, further: Tensor | None = None) -> None:
        self.storage, self.rows, self.further = storage, rows, further
        self.dtype, count = storage.dtype, len(storage) if rows is None else len(rows)
        height, width, channels = storage.shape[1:]
        self.shape = torch.Size((count, channels, height, width))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """One image [C, H, W], or several [n, C, H, W] in channels_last memory."""
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        wanted = torch.as_tensor(index)
        found = self.read(wanted.reshape(-1)).permute(0, 3, 1, 2)
        return found if wanted.dim() else found[0]

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def is_floating_point(self) -> bool:
        """As of a tensor: whether the pixels are normalised already."""
        return self.dtype.is_floating_point

    def read(self, indices: Tensor, pinned: bool = False) -> Tensor:
        """The pixels [n, H, W, C] of images int64 [n], in memory from which a GPU can copy them meanwhile if pinned."""
        rows = indices if self.rows is None else self.rows[indices]
        target = torch.empty((len(rows), *self.storage.shape[1:]), dtype=self.dtype, pin_memory=pinned)
        if self.further is None:
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.storage):
                raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of {len(self.storage)} pictures")
            # By NumPy, since a second team of torch's threads would take turns with that of the step; "raise" in place
            # of "clip" would copy the pixels once more.
            np.take(self.storage.numpy(), rows.numpy(), 0, target.numpy(), "clip")
            return target
        inside = rows < len(self.storage)
        target[inside], target[~inside] = self.storage[rows[inside]], self.further[rows[~inside] - len(self.storage)]
        return target

    def fetch(self, batches: Iterable[Tensor], pinned: bool = False) -> Iterator[Tensor]:
        """The pixels of one batch of indices after another, each read before it is asked for."""
        with ThreadPoolExecutor(1) as pool:
            coming = deque()
            for indices in batches:
                coming.append(pool.submit(self.read, indices, pinned))
                if len(coming) > AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
