"""The data configuration that a library ships for a model."""

import json
import sys

import pytest

from helper_functions.errors import UserError
from models.data_configuration import data_configuration

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def test_torchvision():
    expected = {**IMAGENET, "image_size": (224, 224), "interpolation": "bilinear", "crop": 224 / 232}
    assert data_configuration("resnet50") == data_configuration("resnet50,norm_layer=null") == expected


@pytest.mark.parametrize("name", ["resnet8", "net.py:build", "package.module:Net"])
def test_where_no_library_ships_one(name):
    assert data_configuration(name) is None


def test_timm():
    pytest.importorskip("timm")
    found = data_configuration("timm:vit_tiny_patch16_224")
    half = (0.5, 0.5, 0.5)
    assert found == {"mean": half, "std": half, "image_size": (224, 224), "interpolation": "bicubic", "crop": 0.9}
    assert data_configuration("timm:vit_tiny_patch16_224,img_size=32")["image_size"] == (32, 32)
    assert data_configuration("timm:convnext_atto.d2_in1k")["mean"] == IMAGENET["mean"]


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 32}, "resample": 3},
            {"image_size": (48, 32), "interpolation": "bicubic", "crop": None},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            {"image_size": (224, 224), "crop": 0.875},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875},
            {"image_size": (384, 384), "crop": None},
        ),
        (
            {
                "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224}, "image_mean": [0.1, 0.2, 0.3], "resample": 2,
            },
            {"image_size": (224, 224), "crop": 0.875, "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear"},
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "do_normalize": False},
            {"mean": (0, 0, 0), "std": (1, 1, 1), "image_size": (224, 224)},
        ),
    ],
    ids=["squashed", "convnext", "large convnext", "central crop", "not normalised"],
)  # fmt: skip
def test_transformers(processor, expected, tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert data_configuration(f"hf:{tmp_path}") is None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = data_configuration(f"hf:{tmp_path}")
    assert {name: found[name] for name in expected} == expected


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="--model hf:"):
        data_configuration(f"hf:{tmp_path}")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="requirements-models.txt"):
        data_configuration("timm:resnet18")
