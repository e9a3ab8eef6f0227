"""Models of timm, of transformers and of a user's own: built without a download, or refused in one line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import small_models
from torch import nn

from helper_functions.errors import UserError
from models import get_model
from models.classifiers import list_models
from models.sources import is_code, refuse_unnamed_code, saved_names, weights_of_folder, with_options

FILE = Path(small_models.__file__)
PIXELS = (8, 8)


def complaint(name: str, in_channels: int = 1, image_size: tuple[int, int] = PIXELS) -> str:
    with pytest.raises(UserError) as info:
        get_model(name, 10, in_channels, image_size=image_size)
    message = str(info.value)
    assert message.isprintable()
    return message


def logits(model: nn.Module, image_size: tuple[int, int] = PIXELS) -> torch.Tensor:
    images = torch.randn(3, 1, *image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(images.to(memory_format=torch.channels_last))


class TestNames:
    @pytest.mark.parametrize("name", ["resnet18", "timm:resnet18", "hf:folder", "hf:a:b", None, 3])
    def test_these_are_no_code(self, name):
        assert not is_code(name)

    @pytest.mark.parametrize("name", ["net.py:build", "a/net.py:Net,depth=3", "torchvision.models:resnet18", "x:y"])
    def test_these_are(self, name):
        assert is_code(name)
        with pytest.raises(UserError, match=r"--resume runs/x: .*--model"):
            refuse_unnamed_code(name, "resnet18", "--resume runs/x")
        refuse_unnamed_code(name, name, "--resume runs/x")

    def test_options_are_plain_values(self):
        name, options = with_options("vit,patch_size=4,drop_rate=0.1,act=gelu,bias=false,none=null")
        assert name == "vit"
        assert options == {"patch_size": 4, "drop_rate": 0.1, "act": "gelu", "bias": False, "none": None}

    @pytest.mark.parametrize("pair", ["depth", "=3", "a b=3", "a=!!python/object:os.system", "a=[1"])
    def test_what_is_no_option(self, pair):
        with pytest.raises(UserError, match="KEY=VALUE"):
            with_options(f"net.py:build,{pair}")


class TestCode:
    @pytest.mark.parametrize("function", ["convnext", "efficientnet", "vit"])
    def test_a_function_of_a_file(self, function):
        model = get_model(f"{FILE}:{function}", 10, 1, image_size=PIXELS)
        assert type(model).__module__ == f"code of {FILE}" or type(model).__module__.startswith("torchvision")
        assert logits(model).shape == (3, 10)

    def test_options_reach_it(self):
        model = get_model(f"{FILE}:efficientnet,width=16", 10, 1, image_size=PIXELS)
        assert model.features[0][0].out_channels == 16

    def test_a_function_of_a_module(self):
        model = get_model("torchvision.models:resnet18", 7, image_size=(32, 40))
        assert model.fc.out_features == 7

    def test_a_file_imports_its_neighbours(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "path", list(sys.path))
        (tmp_path / "neighbour_of_net.py").write_text("import torch\nNet = torch.nn.LazyLinear\n")
        (tmp_path / "net.py").write_text(
            "import torch\nimport neighbour_of_net\n"
            "def build(num_classes): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
        )
        assert logits(get_model(f"{tmp_path}/net.py:build", 10, 1, image_size=PIXELS)).shape == (3, 10)
        assert sys.path[-1] == str(tmp_path)

    def test_views_and_fields_of_the_output(self):
        """The model computes in the memory format that it can compute in."""
        model = get_model(f"{FILE}:Viewing", 10, 1, image_size=PIXELS)
        images = torch.randn(3, 1, 8, 8).to(memory_format=torch.channels_last)
        expected = small_models.Viewing.forward(model, images.clone(memory_format=torch.contiguous_format)).logits
        assert torch.equal(model(images), expected)

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            (f"{FILE}:convnet", ("no 'convnet'", "did you mean convnext or")),
            (f"{FILE}:broken", ("ValueError: 10 are too many", "small_models.py, line")),
            (f"{FILE}:no_model", ("Tensor", "torch.nn.Module")),
            (f"{FILE}:vit,depth=3", ("TypeError", "depth")),
            (f"{FILE}:vit,num_classes=11", ("[2, 11]", "10 classes")),
            ("nowhere/net.py:build", ("nowhere/net.py", "no such file")),
            ("no_such_module:build", ("no_such_module", "FILE.py:FUNCTION")),
            ("torchvision.models:resnet18", ("on images of 1 x 8 x 8", "RuntimeError", "; give the --image_size")),
        ],
    )
    def test_what_cannot_be_built_is_one_line(self, name, parts):
        message = complaint(name)
        assert all(part in message for part in parts), message

    def test_a_file_with_a_mistake(self, tmp_path):
        (tmp_path / "net.py").write_text("def build(:\n")
        for _ in range(2):  # what has failed half-way is not taken for a module
            assert "SyntaxError" in complaint(f"{tmp_path}/net.py:build")

    def test_stem_is_for_torchvision(self):
        with pytest.raises(UserError, match="stem cifar"):
            get_model(f"{FILE}:vit", 10, 1, "cifar")


class TestTorchvision:
    def test_options(self):
        assert get_model("efficientnet_b0,dropout=0.0", 10).classifier[0].p == 0
        assert "weights" in complaint("resnet18,weights=DEFAULT", 3)
        assert "--width" in complaint("resnet8,depth=3")

    def test_images_that_it_does_not_take(self):
        assert "on images of 1 x 8 x 8" in complaint("alexnet")
        assert "16 x 16" in complaint("vit_b_16", 3, (32, 48))

    def test_rectangles(self):
        with torch.device("meta"):
            get_model("resnet18", 10, image_size=(32, 48))


class TestMissing:
    @pytest.mark.parametrize("name", ["timm:resnet18", "hf:folder"])
    def test_a_library_that_is_not_installed(self, name, monkeypatch):
        monkeypatch.setitem(sys.modules, {"timm": "timm", "hf": "transformers"}[name.split(":")[0]], None)
        assert "pip install -r requirements-models.txt" in complaint(name)


class TestTimm:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("timm")

    def test_a_vit_is_built_for_the_images(self):
        model = get_model("timm:vit_tiny_patch16_224,patch_size=4,depth=1", 10, 1, image_size=(8, 12))
        assert model.patch_embed.img_size == (8, 12) and len(model.blocks) == 1
        assert logits(model, (8, 12)).shape == (3, 10)

    def test_convnext(self):
        name = "timm:convnext_atto.d2_in1k,patch_size=1"
        assert logits(get_model(name, 10, 1, image_size=PIXELS)).shape == (3, 10)

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("timm:vit_tiny_patch15_224", ("did you mean timm:vit_tiny_patch16_224",)),
            ("timm:vit_tiny", ("did you mean timm:vit_tiny_patch16_224",)),
            ("vit_tiny_patch16_224", ("did you mean timm:vit_tiny_patch16_224",)),
            ("timm:hf-hub:somebody/model", ("no such model",)),
            ("timm:resnet18,checkpoint_path=w.pth", ("checkpoint_path",)),
            ("timm:resnet18,pretrained=true", ("pretrained",)),
            ("timm:resnet18,deep=3", ("deep",)),
            ("timm:vit_tiny_patch16_224,patch_size=3", ("8 x 8", "3 x 3", "patch_size")),
        ],
    )
    def test_what_cannot_be_built_is_one_line(self, name, parts):
        message = complaint(name)
        assert all(part in message for part in parts), message

    def test_names_of_torchvision_come_first(self):
        assert "did you mean resnet18" in complaint("resnet118") and "resnet18" in list_models()


def save(folder: Path, **changes) -> nn.Module:
    """A small ViT in a folder, as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=10, **changes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(folder)
    return model


