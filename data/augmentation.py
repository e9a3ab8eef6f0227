"""Random crop, horizontal flip and cutout of whole batches, drawn for each image separately."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.pixels import Normaliser, gather_pixels


@dataclass(frozen=True)
class Augmentation:
    """Reflect-padded random crop, horizontal flip and square cutout (DeVries and Taylor 2017) of batches.

    padding: pixels of reflection on each side before a crop of the original size; below the image's size.
    flip: mirror half of the images. cutout: side in pixels of a square that is set to the channel means (zero after
    normalisation), centred anywhere and clipped at the border; 0 for none.

    A plan holds the draws, int64 [B, 5]: the crop's top and left corner in the padded image (0 to 2 * padding), 1 where
    the image is mirrored, and the row and column of the square's centre in the augmented image.
    """

    padding: int = 4
    flip: bool = True
    cutout: int = 0

    def draw(self, batch_size: int, image_size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """A plan for images of this height and width, int64 [B, 5] on the generator's device."""
        height, width = image_size

        def integers(high: int) -> Tensor:
            return torch.randint(high, (batch_size,), generator=generator, device=generator.device)

        top, left = integers(2 * self.padding + 1), integers(2 * self.padding + 1)
        flip = integers(2) if self.flip else torch.zeros_like(top)
        return torch.stack([top, left, flip, integers(height), integers(width)], dim=1)

    def apply(self, storage: Tensor, indices: Tensor, plan: Tensor, normaliser: Normaliser) -> Tensor:
        """Augmented, normalised images: float32 [B, C, H, W] in channels_last.

        storage: [N, H, W, C] contiguous; indices: int64 [B], the images to take; plan: int64 [B, 5].
        """
        _, height, width, _ = storage.shape
        top, left, flip, centre_row, centre_column = (draws[:, None] for draws in plan.unbind(1))
        vertical, horizontal = (torch.arange(size, device=plan.device) for size in (height, width))
        rows = _reflect(top + vertical - self.padding, height)
        # The crop is mirrored, not the image: output column w reads crop column W - 1 - w.
        mirrored = torch.where(flip == 1, width - 1 - horizontal, horizontal)
        columns = _reflect(left + mirrored - self.padding, width)
        inputs = normaliser(gather_pixels(storage, indices, rows, columns))
        if self.cutout:
            hidden_rows = self._hidden(vertical, centre_row)
            hidden_columns = self._hidden(horizontal, centre_column)
            inputs.masked_fill_((hidden_rows[:, :, None] & hidden_columns[:, None, :])[:, None], 0.0)
        return inputs

    def _hidden(self, position: Tensor, centre: Tensor) -> Tensor:
        offset = position - (centre - self.cutout // 2)
        return (offset >= 0) & (offset < self.cutout)


def _reflect(position: Tensor, size: int) -> Tensor:
    """Reflect positions beyond the border without repeating the border pixel, as `F.pad(mode='reflect')` does."""
    return (size - 1) - ((size - 1) - position.abs()).abs()
