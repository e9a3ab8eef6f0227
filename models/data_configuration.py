"""How the pictures of a model are prepared, where the library that it comes from says so."""

from collections.abc import Sequence
from pathlib import Path

from models.classifiers import SMALL_RESNETS
from models.sources import HUGGING_FACE, TIMM, is_code, library, made, with_options


def data_configuration(name: str) -> dict[str, object] | None:
    """The data configuration that timm, transformers or torchvision ships for a model; None where there is none.

    Returns:
        `mean` and `std` per channel, of pixels scaled to [0, 1]; `image_size`, height and width in pixels;
        `interpolation`, such as `bicubic`; `crop`, the share of the resized picture's side that the central crop of
        `image_size` keeps, None where the picture is resized to `image_size` whatever its aspect ratio.

    Raises:
        UserError: the library is not installed, or cannot read the configuration.
    """
    if is_code(name):
        return None
    if name.startswith(HUGGING_FACE):
        folder = name.removeprefix(HUGGING_FACE)
        files = [Path(folder) / file for file in ("preprocessor_config.json", "processor_config.json")]
        return made(name, lambda: _of_folder(folder)) if any(file.is_file() for file in files) else None
    if name.startswith(TIMM):
        return _of_timm(*with_options(name.removeprefix(TIMM)))
    return _of_torchvision(with_options(name)[0])


def _of_timm(name: str, options: dict[str, object]) -> dict[str, object] | None:
    timm = library("timm")
    ships = timm.models.get_pretrained_cfg(name)
    if ships is None:
        return None
    found = timm.data.resolve_data_config(options, pretrained_cfg=ships.to_dict())
    crop = None if found["crop_mode"] == "squash" else found["crop_pct"]
    return _configuration(found["mean"], found["std"], found["input_size"][1:], found["interpolation"], crop)


def _of_torchvision(name: str) -> dict[str, object] | None:
    import torchvision

    if name in SMALL_RESNETS:
        return None
    ships = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size, crop = ships.crop_size[0], ships.crop_size[0] / ships.resize_size[0]
    return _configuration(ships.mean, ships.std, (size, size), ships.interpolation.value, crop)


def _of_folder(folder: str) -> dict[str, object]:
    from PIL import Image

    transformers = library("transformers")
    ships = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    size, crop = _sides(ships.size), None
    if getattr(ships, "do_center_crop", False):
        resized, size = size, _sides(ships.crop_size)
        crop = size[0] / resized[0]
    elif "shortest_edge" in ships.size:
        # ConvNeXt's: from 384 pixels on it does not crop.
        crop = getattr(ships, "crop_pct", None) if size[0] < 384 else None
    mean, std = (ships.image_mean, ships.image_std) if ships.do_normalize else ([0.0] * 3, [1.0] * 3)
    return _configuration(mean, std, size, Image.Resampling(ships.resample).name.lower(), crop)


def _sides(size: dict[str, int]) -> tuple[int, int]:
    shorter = size.get("shortest_edge")
    return (size["height"], size["width"]) if shorter is None else (shorter, shorter)


def _configuration(
    mean: Sequence[float], std: Sequence[float], image_size: Sequence[int], interpolation: str, crop: float | None
) -> dict[str, object]:
    return {
        "mean": tuple(mean), "std": tuple(std), "image_size": tuple(image_size), "interpolation": interpolation,
        "crop": crop,
    }  # fmt: skip
