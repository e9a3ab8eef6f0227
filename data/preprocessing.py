"""How a picture becomes the model's input, as flags, a recipe that a library ships, or the user's own code state it."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from data.recipes import recipe
from helper_functions.config import FiniteFloat, PositiveFloat, PositiveInt
from helper_functions.errors import UserError
from helper_functions.user_code import called, load_named, refuse_unnamed

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_SIZE = [64, 64]
LARGEST_SIZE = 4096
# Mean difference of pixels between 0 and 1, up to which two libraries' ways to resize are the same.
AGREES = 2 / 255
# What the user's own code decides.
DECIDED = ("resize", "resize_size", "crop", "interpolation")
Reader = Callable[["Image"], np.ndarray]


@dataclasses.dataclass
class Preprocessing:
    """How a picture becomes the model's input."""

    image_size: PositiveInt | list[PositiveInt] | None = None
    """Size of the model's input: a side, or H,W; 64 by default."""
    resize: Literal["short", "squash", "fit"] | None = None
    """Resize the short side (the default) or both sides to --resize_size, or fit the picture in, with black padding."""
    resize_size: PositiveInt | list[PositiveInt] | None = None
    """Size that is resized to before the crop: a side, or H,W; --image_size by default."""
    crop: Literal["center", "none"] | None = None
    """Crop the centre to --image_size (the default), or keep all that --resize gives."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = None
    """Of --resize, with antialiasing; bilinear by default."""
    channels: Literal[1, 3] | None = None
    """3 for RGB (the default), 1 for grey."""
    exif_orientation: bool | None = None
    """Turn photographs upright by their EXIF tag (True by default; torchvision's ImageFolder does not)."""
    transform: str | None = None
    """Instead of these flags: the data configuration of torchvision:ResNet50_Weights.IMAGENET1K_V2, timm:NAME or
    hf:FOLDER; or FILE.py:FUNCTION, your code, which is executed: a transform of PIL images, or a function that returns
    one. What it gives in floating point is the model's input; uint8 is normalised by --mean and --std."""
    mean: list[FiniteFloat] | None = None
    """Normalisation of pixels between 0 and 1, a number a channel; the data set's own by default."""
    std: list[PositiveFloat] | None = None
    """Normalisation of pixels between 0 and 1, a number a channel; the data set's own by default."""

    def __post_init__(self) -> None:
        """Sizes become height and width; raises UserError for one that is too large."""
        for name in ("image_size", "resize_size"):
            setattr(self, name, _pair(name, getattr(self, name)))

    @classmethod
    def of(cls, args: "Preprocessing") -> "Preprocessing":
        """These fields of a script's arguments."""
        return cls(**{name: getattr(args, name) for name in FIELDS})

    def stated(self) -> dict[str, Any]:
        """The fields that are stated, by name."""
        return {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}

    def resolved(self) -> "Preprocessing":
        """With a recipe's values and defaults for what is not stated; the user's own code leaves open what it decides.

        Raises UserError where flags contradict each other, or there is no such recipe.
        """
        if names_code(self.transform):
            if given := [name for name in DECIDED if getattr(self, name) is not None]:
                flag = as_flags({given[0]: getattr(self, given[0])})
                raise UserError(f"{flag}: --transform decides it; leave one of them out")
            return dataclasses.replace(self, exif_orientation=self.exif_orientation is not False)
        known = {} if self.transform is None else _recipe(self.transform)
        size = self.image_size or known.get("image_size") or DEFAULT_SIZE
        resize = self.resize or known.get("resize", "short")
        resized = self.resize_size or known.get("resize_size") or ([max(size)] * 2 if resize == "short" else size)
        own = {
            "image_size": size, "resize": resize, "resize_size": resized,
            "crop": self.crop or known.get("crop", "center"),
            "interpolation": self.interpolation or known.get("interpolation", "bilinear"),
            "channels": self.channels or 3, "exif_orientation": self.exif_orientation is not False,
        }  # fmt: skip
        own |= {name: getattr(self, name) or known.get(name) for name in ("mean", "std")}
        for name, value in known.items():
            if own[name] != value:
                raise UserError(f"{as_flags({name: own[name]})}: --transform says {value}; leave one of them out")
        flag = as_flags({"resize_size": resized})
        if resize == "short" and resized[0] != resized[1]:
            raise UserError(f"{flag}: --resize short takes one number, for the short side")
        if own["crop"] == "none" and resize != "short" and resized != size:
            raise UserError(f"{flag}: nothing is cropped to --image_size; leave it or --crop none out")
        return dataclasses.replace(self, **own)

    def reader(self) -> Reader:
        """From an opened picture to pixels `[H, W, C]`, uint8 or, as the user's own code may give them, float32.

        `self` is `resolved`. The reader raises UserError for what is wrong with every picture, any other error for what
        is wrong with one.
        """
        from PIL import ImageOps
        from PIL.Image import Resampling
        from torchvision.transforms import v2

        if names_code(self.transform):
            prepare = _own_transform(self.transform)
        else:
            mode = v2.InterpolationMode(self.interpolation)
            height, width = self.resize_size
            resize = v2.Resize(height if self.resize == "short" else self.resize_size, mode)
            if self.resize == "fit":
                method = Resampling[self.interpolation.upper()]

                def resize(image: "Image") -> "Image":
                    return ImageOps.pad(image, (width, height), method)

            cropped = tuple(self.image_size[::-1])
            crop = v2.CenterCrop(self.image_size) if self.crop == "center" else v2.Identity()

            def prepare(image: "Image") -> "Image":
                _refuse_strip(image, self)
                # torchvision takes as long to leave a small picture alone as Pillow to decode it.
                fits = min(image.size) == height if self.resize == "short" else image.size == (width, height)
                image = image if fits else resize(image)
                return image if image.size == cropped else crop(image)

        def read(image: "Image") -> np.ndarray:
            image = upright(image, self.exif_orientation)
            return _pixels(prepare(image.convert("L") if self.channels == 1 else image), self.transform)

        return read

    def of_pixels(self, pixels: np.ndarray) -> "Preprocessing":
        """With size and channels of what the reader gave, `[..., H, W, C]`; UserError where flags contradict it."""
        shape = {"image_size": list(pixels.shape[-3:-1]), "channels": pixels.shape[-1]}
        for name, value in shape.items() if names_code(self.transform) else ():
            if getattr(self, name) not in (None, value):
                flag = as_flags({name: getattr(self, name)})
                raise UserError(f"{flag}: --transform gives {value}; leave one of them out")
        if pixels.dtype == np.float32 and (self.mean or self.std):
            raise UserError("--mean --std: --transform gives floating point, which is taken as it is; leave them out")
        return dataclasses.replace(self, **shape)


FIELDS = tuple(field.name for field in dataclasses.fields(Preprocessing))


def upright(image: "Image", by_exif: bool = True) -> "Image":
    """A whole picture in RGB, as its EXIF data turn it or as it lies in the file."""
    from PIL import Image, ImageOps

    # Without such data it would only be copied.
    turned = ImageOps.exif_transpose(image) if by_exif and image.getexif() else image
    if turned.mode.startswith("I"):
        # 16-bit grey, of which a plain conversion turns every value above 255 to white.
        turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
    return turned if turned.mode == "RGB" else turned.convert("RGB")


def names_code(transform: str | None) -> bool:
    """Whether a transform is the user's own code, `FILE.py:FUNCTION`."""
    return transform is not None and file_of(transform).endswith(".py")


def file_of(transform: str) -> str:
    """The file of `FILE.py:FUNCTION`."""
    return transform.rpartition(":")[0]


def refuse_unnamed_transform(transform: str | None, asked: str | None, source: str) -> None:
    """Refuse code as the transform of an earlier run, unless it is what the user has `asked` for."""
    if names_code(transform):
        refuse_unnamed("transform", transform, asked, source)


def as_flags(stated: dict[str, Any]) -> str:
    """Fields as on a command line."""
    words = []
    for name, value in stated.items():
        values = value if isinstance(value, list) else [value]
        joined = ",".join(map(str, values[:1] if len(set(values)) == 1 else values))
        words.append(f"--{name} {joined if 'size' in name else ' '.join(map(str, values))}")
    return " ".join(words)


def _pair(name: str, value: int | list[int] | None) -> list[int] | None:
    """Height and width."""
    sides = [value] * 2 if isinstance(value, int) else value
    if sides is None:
        return None
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(1 <= side <= LARGEST_SIZE for side in sides):
        wanted = f"a side or H,W, each between 1 and {LARGEST_SIZE}"
        raise UserError(f"{as_flags({name: sides})}: it is not {wanted}; try --{name} 64")
    return sides


def _recipe(transform: str) -> dict[str, Any]:
    """Fields of a library's recipe; UserError where they give another input than the library's own transform."""
    from PIL.Image import fromarray

    known, theirs = recipe(transform)
    ramp = np.linspace(0, 255, 300, dtype=np.uint8)
    picture = fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:200, None], 0 * ramp), axis=2))
    expected = called(f"--transform {transform}", lambda: theirs(picture))
    mean, std = torch.tensor(known["mean"]), torch.tensor(known["std"])
    ours = (torch.tensor(Preprocessing(**known).resolved().reader()(picture)) / 255 - mean) / std
    found = expected.permute(1, 2, 0)
    if ours.shape != found.shape or ((ours - found) * std).abs().mean() > AGREES:
        raise UserError(f"--transform {transform}: flags cannot state its preprocessing; give FILE.py:FUNCTION")
    return known


