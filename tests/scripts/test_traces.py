"""What a run folder holds of the forgotten pictures and of the model that knew them: nothing, unless asked for."""

import base64
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import SMALL, Ran, assert_refused, fork, only
from helpers.run_folders import UNLEARN, events_of, report_of, weights_of
from PIL import Image

from data.datasets import load_dataset
from data.preprocessing import Preprocessing
from data.splits import make_splits
from evaluation.report.record import encoded

KINDS = {"ash": (200, 40, 40), "bay": (40, 180, 40), "cat": (40, 60, 200)}
EACH, SIZE = 24, 8
FLAGS = (
    *SMALL, "--image_size", SIZE, "--train_num_epochs", 12, "--train_batch_size", 16, "--num_epochs", 1,
    "--retain_budget", 60, "--validation", "0.4",
)  # fmt: skip
FROM_BEFORE = {"checkpoint.pt", "original.pt", "rewound.pt"}


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Path:
    """`photos`, and a list of some that the model learns from."""
    folder, rng = tmp_path_factory.mktemp("office"), np.random.default_rng(0)
    for kind, colour in KINDS.items():
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(EACH):
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{number:02d}.{'jpg' if kind == 'ash' else 'png'}")
    dataset = load_dataset("imagefolder", folder / "photos", Preprocessing(SIZE))
    train = make_splits(dataset, None, validation="0.4").train
    (folder / "withdrawn.txt").write_text("".join(f"{dataset.file_names[image]}\n" for image in train[::10]))
    return folder


@pytest.fixture(scope="module")
def forget(office, tmp_path_factory):
    """A run that trains its original and forgets the list."""

    def run(*flags: object) -> Ran:
        log_dir, asked = tmp_path_factory.mktemp("runs"), ("--forget", f"file:{office}/withdrawn.txt")
        done = fork(UNLEARN, "--data_dir", office / "photos", *asked, *FLAGS, "--log_dir", log_dir, *flags)
        assert done.status == 0 and done.err == "", done
        return Ran(done, only(log_dir))

    return run


@pytest.fixture(scope="module")
def plain(forget) -> Ran:
    """As it is by default."""
    return forget()


@pytest.fixture(scope="module")
def keeping(forget) -> Ran:
    """The same with everything that can be asked for."""
    return forget("--keep_checkpoint", "--show_images")


