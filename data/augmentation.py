"""Random crop, horizontal flip and cutout on whole batches, with draws for each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.pixels import Normaliser, channels_last_storage, check_channels, gather_pixels
from helper_functions.errors import UserError


@dataclass(frozen=True, eq=False)
class AugmentationPlan:
    """What was drawn for each of B images; int64 [B] and bool [B] tensors on one device.

    top, left: the crop's corner in the padded image, 0 to 2 * padding; flip: mirror left and right;
    cutout_row, cutout_column: the square's centre, in the image as the model sees it.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    cutout_row: Tensor
    cutout_column: Tensor

    def __len__(self) -> int:
        return len(self.top)

    def __getitem__(self, part: slice) -> "AugmentationPlan":
        return AugmentationPlan(*(tensor[part] for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        return self.top, self.left, self.flip, self.cutout_row, self.cutout_column

    @staticmethod
    def concatenate(plans: "Sequence[AugmentationPlan]") -> "AugmentationPlan":
        return AugmentationPlan(*(torch.cat(parts) for parts in zip(*(p.tensors() for p in plans), strict=True)))


@dataclass(frozen=True)
class Augmentation:
    """Reflect-padded random crop, horizontal flip and square cutout (DeVries and Taylor 2017) of uint8 batches.

    padding: pixels of reflection on each side before a crop of the original size; below the image's size.
    flip: mirror half of the images. cutout: side in pixels of a square that is set to the channel means (zero after
    normalisation), centred anywhere and cut off at the border; 0 is none.
    """

    padding: int = 4
    flip: bool = True
    cutout: int = 0

    def __post_init__(self):
        for name, value in (("padding", self.padding), ("cutout", self.cutout)):
            if value < 0:
                raise UserError(f"augmentation {name} {value} is negative; give 0 for none")

    def draw(self, batch_size: int, image_size: int | tuple[int, int], generator: torch.Generator) -> AugmentationPlan:
        """Draw for each image, on the generator's device.

        Raises UserError where the padding is not smaller than the image, which reflection needs.
        """
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if self.padding >= min(height, width):
            raise UserError(f"augmentation padding {self.padding} must be below the image size {height} x {width}")

        def integers(high: int) -> Tensor:
            return torch.randint(high, (batch_size,), generator=generator, device=generator.device)

        return AugmentationPlan(
            top=integers(2 * self.padding + 1),
            left=integers(2 * self.padding + 1),
            flip=integers(2).bool()
            if self.flip
            else torch.zeros(batch_size, dtype=torch.bool, device=generator.device),
            cutout_row=integers(height),
            cutout_column=integers(width),
        )

    def source_pixels(self, plan: AugmentationPlan, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The rows [B, H] and columns [B, W], int64, that the augmented images are read from."""
        vertical = torch.arange(height, device=plan.top.device)
        horizontal = torch.arange(width, device=plan.top.device)
        # The mirror stands after the crop: output column w reads crop column W - 1 - w.
        horizontal = torch.where(plan.flip[:, None], width - 1 - horizontal, horizontal)
        rows = _reflect(plan.top[:, None] + vertical - self.padding, height)
        columns = _reflect(plan.left[:, None] + horizontal - self.padding, width)
        return rows, columns

    def apply(self, storage: Tensor, indices: Tensor, plan: AugmentationPlan, normaliser: Normaliser) -> Tensor:
        """Augmented, normalised images: float32 [B, C, H, W] in channels_last.

        storage: uint8 [N, H, W, C] contiguous; indices: int64 [B], the images to take; plan: of length B.
        """
        _, height, width, _ = storage.shape
        inputs = normaliser(gather_pixels(storage, indices, *self.source_pixels(plan, height, width)))
        if self.cutout:
            inputs.masked_fill_(self._cutout_mask(plan, height, width), 0.0)
        return inputs

    def __call__(
        self, images: Tensor, mean: Sequence[float], std: Sequence[float], generator: torch.Generator
    ) -> Tensor:
        """Draw for a uint8 batch [B, C, H, W] and return it augmented and normalised, float32 [B, C, H, W]."""
        check_channels(images, mean)
        image_size = tuple(images.shape[2:])
        plan = self.draw(len(images), image_size, generator)
        everything = torch.arange(len(images), device=images.device)
        normaliser = Normaliser(mean, std, image_size, images.device)
        return self.apply(channels_last_storage(images), everything, plan, normaliser)

    def _cutout_mask(self, plan: AugmentationPlan, height: int, width: int) -> Tensor:
        def covered(centre: Tensor, size: int) -> Tensor:
            offset = torch.arange(size, device=centre.device) - (centre[:, None] - self.cutout // 2)
            return (offset >= 0) & (offset < self.cutout)

        rows, columns = covered(plan.cutout_row, height), covered(plan.cutout_column, width)
        return (rows[:, :, None] & columns[:, None, :])[:, None]


def _reflect(position: Tensor, size: int) -> Tensor:
    """Fold positions beyond the border back, without repeating the border pixel, as `F.pad(mode='reflect')` does."""
    return (size - 1) - ((size - 1) - position.abs()).abs()
