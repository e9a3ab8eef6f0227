"""From stored images to normalised float batches: one gather and one multiply-add."""

from collections.abc import Sequence

import torch
from torch import Tensor


def channels_last_storage(images: Tensor) -> Tensor:
    """The [N, H, W, C] contiguous tensor behind [N, C, H, W] images; copied only where memory is in another order."""
    return images.permute(0, 2, 3, 1).contiguous()


def gather_pixels(storage: Tensor, indices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pick images and rearrange their rows and columns in one gather.

    storage: [N, H, W, C] contiguous; indices: int64 [B]; rows: int64 [B, h]; columns: int64 [B, w].
    Returns [B, h, w, C] with `out[b, i, j] = storage[indices[b], rows[b, i], columns[b, j]]`.
    """
    _, height, width, channels = storage.shape
    row_starts = (indices[:, None] * height + rows) * width
    positions = row_starts[:, :, None] + columns[:, None, :]
    pixels = storage.view(-1, channels).index_select(0, positions.view(-1))
    return pixels.view(len(indices), rows.shape[1], columns.shape[1], channels)


class Normaliser:
    """Maps uint8 pixels [B, H, W, C] to float32 [B, C, H, W] in channels_last: (pixel / 255 - mean) / std.

    Pixels in floating point, which a user's own transform has made, stay as they are.
    Scale and bias are repeated for a whole image, so that the multiply-add runs over one long inner dimension and not
    over three channels at a time.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], image_size: tuple[int, int],
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        pixels = image_size[0] * image_size[1]
        mean64, std64 = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.scale = (1 / (255 * std64)).float().repeat(pixels).to(device)
        self.bias = (-mean64 / std64).float().repeat(pixels).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.is_floating_point():
            return pixels.permute(0, 3, 1, 2)
        batch, height, width, channels = pixels.shape
        values = pixels.reshape(batch, -1).float().mul_(self.scale).add_(self.bias)
        return values.view(batch, height, width, channels).permute(0, 3, 1, 2)