class TestHuggingFace:
    def test_a_saved_folder(self, tmp_path):
        save(tmp_path, return_dict=False)
        model = get_model(f"hf:{tmp_path}", 10, 1, image_size=PIXELS)
        assert logits(model).shape == (3, 10) and weights_of_folder(f"hf:{tmp_path}") == f"{tmp_path}/model.safetensors"
        assert next(model.parameters()).dtype == torch.float32

    def test_names_in_its_file_are_known(self, tmp_path):
        from safetensors.torch import load_file

        theirs = save(tmp_path)
        names, saved = saved_names(theirs), load_file(tmp_path / "model.safetensors")
        assert names.keys() == saved.keys() and set(names.values()) == set(theirs.state_dict())
        own = theirs.state_dict()
        assert all(torch.equal(saved[name], own[mine]) for name, mine in names.items())
        assert saved_names(nn.Linear(2, 2)) == {}

    def test_another_number_of_classes_is_another_head(self, tmp_path):
        save(tmp_path)
        assert get_model(f"hf:{tmp_path}", 3, 1, image_size=PIXELS).classifier.out_features == 3

    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            ({"model_type": "bert"}, ("ValueError",)),
            ({"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 2}, ("timm:NAME",)),
            ({"model_type": "none", "auto_map": {"AutoConfig": "code.Config"}}, ("--model hf:",)),
            ({"image_size": 16}, ("on images of 1 x 8 x 8", "give --transform hf:", "--image_size")),
            ({"num_channels": 3}, ("on images of 1 x 8 x 8",)),
        ],
        ids=range(5),
    )
    def test_what_cannot_be_built_is_one_line(self, tmp_path, change, parts):
        pytest.importorskip("timm")
        save(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config = config | change if "architecture" not in change else change
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
        message = complaint(f"hf:{tmp_path}")
        assert all(part in message for part in parts), message
        assert not (tmp_path / "trace").exists()

    def test_a_folder_without_a_configuration(self, tmp_path):
        pytest.importorskip("transformers")
        assert "config.json" in complaint(f"hf:{tmp_path}")
        assert weights_of_folder(f"hf:{tmp_path}") is None is weights_of_folder("resnet18")