def _own_transform(spec: str) -> Callable[["Image"], object]:
    """The user's transform; an error in it is a UserError, as is one that gives another result each time."""
    what = f"--transform {spec}"
    found = called(what, lambda: load_named(spec, "transform"))
    if inspect.isclass(found) or (inspect.isfunction(found) and _takes_nothing(found)):
        found = called(what, found)
    if not callable(found):
        raise UserError(f"{what}: {type(found).__name__} is no transform of PIL images")
    compared = []

    def prepare(image: "Image") -> object:
        once = called(what, lambda: found(image.copy()))
        if not compared:
            compared.append(True)
            again = called(what, lambda: found(image.copy()))
            if not np.array_equal(_pixels(once, spec), _pixels(again, spec)):
                raise UserError(f"{what}: twice the same picture gives two results; name the transform of evaluation, "
                                "which draws nothing at random")  # fmt: skip
        return once

    return prepare


def _takes_nothing(function: Callable) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return all(parameter.default is not parameter.empty for parameter in parameters)


def _refuse_strip(image: "Image", stated: Preprocessing) -> None:
    """Refuse a picture so thin that resizing its short side makes a giant one: a small file would fill the memory."""
    from PIL.Image import MAX_IMAGE_PIXELS

    short, long = sorted(image.size)
    if stated.resize == "short" and stated.resize_size[0] ** 2 * long > MAX_IMAGE_PIXELS * short:
        raise ValueError(f"{image.width} x {image.height} pixels are too thin for --resize short; give --resize squash")


def _pixels(found: object, transform: str | None) -> np.ndarray:
    """`[H, W, C]` of a PIL image, or of a tensor `[C, H, W]`, uint8 or float32."""
    from PIL.Image import Image

    if isinstance(found, Image):
        pixels = np.asarray(found if found.mode in ("L", "RGB") else found.convert("RGB"))
        return pixels[:, :, None] if pixels.ndim == 2 else pixels
    wrong = None
    if not isinstance(found, Tensor):
        wrong = type(found).__name__
    elif found.ndim != 3 or 0 in found.shape:
        wrong = f"a tensor of shape {list(found.shape)}"
    elif found.dtype != torch.uint8 and not found.is_floating_point():
        wrong = f"a tensor of {str(found.dtype).removeprefix('torch.')}"
    elif not found.isfinite().all():
        wrong = "NaN or infinity"
    if wrong is not None:
        wanted = "a PIL image or a tensor [C, H, W], uint8 or floating point"
        raise UserError(f"--transform {transform}: it gives {wrong}, not {wanted}")
    found = found.detach().cpu()
    return (found.float() if found.is_floating_point() else found).permute(1, 2, 0).contiguous().numpy()
