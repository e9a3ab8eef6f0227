"""How a picture becomes a tensor, against torchvision and Pillow; recipes, the user's own code, and the flags."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.models import get_weight
from torchvision.transforms import v2

from data.arguments import DataArgs
from data.datasets import load_dataset
from data.image_sets import ImageSets
from data.preprocessing import Preprocessing, as_flags
from data.splits import make_splits
from helper_functions.config import ScriptParser
from helper_functions.errors import UserError

SIZES = [(40, 24), (24, 40), (31, 31), (57, 19), (16, 13)]
MODES = {
    "nearest": v2.InterpolationMode.NEAREST, "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC, "lanczos": v2.InterpolationMode.LANCZOS,
}  # fmt: skip


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, pictures of many shapes without loss."""
    for number, size in enumerate(SIZES):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            picture(size, number + 10 * (name == "dog")).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path


def opened(folder: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted((folder / "photos").glob("*/*"))]


def images(folder: Path, **stated: object) -> torch.Tensor:
    return load_dataset("imagefolder", folder / "photos", Preprocessing(**stated)).images


def complaint(folder: Path, **stated: object) -> str:
    with pytest.raises(UserError) as info:
        images(folder, **stated)
    assert "\n" not in str(info.value)
    return str(info.value)


class TestFlags:
    @pytest.mark.parametrize(("mode", "resized"), list(itertools.product(MODES, (None, 18))))
    @pytest.mark.parametrize("resize", ["short", "squash"])
    def test_as_torchvision_resizes_and_crops(self, folder, resize, mode, resized):
        side = resized or 16
        theirs = v2.Compose([v2.Resize(side if resize == "short" else (side, side), MODES[mode]), v2.CenterCrop(16)])
        found = images(folder, image_size=16, resize=resize, interpolation=mode, resize_size=resized)
        expected = [v2.functional.pil_to_tensor(theirs(image)) for image in opened(folder)]
        assert torch.equal(found, torch.stack(expected))

    def test_fit_pads_in_black(self, folder):
        found = images(folder, image_size=[12, 20], resize="fit", interpolation="bicubic")
        expected = [ImageOps.pad(image, (20, 12), Image.Resampling.BICUBIC) for image in opened(folder)]
        assert torch.equal(found, torch.stack([v2.functional.pil_to_tensor(image) for image in expected]))

    def test_height_and_width(self, folder):
        found = images(folder, image_size=[12, 20])
        theirs = v2.Compose([v2.Resize(20), v2.CenterCrop((12, 20))])
        assert torch.equal(found, torch.stack([v2.functional.pil_to_tensor(theirs(one)) for one in opened(folder)]))
        assert images(folder, image_size=[12, 20], resize="squash").shape[2:] == (12, 20)

    def test_grey(self, folder):
        found = images(folder, image_size=16, channels=1)
        theirs = v2.Compose([v2.Grayscale(), v2.Resize(16), v2.CenterCrop(16)])
        assert torch.equal(found, torch.stack([v2.functional.pil_to_tensor(theirs(one)) for one in opened(folder)]))

    def test_nothing_is_cropped(self, folder):
        for path in (folder / "photos").glob("*/*"):
            picture((40, 20)).save(path)
        dataset = load_dataset("imagefolder", folder / "photos", Preprocessing(resize_size=10, crop="none"))
        assert dataset.image_size == (10, 20) and dataset.preprocessing.image_size == [10, 20]
        # What is recorded gives the same again.
        assert load_dataset("imagefolder", folder / "photos", dataset.preprocessing).image_size == (10, 20)

    def test_photographs_stand_as_the_camera_was_held(self, folder):
        exif = Image.Exif()
        exif[0x0112] = 6
        picture((40, 24)).save(folder / "photos/cat/0.png", exif=exif)
        lying = v2.Compose([v2.Resize(24), v2.CenterCrop(24), v2.functional.pil_to_tensor])(picture((40, 24)))
        assert torch.equal(images(folder, image_size=24, exif_orientation=False)[0], lying)
        assert torch.equal(images(folder, image_size=24)[0], lying.rot90(-1, (1, 2)))

    def test_normalisation(self, folder):
        dataset = load_dataset("imagefolder", folder / "photos", Preprocessing(16, mean=[0, -1, 2], std=[1, 2, 0.5]))
        sets = ImageSets(dataset, make_splits(dataset, None, validation="0.3"), None, torch.device("cpu"), 0)
        inputs, _ = next(iter(sets.evaluation(torch.arange(5))))
        means, stds = torch.tensor([0.0, -1.0, 2.0]), torch.tensor([1.0, 2.0, 0.5])
        torch.testing.assert_close(inputs, v2.functional.normalize(dataset.images[:5] / 255, means, stds))

    def test_defaults_are_recorded(self, folder):
        stated = load_dataset("imagefolder", folder / "photos").preprocessing
        assert (stated.image_size, stated.resize, stated.resize_size) == ([64, 64], "short", [64, 64])
        assert (stated.crop, stated.interpolation, stated.channels) == ("center", "bilinear", 3)
        assert stated.exif_orientation is True and len(stated.mean) == len(stated.std) == 3
        again = load_dataset("imagefolder", folder / "photos", stated)
        assert again.preprocessing == stated and torch.equal(again.images, images(folder))

    @pytest.mark.parametrize(
        ("stated", "says"),
        [
            ({"image_size": 0}, "between 1 and 4096"), ({"image_size": [8, 8, 8]}, "--image_size 8"),
            ({"resize_size": [8, 9]}, "takes one number"), ({"crop": "none"}, "--resize squash or fit"),
            ({"crop": "none", "resize": "fit", "resize_size": 70}, "--resize_size 70"),
            ({"mean": [0.5]}, "3 channels"), ({"channels": 1, "std": [0.5] * 3}, "has 1 channel,"),
        ],
    )  # fmt: skip
    def test_what_cannot_be(self, folder, stated, says):
        assert says in complaint(folder, **stated)

    def test_other_data_sets_have_none_but_a_normalisation(self):
        assert load_dataset("digits", "", Preprocessing(mean=[0.25], std=[1.0])).mean == (0.25,)
        for name, value in {"image_size": 8, "resize": "fit", "transform": "a.py:b", "exif_orientation": True}.items():
            with pytest.raises(UserError, match=f"--{name}.* leave --{name} out"):
                load_dataset("digits", "", Preprocessing(**{name: value}))

    @pytest.mark.parametrize(
        ("argv", "size"),
        [(["64"], 64), (["64,96"], [64, 96]), (["64", "96"], [64, 96]), (["[64, 96]"], [64, 96])],
    )
    def test_on_a_command_line(self, argv, size, tmp_path):
        parser = ScriptParser(DataArgs)
        args = parser.parse(["--image_size", *argv, "--channels", "1", "--mean", "0,-.5,3", "--std", "1"])
        size = [size, size] if isinstance(size, int) else size
        assert args.image_size == size and args.channels == 1
        assert args.mean == [0, -0.5, 3] and args.std == [1]
        (tmp_path / "mine.yaml").write_text(f"image_size: {size}\n")
        assert parser.parse(["--config_file", str(tmp_path / "mine.yaml")]).image_size == size
        again = parser.parse(as_flags({"image_size": args.image_size, "mean": args.mean}).split())
        assert (again.image_size, again.mean) == (args.image_size, args.mean)

    @pytest.mark.parametrize(("flag", "value"), [("--std", "0"), ("--mean", "inf"), ("--channels", "2"),
                                                 ("--resize", "long"), ("--image_size", "8,-8")])  # fmt: skip
    def test_values_that_are_refused(self, flag, value):
        with pytest.raises(UserError, match=flag):
            ScriptParser(DataArgs).parse([flag, value])


