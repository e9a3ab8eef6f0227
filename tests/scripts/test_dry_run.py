"""A rehearsal of a run: what it says comes true, and nothing is written."""

import functools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import REPOSITORY, Done, assert_refused, contents, fork, only
from helpers.run_folders import UNLEARN, report_of
from PIL import Image

DIGITS = ("--dataset", "digits", "--model", "resnet8", "--width", 4)
QUICK = ("--precision", "fp32", "--figures", False, "--judge", "validation")


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Path:
    """A folder with a list and two models: one that learned the listed images, and one that never saw them."""
    folder = tmp_path_factory.mktemp("office")
    for name, flags in {"learned": (), "never": ("--retain_only",)}.items():
        done = fork(
            "train.py", *DIGITS, "--forget", "random:60", "--num_epochs", 4, "--batch_size", 32, *flags,
            "--log_dir", folder / name, "--precision", "fp32",
        )  # fmt: skip
        assert done.status == 0, done.err
    return folder


def weights(office: Path, name: str) -> Path:
    return only(office / name) / "model.pt"


def rehearse(office: Path, *flags: object) -> Done:
    """A dry run in the folder, in which and in whose runs/ nothing changes."""
    before = contents(office)
    there = functools.partial(os.chdir, office)
    done = fork(str(REPOSITORY / UNLEARN), *DIGITS, *QUICK, "--dry_run", *flags, before=there)
    assert contents(office) == before and not (office / "runs").exists()
    return done


def lines(done: Done) -> dict[str, str]:
    """What is said, by the word before it."""
    return dict(re.findall(r"^(plan|aim|budget|time) +(.*)$", done.out, re.M))


@pytest.mark.parametrize(
    "flags",
    [
        ("--finetune_num_epochs", 1), ("--forget", "class:3", "--num_epochs", 2, "--finetune_num_epochs", 1),
        ("--method", "scrub", "--num_epochs", 3, "--msteps", 1), ("--rewind", "--method", "finetune"),
    ],
    ids=["one stage", "two stages", "published", "rewind"],
)  # fmt: skip
def test_the_plan_comes_true(office, flags, tmp_path):
    flags = ("--weight_path", weights(office, "learned"), *flags)
    told = rehearse(office, *flags)
    assert told.status == 0 and told.err == "" and "dry run  nothing has been written" in told.out, told
    assert re.search(r"original [\d.]+ % of retain, [\d.]+ % of forget, [\d.]+ % of held-out images right", told.out)
    assert re.fullmatch(r"about [\d,]+ s here at [\d,]+ images .*", lines(told)["time"])
    done = fork(UNLEARN, *DIGITS, *QUICK, *flags, "--log_dir", tmp_path)
    assert done.status in (0, 3, 4), done
    report = report_of(only(tmp_path))
    assert lines(done) == {name: line for name, line in lines(told).items() if name != "time"}
    steps, images = (
        sum(int(number.replace(",", "")) for number in re.findall(rf"([\d,]+) {what}", lines(told)["plan"]))
        for what in ("steps", "images with gradients")
    )
    cost = report["cost"]["unlearned"]
    assert (steps, images) == (cost["gradient_steps"], cost["images"])
    assert lines(told)["aim"].startswith("nothing measurable") == report["verdict"]["met_before"]


@pytest.mark.parametrize(("name", "met"), [("learned", False), ("never", True)])
def test_whether_there_is_anything_to_forget(office, name, met):
    """A class has to go that the model names; random images may be treated as unseen ones already."""
    flags = ("--forget", "class:3") if not met else ()
    done = rehearse(office, "--weight_path", weights(office, name), *flags)
    assert lines(done)["aim"].startswith("nothing measurable to forget" if met else "forget accuracy is "), done


def test_the_list_is_checked_and_copies_are_told(office):
    photos, withdrawn = office / "photos", office / "withdrawn.txt"
    for place in range(40):
        path = photos / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = 0 if place == 1 else place
        Image.fromarray(np.random.RandomState(seed).randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    flags = ("--dataset", "imagefolder", "--data_dir", photos, "--image_size", 8, "--forget", f"file:{withdrawn}")
    withdrawn.write_text("a/0.png\na/4.png\n")
    done = rehearse(office, *flags)
    assert done.status == 0 and re.search(r"^copies .*a/0.png = b/1.png", done.out, re.M), done
    withdrawn.write_text("a/0.png\na/99.png\n")
    assert_refused(rehearse(office, *flags), UNLEARN, "a/99.png")


def test_an_original_that_is_still_to_be_trained(office):
    done = rehearse(office, "--forget", "random:60", "--train_num_epochs", 2)
    assert lines(done)["plan"].startswith("train the original (2 passes); constrained, target unseen; finetune: 3")
    assert "known once it is trained" in lines(done)["aim"] and " % of retain" not in done.out


def test_a_method_without_steps(office):
    done = rehearse(office, "--weight_path", weights(office, "learned"), "--method", "ssd")
    assert lines(done)["plan"] == "ssd, target unseen; all at once" and lines(done)["time"].startswith("unknown")
    assert "1 point: open, since ssd is not steered by it" in lines(done)["budget"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--resume", "runs/a"), "--resume runs/a"), (("--untrain", False), "--untrain False"),
        (("--dataset", "cifar10", "--data_dir", "gone"), "nothing is downloaded"),
    ],
)  # fmt: skip
def test_what_cannot_be_rehearsed(office, flags, said):
    assert_refused(rehearse(office, *flags), UNLEARN, said)
