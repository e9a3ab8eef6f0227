"""Folders of a user's own pictures."""

import numpy as np
import pytest
from PIL import Image

from data.datasets import load_dataset
from data.preprocessing import Preprocessing
from helper_functions.errors import UserError


def picture(width: int = 12, height: int = 12, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Two classes; PNG and JPEG in either case, one in a subfolder; files that are no pictures."""
    for name in ("cats/2.png", "cats/1.JPG", "dogs/old/0.jpeg", "dogs/3.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=len(name)).save(tmp_path / name)
    (tmp_path / "dogs/notes.txt").write_text("no picture")
    (tmp_path / "dogs/._3.png").write_text("left by a file manager")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.png").write_text("in no class")
    return tmp_path


def complaint(*arguments, **options) -> str:
    with pytest.raises(UserError) as info:
        load_dataset("imagefolder", *arguments, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_classes_files_and_pixels(folder):
    dataset = load_dataset("imagefolder", folder, Preprocessing(12))
    assert dataset.classes == ("cats", "dogs")
    assert dataset.file_names == ("cats/1.JPG", "cats/2.png", "dogs/3.PNG", "dogs/old/0.jpeg")
    assert dataset.labels.tolist() == [0, 0, 1, 1] and dataset.num_train == 4
    # Of the same size already: PNG pixels come through unchanged.
    assert np.array_equal(dataset.images[1].permute(1, 2, 0).numpy(), np.asarray(picture(seed=len("cats/2.png"))))
    scaled = dataset.images.double().div(255).transpose(0, 1).flatten(1)
    assert np.allclose(dataset.mean, scaled.mean(1)) and np.allclose(dataset.std, scaled.std(1, correction=0))
    assert load_dataset("imagefolder", folder).images.shape == (4, 3, 64, 64)


@pytest.mark.parametrize("width, height", [(24, 12), (12, 36), (16, 12), (12, 12)])
def test_the_short_side_is_scaled_and_the_centre_kept(folder, width, height):
    image = picture(width, height)
    image.save(folder / "cats/2.png")
    left, top = max(width - 12, 0) // 4, max(height - 12, 0) // 4
    scaled = image.resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    expected = scaled.crop((left, top, left + 6, top + 6))
    dataset = load_dataset("imagefolder", folder, Preprocessing(6))
    assert np.array_equal(dataset.images[1].permute(1, 2, 0).numpy(), np.asarray(expected))


@pytest.mark.parametrize("suffix", ["webp", "BMP", "tif", "tiff", "gif", "jfif"])
def test_other_formats_that_pillow_reads(folder, suffix):
    name, kind = f"cats/3.{suffix}", {"jfif": "jpeg", "tif": "tiff"}.get(suffix, suffix.lower())
    picture().save(folder / name, kind, **({"lossless": True} if kind == "webp" else {}))
    dataset = load_dataset("imagefolder", folder, Preprocessing(12))
    assert dataset.file_names[2] == name
    expected = np.asarray(Image.open(folder / name).convert("RGB"))
    assert np.array_equal(dataset.images[2].permute(1, 2, 0).numpy(), expected)


def test_files_of_other_kinds_are_counted_and_named_once(folder, capsys):
    for name in ("cats/a.heic", "cats/b.HEIC", "dogs/old/Thumbs.db", "dogs/list", "cats/.DS_Store"):
        (folder / name).write_bytes(b"something else")
    load_dataset("imagefolder", folder)
    said = capsys.readouterr().err
    assert said.startswith("left out 5 files of other kinds: 2 .heic, ") and said.endswith(" (first: cats/a.heic)\n")
    assert all(kind in said for kind in ("1 .db", "1 .txt", "1 no suffix")) and said.count("\n") == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes_become_rgb(folder, mode):
    image = picture().convert(mode)
    image.save(folder / "cats/2.png")
    dataset = load_dataset("imagefolder", folder, Preprocessing(12))
    assert np.array_equal(dataset.images[1].permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


def test_photographs_stand_upright(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned; the picture is to be shown rotated by 90 degrees
    picture().save(folder / "cats/2.png", exif=exif)
    dataset = load_dataset("imagefolder", folder, Preprocessing(12))
    expected = np.rot90(np.asarray(picture()), k=-1)
    assert np.array_equal(dataset.images[1].permute(1, 2, 0).numpy(), expected)


def damage(folder, kind: str) -> None:
    path = folder / "dogs/3.PNG"
    whole = path.read_bytes()
    contents = {"empty": b"", "text": b"no picture", "cut": whole[: len(whole) // 2], "other": b"GIF89a" + whole}
    if kind == "bomb":
        # A header that promises 100,000 x 100,000 pixels.
        start = whole.index(b"IHDR") + 4
        path.write_bytes(whole[:start] + (100_000).to_bytes(4, "big") * 2 + whole[start + 8 :])
    else:
        path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "other", "bomb"])
def test_an_unreadable_file_stops_or_is_skipped(folder, kind, capsys):
    damage(folder, kind)
    message = complaint(folder)
    assert "dogs/3.PNG" in message and "--skip_unreadable" in message
    dataset = load_dataset("imagefolder", folder, skip_unreadable=True)
    assert dataset.file_names == ("cats/1.JPG", "cats/2.png", "dogs/old/0.jpeg")
    assert dataset.labels.tolist() == [0, 0, 1] and len(dataset.images) == 3
    printed = capsys.readouterr().err
    assert "skipped 1 file that cannot be read" in printed and "dogs/3.PNG" in printed and printed.count("skipped") == 1


def test_a_large_picture_is_refused_below_the_hard_limit(folder, monkeypatch):
    # Between one and two times the limit PIL only warns.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "cats/1.JPG" in complaint(folder)


def test_a_class_without_readable_images_is_named(folder):
    (folder / "birds").mkdir()
    assert "birds" in complaint(folder)
    (folder / "birds/0.png").write_text("no picture")
    assert "birds" in complaint(folder, skip_unreadable=True)


def test_folders_that_are_none(tmp_path, folder):
    assert "No such file" in complaint(tmp_path / "nowhere")
    assert "Not a directory" in complaint(folder / "readme.png")
    assert "no class folders" in complaint(folder / "cats")
    (tmp_path / "one" / "cats").mkdir(parents=True)
    assert "one class folder, cats;" in complaint(tmp_path / "one")


@pytest.mark.parametrize("size", [0, -3, 10**9])
def test_impossible_sizes(size):
    with pytest.raises(UserError, match=f"--image_size {size}: .* between 1 and 4096"):
        Preprocessing(size)