class TestRecipes:
    @pytest.mark.parametrize(
        "name", ["ResNet50_Weights.IMAGENET1K_V2", "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",
                 "EfficientNet_B1_Weights.IMAGENET1K_V2"],
    )  # fmt: skip
    def test_a_recipe_of_torchvision_gives_its_very_inputs(self, folder, name):
        dataset = load_dataset("imagefolder", folder / "photos", Preprocessing(transform=f"torchvision:{name}"))
        assert dataset.images.dtype == torch.uint8
        sets = ImageSets(dataset, make_splits(dataset, None, validation="0.3"), None, torch.device("cpu"), 0)
        inputs = torch.cat([inputs for inputs, _ in sets.evaluation(torch.arange(len(dataset.labels)))])
        theirs = get_weight(name).transforms()
        torch.testing.assert_close(inputs, torch.stack([theirs(one) for one in opened(folder)]), rtol=1e-5, atol=1e-5)
        again = load_dataset("imagefolder", folder / "photos", dataset.preprocessing)
        assert torch.equal(again.images, dataset.images), "what is recorded agrees with the recipe"

    @pytest.mark.parametrize(
        ("transform", "says"),
        [
            ("torchvision:ResNet50_Weights.IMAGENET1K_V3", "did you mean torchvision:ResNet50_Weights.IMAGENET1K_V"),
            ("torchvision:FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1", "no weights of an image classifier"),
            ("torchvision:", "FILE.py:FUNCTION"),
            ("squash", "torchvision:NAME or timm:NAME or hf:FOLDER or FILE.py:FUNCTION"),
        ],
    )  # fmt: skip
    def test_what_is_no_recipe(self, folder, transform, says):
        assert says in complaint(folder, transform=transform)

    def test_a_flag_that_says_otherwise(self, folder):
        recipe = "torchvision:ResNet18_Weights.IMAGENET1K_V1"
        said = complaint(folder, transform=recipe, resize="squash")
        assert "--resize squash" in said and "short" in said
        assert images(folder, transform=recipe, resize="short", image_size=224).shape[2:] == (224, 224)


