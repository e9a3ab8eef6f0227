"""The preprocessing that a library states for a model: the inputs are those of the library's own transform."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.preprocessing import Preprocessing
from data.recipes import recipe
from helper_functions.errors import UserError

PICTURE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (90, 130, 3), dtype=np.uint8))


def read(stated: Preprocessing) -> torch.Tensor:
    """The model's input `[C, H, W]`."""
    pixels = torch.tensor(stated.reader()(PICTURE)) / 255
    return ((pixels - torch.tensor(stated.mean)) / torch.tensor(stated.std)).permute(2, 0, 1)


def processor(folder: Path, **stated: object) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return f"hf:{folder}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", {"mean": [0.5] * 3, "interpolation": "bicubic", "resize_size": [248, 248]}),
        ("convnext_atto.d2_in1k", {"mean": [0.485, 0.456, 0.406], "resize": "short"}),
        ("dm_nfnet_f0.dm_in1k", {"resize": "squash", "image_size": [192, 192], "resize_size": [213, 213]}),
    ],
)
def test_timm_gives_its_very_inputs(name, expected):
    pytest.importorskip("timm")
    stated = Preprocessing(transform=f"timm:{name}").resolved()
    assert expected.items() <= stated.stated().items()
    torch.testing.assert_close(read(stated), recipe(f"timm:{name}")[1](PICTURE), rtol=0, atol=1e-5)
    assert stated.resolved() == stated, "what is recorded agrees with the recipe"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 32}, "resample": 3},
            {"image_size": [48, 32], "interpolation": "bicubic", "resize": "squash", "mean": [0.5] * 3},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            {"image_size": [224, 224], "resize": "short", "resize_size": [256, 256]},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875},
            {"image_size": [384, 384], "resize": "squash", "resize_size": [384, 384]},
        ),
        (
            {
                "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224}, "image_mean": [0.1, 0.2, 0.3], "resample": 2,
            },
            {"image_size": [224, 224], "resize_size": [256, 256], "mean": [0.1, 0.2, 0.3],
             "interpolation": "bilinear"},
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "do_normalize": False},
            {"mean": [0.0] * 3, "std": [1.0] * 3, "image_size": [224, 224]},
        ),
    ],
    ids=["squashed", "convnext", "large convnext", "central crop", "not normalised"],
)  # fmt: skip
def test_transformers_gives_its_inputs(stated, expected, tmp_path):
    pytest.importorskip("transformers")
    name = processor(tmp_path, **stated)
    found = Preprocessing(transform=name).resolved()
    assert expected.items() <= found.stated().items()
    # It resizes tensors, and rounds otherwise than Pillow.
    difference = (read(found) - recipe(name)[1](PICTURE)).abs() * torch.tensor(found.std)[:, None, None]
    assert difference.max() < 4 / 255


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}, "FILE.py:FUNCTION"),
        ({"image_processor_type": "ViTImageProcessor", "rescale_factor": 1.0, "do_normalize": False}, "FILE.py"),
        ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 400}, "do_center_crop": False},
         "FILE.py:FUNCTION"),
    ],
    ids=["channels in another order", "pixels up to 255", "inputs of many shapes"],
)  # fmt: skip
def test_what_flags_cannot_state(stated, says, tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=says):
        Preprocessing(transform=processor(tmp_path, **stated)).resolved()


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    def complaint(transform: str) -> str:
        with pytest.raises(UserError) as info:
            Preprocessing(transform=transform).resolved()
        assert "\n" not in str(info.value)
        return str(info.value)

    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    assert "no preprocessor_config.json" in complaint(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").write_text("{")
    assert "--transform hf:" in complaint(f"hf:{tmp_path}")
    assert "did you mean timm:resnet" in complaint("timm:resnet1234")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "requirements-models.txt" in complaint("timm:resnet18")
