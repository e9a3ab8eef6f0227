"""Some of the forgotten images as PNG files, for a page that is to show them."""

import dataclasses
import hashlib
import io

import numpy as np
from torch import Tensor

from data.datasets import Dataset
from data.split_record import Splits

SHOWN = 24


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image: its number or file name, the name of the label that it was given, and a PNG file."""

    image: int | str
    label: str
    png: bytes

    @property
    def described(self) -> dict:
        """What a report says of it: the digest in place of the picture."""
        return {"image": self.image, "label": self.label, "sha256": hashlib.sha256(self.png).hexdigest()}


def sample_pictures(splits: Splits, dataset: Dataset) -> list[Picture]:
    """Up to 24 forgotten images, evenly spaced over the forget set, which is in the order of the data set."""
    places = np.linspace(0, len(splits.forget) - 1, min(SHOWN, len(splits.forget))).round().astype(int)
    return [_picture(int(splits.forget[place]), splits, dataset) for place in places]


def _picture(index: int, splits: Splits, dataset: Dataset) -> Picture:
    name = index if dataset.file_names is None else dataset.file_names[index]
    return Picture(name, dataset.classes[int(splits.labels[index])], encoded(dataset.images[index]))


def encoded(image: Tensor) -> bytes:
    """An image, uint8 `[C, H, W]` with one or three channels, as a PNG file."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def decoded(png: bytes) -> np.ndarray:
    """The pixels of such a file, uint8 `[C, H, W]`.

    Raises:
        ValueError: it is none.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG file: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