CODE = """
import random
import torch
from torchvision.transforms import v2

floats = v2.Compose([v2.Resize((8, 6)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
                     v2.Normalize([0.5] * 3, [0.5] * 3)])
bytes_ = v2.Compose([v2.Resize((8, 6)), v2.PILToTensor()])
a_picture = v2.Resize((8, 6))
grey = v2.Compose([v2.Grayscale(1), a_picture])
half = lambda image: floats(image).half()
def makes(side=8):
    return floats
class Own:
    def __call__(self, image):
        return floats(image)
def one(image):
    return floats(image)
def loud(image):
    raise KeyError("no such filter")
def made_loud():
    raise OSError("no such file")
def lost(image):
    return None
def numbers(image):
    return floats(image).long()
def flat(image):
    return floats(image)[0]
def nan(image):
    return floats(image) / 0
def drawn(image):
    return floats(image) + random.random()
def shapes(image):
    return v2.functional.pil_to_tensor(image)
not_callable = 3
"""


class TestOwnCode:
    @pytest.fixture
    def code(self, folder) -> str:
        (folder / "eyes.py").write_text(CODE)
        return f"{folder}/eyes.py"

    @pytest.mark.parametrize("name", ["floats", "makes", "Own", "one", "half"])
    def test_floating_point_is_the_input_itself(self, folder, code, name):
        dataset = load_dataset("imagefolder", folder / "photos", Preprocessing(transform=f"{code}:{name}"))
        theirs = v2.Compose([v2.Resize((8, 6)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
                             v2.Normalize([0.5] * 3, [0.5] * 3)])  # fmt: skip
        expected = torch.stack([theirs(one) for one in opened(folder)])
        expected = expected.half().float() if name == "half" else expected
        assert dataset.images.dtype == torch.float32 and torch.equal(dataset.images, expected)
        assert dataset.image_size == (8, 6) and dataset.preprocessing.mean is None
        sets = ImageSets(dataset, make_splits(dataset, None, validation="0.3"), None, torch.device("cpu"), 0)
        order = torch.tensor([3, 0, 9])
        assert torch.equal(next(iter(sets.evaluation(order)))[0], expected[order])
        for image in dataset.images:
            low, high = image.min(), image.max()
            shown = ((image - low) / (high - low) * 255).round()
            assert any(torch.equal(dataset.picture(n), shown.byte()) for n in range(len(expected)))
        again = load_dataset("imagefolder", folder / "photos", dataset.preprocessing)
        assert again.preprocessing == dataset.preprocessing

    @pytest.mark.parametrize("name", ["bytes_", "a_picture", "grey"])
    def test_uint8_is_normalised_by_the_flags(self, folder, code, name):
        channels = 1 if name == "grey" else 3
        stated = Preprocessing(transform=f"{code}:{name}", mean=[0.1] * channels, std=[0.2] * channels)
        dataset = load_dataset("imagefolder", folder / "photos", stated)
        steps = [v2.Grayscale(1)] * (name == "grey") + [v2.Resize((8, 6)), v2.PILToTensor()]
        assert torch.equal(dataset.images, torch.stack([v2.Compose(steps)(one) for one in opened(folder)]))
        assert dataset.mean == (0.1,) * channels and dataset.preprocessing.channels == channels

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("loud", "KeyError: 'no such filter' (eyes.py, line 20) (cat/0.png)"),
            ("made_loud", "OSError: no such file (eyes.py, line 22)"),
            ("lost", "it gives NoneType"), ("numbers", "a tensor of int64"), ("flat", "shape [8, 6]"),
            ("nan", "NaN or infinity"), ("drawn", "draws nothing at random"), ("not_callable", "int is no transform"),
            ("flots", "did you mean floats or"), ("shapes", "pictures become"),
        ],
    )  # fmt: skip
    def test_what_is_no_transform(self, folder, code, name, says):
        said = complaint(folder, transform=f"{code}:{name}").replace(f"({folder}/photos/", "(")
        assert says in said and "--transform" in said

    def test_a_file_that_is_not_there_or_raises(self, folder, code):
        assert "nowhere.py: there is no such file" in complaint(folder, transform="nowhere.py:f")
        (folder / "bad.py").write_text("import nothing_of_the_kind\n")
        assert "ModuleNotFoundError" in complaint(folder, transform=f"{folder}/bad.py:f")

    def test_it_imports_its_neighbours_and_hides_none_of_ours(self, folder):
        (folder / "own_filters.py").write_text("SIDE = 9\n")
        (folder / "models.py").write_text("raise SystemExit\n")
        (folder / "eyes.py").write_text(
            "from own_filters import SIDE\nfrom models import get_model\nfrom torchvision.transforms import v2\n"
            "def f(image):\n    return v2.functional.resize(image, [SIDE, SIDE])\n"
        )
        assert images(folder, transform=f"{folder}/eyes.py:f").shape[2:] == (9, 9)

    @pytest.mark.parametrize(
        ("stated", "says"),
        [
            ({"resize": "squash"}, "--resize squash"), ({"resize_size": 9}, "--resize_size 9"),
            ({"image_size": 9}, "--transform gives [8, 6]"), ({"channels": 1}, "--transform gives 3"),
            ({"mean": [0.5] * 3}, "--mean --std"),
        ],
    )  # fmt: skip
    def test_flags_that_it_decides(self, folder, code, stated, says):
        assert says in complaint(folder, transform=f"{code}:floats", **stated)