def every_byte(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files, the members of archives unpacked, and what pages embed in base64, each with a name."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            yield path.name, content
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from ((f"{path.name}/{name}", archive.read(name)) for name in archive.namelist())
            for number, found in enumerate(re.findall(rb"base64,([A-Za-z0-9+/=]+)", content)):
                yield f"{path.name}/{number}", base64.b64decode(found)


def pictures(office: Path) -> dict[str, bytes]:
    """The withdrawn pictures as files, as files that this code would write, and as pixels in both orders."""
    found = {}
    for name in (office / "withdrawn.txt").read_text().split():
        path = office / "photos" / name
        pixels = np.array(Image.open(path).convert("RGB"))
        found |= {f"{name}, file": path.read_bytes(), f"{name}, pixels": pixels.tobytes()}
        planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        found |= {f"{name}, PNG": encoded(planes), f"{name}, planes": planes.numpy().tobytes()}
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        found[f"{name}, JPEG"] = file.getvalue()
    return found


def holding(folder: Path, wanted: dict[str, bytes]) -> dict[str, set[str]]:
    """Which of the wanted bytes are in which files of a folder."""
    found = {}
    for name, content in every_byte(folder):
        if there := {what for what, needle in wanted.items() if needle in content}:
            found[name] = there
    return found


def known_before(keeping: Path, plain: Path) -> dict[str, bytes]:
    """Those tensors of the original that forgetting has changed, as they lie in memory."""
    before, after = weights_of(keeping, "original.pt"), weights_of(plain)
    assert before.keys() == after.keys() == weights_of(keeping).keys()
    return {
        name: bytes(value.untyped_storage()) for name, value in before.items()
        if value.numel() > 8 and not torch.equal(value, after[name])
    }  # fmt: skip


def test_no_withdrawn_picture_is_in_the_folder(office, plain, keeping):
    wanted = pictures(office)
    assert holding(plain.folder, wanted) == {} and not events_of(plain.folder).Tags()["images"].count("forget/images")
    found = holding(keeping.folder, wanted)
    assert set().union(*found.values()) >= {what for what in wanted if what.endswith("PNG")}, "the search finds them"
    assert "forget/images" in events_of(keeping.folder).Tags()["images"]
    assert not [name for name in found if not name.startswith("report.html")]


def test_nothing_of_the_model_from_before_is_in_the_folder(plain, keeping):
    wanted = known_before(keeping.folder, plain.folder)
    assert len(wanted) > 5 and holding(plain.folder, wanted) == {}
    found = holding(keeping.folder, wanted)
    assert set().union(*found.values()) == wanted.keys(), "the search finds them"
    assert {name.partition("/")[0] for name in found} == {"original.pt"}


def test_the_files_that_stay_are_those_that_the_report_lists(plain, keeping):
    for ran, kept in ((plain, set()), (keeping, {"checkpoint.pt", "original.pt"})):
        names = {path.name for path in ran.folder.iterdir()}
        assert names & FROM_BEFORE == kept
        listed = {file["path"] for file in report_of(ran.folder)["files"]}
        own = {"config.yaml", "preprocessing.json", "splits.npz", "metrics.jsonl", "forgotten.sha256", "model.pt"}
        assert listed == kept | own and listed <= names
        assert ("no file from before unlearning" in (ran.folder / "report.html").read_text()) == (not kept)
        assert ("removed  original.pt, checkpoint.pt: from before" in ran.done.out) == (not kept)
        assert fork("test.py", "--verify", ran.folder).status == 0


def test_a_method_that_rewinds_keeps_no_epoch(forget):
    ran = forget("--method", "random_labels", "--rewind", "--num_epochs", 2, "--figures", "False")
    assert not {path.name for path in ran.folder.iterdir() if path.suffix == ".pt"} - {"model.pt"}


def test_what_needs_the_original_says_so(plain, keeping, tmp_path):
    flags = ("--retain_budget", 30, "--log_dir", tmp_path)
    assert_refused(fork(UNLEARN, "--dial", plain.folder, *flags), UNLEARN, "original.pt is gone", "--keep_checkpoint")
    assert_refused(fork(UNLEARN, "--resume", plain.folder), UNLEARN, "that run has ended")
    done = fork(UNLEARN, "--dial", keeping.folder, *flags)
    assert done.status in (0, 4) and (keeping.folder / "original.pt").is_file(), done


@pytest.fixture(scope="module")
def on_disk(forget, tmp_path_factory) -> tuple[Ran, Path]:
    """As it is by default, but from a file of pixels; and that file's folder."""
    cache = tmp_path_factory.mktemp("cache")
    return forget("--cache", "disk", "--cache_dir", cache), cache


def test_a_file_of_pixels_gives_the_same_weights_and_figures(plain, on_disk):
    ran, _ = on_disk
    before, after = weights_of(plain.folder), weights_of(ran.folder)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert report_of(plain.folder)["models"] == report_of(ran.folder)["models"]


def test_withdrawn_pictures_are_gone_from_the_file_and_left_out_of_the_next_run(office, on_disk, tmp_path):
    ran, cache = on_disk
    wanted = {name: needle for name, needle in pictures(office).items() if name.endswith("pixels")}
    held = Image.open(office / "photos/bay/00.png").tobytes()
    found = holding(cache, wanted | {"another picture": held})
    names = (office / "withdrawn.txt").read_text().split()
    assert set().union(*found.values()) == {"another picture"}, "the search finds what is there"
    assert f"cache    {len(names)} withdrawn pictures overwritten in {cache}" in ran.done.out
    assert fork("test.py", "--verify", ran.folder).status == 0
    flags = ("--data_dir", office / "photos", "--image_size", SIZE, "--cache", "disk", "--cache_dir", cache)
    done = fork("train.py", *flags, *SMALL, "--num_epochs", 1, "--log_dir", tmp_path)
    assert done.status == 0 and f"{len(names)} withdrawn pictures left out" in done.out, done
    left = load_dataset("imagefolder", office / "photos", Preprocessing(SIZE), cache="disk", cache_dir=cache)
    assert not set(left.file_names) & set(names) and len(left.file_names) == EACH * len(KINDS) - len(names)
