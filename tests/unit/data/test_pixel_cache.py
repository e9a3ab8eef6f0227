"""Decoded pictures in memory, in a file, or decoded for each batch: the same images, and a file that is never wrong."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data.pictures.pixel_cache as pixel_cache
from data.augmentation import Augmentation
from data.copies import noted_perceptual_hashes, perceptual_hashes
from data.datasets import Dataset, load_dataset
from data.loaders import TensorLoader
from data.pictures import decoding, reading
from data.pictures.fetched import Pictures
from data.pictures.pixel_cache import overwrite
from data.preprocessing import Preprocessing
from helper_functions.errors import UserError

COUNT = 150
SMALL = Preprocessing(4)


def draw(path: Path, seed: int) -> None:
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Pictures of two classes, two of which are copies of one another."""
    for number in range(COUNT):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path, number % (COUNT - 1))
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the pictures that are decoded from now on, in this process."""
    names, read = [], decoding._Files.read
    monkeypatch.setattr(decoding, "FEW", 10**6)

    def spy(files, place):
        names.append(files.listing.files[place])
        return read(files, place)

    monkeypatch.setattr(decoding._Files, "read", spy)
    return names


def load(folder: Path, cache: str, stated: Preprocessing = SMALL, **options) -> Dataset:
    return load_dataset("imagefolder", folder, stated, cache=cache, cache_dir=folder.parent / "cache", **options)


def equal(one: Dataset, other: Dataset) -> bool:
    fields = ("classes", "num_train", "mean", "std", "file_names", "preprocessing")
    same = all(getattr(one, name) == getattr(other, name) for name in fields)
    same = same and np.array_equal(one.copy_groups, other.copy_groups) and torch.equal(one.labels, other.labels)
    return same and torch.equal(one.images[:], other.images[:])


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_the_same_data_set_and_batches_as_in_memory(folder, cache):
    memory, other = load(folder, "memory"), load(folder, cache)
    assert isinstance(other.images, Pictures) and equal(memory, other)
    assert other.copy_groups.tolist().count(0) == 2 and torch.equal(other.images[3], memory.images[3])
    options = {"mean": memory.mean, "std": memory.std, "augmentation": Augmentation(1), "shuffle": True, "seed": 3}
    loaders = [TensorLoader(each.images, each.labels, torch.arange(5, 90), 16, **options) for each in (memory, other)]
    for (a, x), (b, y) in zip(*loaders, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)


def test_pictures_that_the_users_own_code_makes_floating_point(folder, tmp_path):
    code = tmp_path / "mine.py"
    code.write_text("from torchvision.transforms.functional import to_tensor as do\ndef mine(x):\n    return do(x)")
    stated = Preprocessing(transform=f"{code}:mine")
    memory, disk = load(folder, "memory", stated), load(folder, "disk", stated)
    assert equal(memory, disk) and disk.images.is_floating_point()
    # Other code has another file, whatever it gives.
    code.write_text(code.read_text() + " / 2")
    load(folder, "disk", stated)
    assert len(list((folder.parent / "cache").iterdir())) == 2


def test_a_second_run_decodes_nothing(folder, decoded):
    first = load(folder, "disk")
    assert len(set(decoded)) == COUNT
    decoded.clear()
    assert equal(load(folder, "disk"), first)
    assert set(decoded) == {"a/000.png"}  # for the size


def test_only_what_has_changed_is_decoded_again(folder, decoded, capsys):
    load(folder, "disk")
    decoded.clear()
    draw(folder / "a/004.png", 1000)
    draw(folder / "b/new.png", 1001)
    (folder / "b/007.png").unlink()
    capsys.readouterr()
    now = load(folder, "disk")
    assert set(decoded) == {"a/000.png", "a/004.png", "b/new.png"}
    told = capsys.readouterr().out
    changes = {"changed": "a/004.png", "gone": "b/007.png", "new": "b/new.png"}
    assert all(f"{what}: 1 (first: {name})" in told for what, name in changes.items())
    assert equal(now, load(folder, "memory"))
    assert len(list((folder.parent / "cache").glob("*/pixels-*"))) == 1


def test_another_preprocessing_has_a_file_of_its_own(folder):
    load(folder, "disk")
    squashed = Preprocessing(4, "squash")
    assert torch.equal(load(folder, "disk", squashed).images[:], load(folder, "memory", squashed).images)


@pytest.mark.parametrize("rows", [0, 64])
def test_a_build_that_was_stopped_goes_on(folder, decoded, monkeypatch, rows):
    monkeypatch.setattr(decoding, "CHUNK", 32)
    settle = pixel_cache._settle

    def stop(begun, waiting):
        settle(begun, waiting)
        if (begun.facts["state"] != decoding.MISSING).sum() >= rows:
            raise KeyboardInterrupt

    monkeypatch.setattr(pixel_cache, "INTERVAL", -1.0)
    monkeypatch.setattr(pixel_cache, "_settle", stop)
    with pytest.raises(KeyboardInterrupt):
        load(folder, "disk")
    monkeypatch.setattr(pixel_cache, "_settle", settle)
    assert not list((folder.parent / "cache").glob("*/pixels-*"))
    done = set(decoded)
    decoded.clear()
    now = load(folder, "disk")
    assert set(decoded) - {"a/000.png"} == set(now.file_names) - done
    assert equal(now, load(folder, "memory"))


def test_a_build_that_was_begun_for_other_pictures_begins_anew(folder, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pixel_cache, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        load(folder, "disk")
    assert list((folder.parent / "cache").glob("*/building"))
    monkeypatch.undo()
    draw(folder / "a/000.png", 77)
    assert equal(load(folder, "disk"), load(folder, "memory"))


@pytest.mark.parametrize("name", [pixel_cache.PIXELS, pixel_cache.FACTS, pixel_cache.FILES])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_damaged_file_is_built_again(folder, name, damage):
    load(folder, "disk")
    (path,) = (folder.parent / "cache").glob(f"*/pixels-*/{name}")
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size // 2)
    assert equal(load(folder, "disk"), load(folder, "memory"))


def test_a_full_disk_is_noticed_before_any_picture_is_decoded(folder, decoded, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match="--cache_dir .*No space left .*; name another folder, or give --cache none"):
        load(folder, "disk")
    assert set(decoded) == {"a/000.png"}
    assert not [path for path in (folder.parent / "cache").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_or_read(folder):
    cache = folder.parent / "cache"
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(UserError, match="--cache none"):
        load(folder, "disk")
    cache.chmod(0o700)
    first = load(folder, "disk")
    for path in (*cache.rglob("*"), cache):
        path.chmod(0o500)
    assert equal(load(folder, "disk"), first)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_unreadable_pictures_are_refused_or_left_out(folder, cache, capsys):
    (folder / "b/001.png").write_bytes(b"no picture")
    (folder / "a/000.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read image .*a/000.png \(.*\); remove it or pass --skip_unreadable"):
        load(folder, cache)
    left = load(folder, cache, skip_unreadable=True)
    assert "skipped 2 files that cannot be read: a/000.png (" in capsys.readouterr().err
    assert len(left.file_names) == COUNT - 2 == len(left.labels) and "b/001.png" not in left.file_names
    assert equal(left, load(folder, "memory", skip_unreadable=True))
    # Mended, they are back.
    draw(folder / "b/001.png", 1)
    draw(folder / "a/000.png", 0)
    assert equal(load(folder, cache), load(folder, "memory"))


def test_a_picture_that_vanishes_while_batches_are_decoded(folder):
    dataset = load(folder, "none")
    (folder / "a/010.png").unlink()
    with pytest.raises(UserError, match="a/010.png: it has vanished"):
        dataset.images[:]


def test_perceptual_hashes_are_noted_in_the_file(folder, monkeypatch):
    images, hashed = np.arange(COUNT), []
    expected = perceptual_hashes(load(folder, "memory"), images)
    picture = Dataset.picture
    monkeypatch.setattr(Dataset, "picture", lambda dataset, index: hashed.append(int(index)) or picture(dataset, index))

    def found(dataset: Dataset, wanted: np.ndarray) -> np.ndarray:
        hashed.clear()
        return noted_perceptual_hashes(dataset, wanted)

    dataset = load(folder, "disk")
    for wanted, new in ((images[5:90], range(5, 90)), (images[:100], [*range(5), *range(90, 100)]), (images[:50], [])):
        assert np.array_equal(found(dataset, wanted), expected[wanted]) and hashed == list(new)
    # Those of pictures that are the same stay when the folder changes; those of overwritten ones go.
    draw(folder / "a/006.png", 500)
    dataset = load(folder, "disk")
    changed = perceptual_hashes(load(folder, "memory"), images)
    assert np.array_equal(found(dataset, images[:100]), changed[:100]) and hashed == [3]
    overwrite(dataset.pixel_file, ["a/014.png"])
    (path,) = (folder.parent / "cache").glob("*/pixels-*/facts.npy")
    assert np.load(path)["hash"][7] == 0 and np.load(path)["hash"][8] == changed[8]
    dataset = load(folder, "disk", whole=True)
    assert np.array_equal(found(dataset, images[:100]), changed[:100]) and hashed == [7]
    assert np.load(path)["hash"][7] == 0


def test_withdrawn_pictures_are_overwritten_and_left_out(folder, capsys, decoded):
    whole = load(folder, "disk")
    names = ["a/002.png", "b/149.png"]  # the latter is a copy of a/000.png
    rows = [whole.file_names.index(name) for name in names]
    pixels = whole.images[rows[0]].permute(1, 2, 0).numpy().tobytes()
    (path,) = (folder.parent / "cache").glob("*/pixels-*/pixels.npy")
    assert pixels in path.read_bytes()
    assert overwrite(whole.pixel_file, names) == 2
    assert pixels not in path.read_bytes()
    capsys.readouterr()
    now = load(folder, "disk")
    assert set(whole.file_names) - set(now.file_names) == set(names)
    assert "2 withdrawn pictures left out" in capsys.readouterr().out
    # Also after the folder has changed and the picture was saved again with the same pixels.
    draw(folder / "a/002.png", 2)
    draw(folder / "b/other.png", 500)
    again = load(folder, "disk")
    assert set(again.file_names) == set(now.file_names) | {"b/other.png"}
    (path,) = (folder.parent / "cache").glob("*/pixels-*/pixels.npy")
    assert pixels not in path.read_bytes()
    # For a run that needs them all, the overwritten one is decoded, and the others are read from the file.
    memory = load(folder, "memory")
    decoded.clear()
    with_it = load(folder, "disk", whole=True)
    assert decoded == ["a/000.png", "a/002.png", "b/149.png"]  # the first for its shape
    assert equal(with_it, memory) and torch.equal(with_it.images[5], memory.images[5])
    # Another picture under that name is another picture.
    draw(folder / "a/002.png", 600)
    assert "a/002.png" in load(folder, "disk").file_names


def test_pictures_that_cannot_be_overwritten_are_told_in_a_line(folder, monkeypatch):
    place = load(folder, "disk").pixel_file

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pixel_cache, "FileLock", refuse)
    with pytest.raises(UserError, match="--cache_dir .* cannot be overwritten in .*Permission denied.*another"):
        overwrite(place, ["a/002.png"])
    monkeypatch.undo()
    opened = pixel_cache.PixelFile.open
    monkeypatch.setattr(pixel_cache.PixelFile, "open", lambda place, mode="r": None if mode == "r+" else opened(place))
    with pytest.raises(UserError, match="Permission denied"):
        overwrite(place, ["a/002.png"])


def test_a_disk_that_fills_while_pictures_are_decoded(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoding._Files, "write", full)
    with pytest.raises(UserError, match="No space left on device; name another --cache_dir, or give --cache none"):
        load(folder, "disk")
    monkeypatch.undo()
    assert equal(load(folder, "disk"), load(folder, "memory"))


def test_without_write_a_file_is_read_but_none_is_made(folder):
    assert equal(load(folder, "disk", write=False), load(folder, "memory"))
    assert not (folder.parent / "cache").exists()
    load(folder, "disk")
    assert load(folder, "disk", write=False).pixel_file is not None


def test_auto_takes_memory_for_what_fits_in_half_of_it(folder, monkeypatch):
    size = COUNT * 4 * 4 * 3
    for free, place in ((2 * size, torch.Tensor), (2 * size - 2, Pictures)):
        monkeypatch.setattr(reading, "_free", lambda free=free: free)
        assert isinstance(load(folder, "auto").images, place)
    monkeypatch.setattr(reading, "_free", lambda: 2 * size)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert isinstance(load(folder, "auto").images, Pictures)


def test_workers_decode_the_same(folder):
    for number in range(COUNT, 2 * COUNT):
        shutil.copy(folder / "a/002.png", folder / f"a/{number}.png")
    assert equal(load(folder, "memory"), load(folder, "disk"))
