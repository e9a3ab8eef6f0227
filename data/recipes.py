"""The preprocessing that a library states for a published model, as fields of `Preprocessing`.

Another library joins as an entry of `RECIPES`: from a name to the fields, and the library's own transform of a PIL
image into the model's input `[C, H, W]`, which they are compared with.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helper_functions.errors import UserError
from helper_functions.user_code import called, library
from helper_functions.wording import did_you_mean

Recipe = tuple[dict[str, Any], Callable]


def _of_torchvision(name: str) -> Recipe:
    """Of weights by their name, `ResNet50_Weights.IMAGENET1K_V2`."""
    import torchvision.models as zoo
    from torchvision.transforms._presets import ImageClassification

    try:
        preset = zoo.get_weight(name).transforms()
    except (ValueError, LookupError):
        every = [f"{kind.__name__}.{entry}" for kind in map(zoo.get_model_weights, zoo.list_models()) for entry in
                 kind.__members__]  # fmt: skip
        hint = did_you_mean(name, every, "torchvision:")
        raise UserError(f"--transform torchvision:{name}: torchvision has no such weights{hint}") from None
    if not isinstance(preset, ImageClassification):
        raise UserError(f"--transform torchvision:{name}: these are no weights of an image classifier")
    size, resized = ([*sides] * (3 - len(sides)) for sides in (preset.crop_size, preset.resize_size))
    return _fields("short", size, resized, preset.interpolation.value, preset.mean, preset.std), preset


def _of_timm(name: str) -> Recipe:
    """Of a model by its name, with or without the tag of its weights."""
    timm = library("timm")
    ships = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    if ships is None:
        hint = did_you_mean(name, timm.list_models(), "timm:")
        raise UserError(f"--transform timm:{name}: timm states no preprocessing for such a model{hint}")
    stated = timm.data.resolve_data_config(pretrained_cfg=ships.to_dict())
    size = list(stated["input_size"][1:])
    resized = [math.floor(side / stated["crop_pct"]) for side in size]
    resize = "squash" if stated["crop_mode"] == "squash" else "short"
    fields = _fields(resize, size, resized, stated["interpolation"], stated["mean"], stated["std"])
    return fields, timm.data.create_transform(**stated)


def _of_folder(folder: str) -> Recipe:
    """Of a model in a folder that `save_pretrained` of transformers wrote."""
    from PIL.Image import Resampling

    files = ("preprocessor_config.json", "processor_config.json")
    if not any((Path(folder) / file).is_file() for file in files):
        raise UserError(f"--transform hf:{folder}: there is no {files[0]} in it; state the preprocessing by flags")
    auto = library("transformers").AutoImageProcessor
    ships = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    size, resize = _sides(ships.size), "short" if "shortest_edge" in ships.size else "squash"
    resized = size
    if getattr(ships, "do_center_crop", False):
        size = _sides(ships.crop_size)
    elif resize == "short" and size[0] < 384:
        # ConvNeXt's crop; from 384 pixels on it squashes.
        resized = [int(side / (getattr(ships, "crop_pct", None) or 1)) for side in size]
    elif resize == "short":
        resize = "squash"
    mean, std = (ships.image_mean, ships.image_std) if ships.do_normalize else ([0.0] * 3, [1.0] * 3)
    fields = _fields(resize, size, resized, Resampling(ships.resample).name.lower(), mean, std)
    return fields, lambda image: ships(image, return_tensors="pt")["pixel_values"][0]


def _sides(size: dict[str, int]) -> list[int]:
    """Height and width."""
    short = size.get("shortest_edge")
    return [size["height"], size["width"]] if short is None else [short, short]


def _fields(resize: str, size: list[int], resized: list[int], interpolation: str, mean: Any, std: Any) -> dict:
    return {
        "image_size": size, "resize": resize, "resize_size": resized, "crop": "center",
        "interpolation": interpolation, "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }  # fmt: skip


RECIPES: dict[str, Callable[[str], Recipe]] = {"torchvision": _of_torchvision, "timm": _of_timm, "hf": _of_folder}


def recipe(transform: str) -> Recipe:
    """The fields and the transform called `LIBRARY:NAME`; UserError where the library cannot give them."""
    name, _, rest = transform.partition(":")
    if name not in RECIPES or not rest:
        raise UserError(
            f"--transform {transform}: it is no {':NAME or '.join(RECIPES)}:FOLDER or FILE.py:FUNCTION"
        )
    return called(f"--transform {transform}", lambda: RECIPES[name](rest))
