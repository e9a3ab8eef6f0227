"""Pictures and models of somebody else: what the model saw is found or told, and its owner sees the forgetting."""

import functools
import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from helpers.outside import GONE, IMAGENET, SEEN, SIDE, TRANSFORMS, WIDTH, load, make_pictures, top1, train
from helpers.processes import REPOSITORY, Done, assert_refused, fork, only

from helper_functions.run_folder import result_weights

UNLEARN = "train_constrained_unlearning.py"
SCHEMA = json.loads((REPOSITORY / "docs" / "report.schema.json").read_text())
KNOWN = ("--mean", *IMAGENET[0], "--std", *IMAGENET[1])
# What each model saw, as flags, and how they are named where the flags are `KNOWN` alone.
TOLD = {
    "squash": (("--resize", "squash", *KNOWN), "--resize squash"),
    "crop": (("--resize_size", 37, *KNOWN), "--resize_size 37"),
    "normalisation": (("--mean", 0, 0, 0, "--std", 1, 1, 1), "--mean 0.0 0.0 0.0 --std 1.0 1.0 1.0"),
    "fit": (("--resize", "fit", *KNOWN), "--resize fit"),
    "grey": (("--transform", "{folder}/eyes.py:grey"), None),
}
EYES = """
import torch
from torchvision.transforms import v2

def grey():
    return v2.Compose([v2.Grayscale(3), v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
                       v2.Normalize([0.5] * 3, [0.5] * 3)])
"""


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Path:
    """A folder with photos/, the lists, eyes.py, and weights by the name of their transform."""
    folder = tmp_path_factory.mktemp("office")
    make_pictures(folder)
    (folder / "eyes.py").write_text(EYES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, transform in TRANSFORMS.items():
        torch.save(train(*load(folder, SEEN, transform)).state_dict(), folder / f"{name}.pth")
    torch.set_num_threads(threads)
    return folder


def unlearn(office: Path, name: str, log_dir: Path, *flags: object) -> Done:
    """The main script from a model's weights, in float32 as outside."""
    return fork(
        UNLEARN, "--data_dir", office / "photos", "--model", "resnet8", "--width", WIDTH, "--precision", "fp32",
        "--weight_path", office / f"{name}.pth", "--validation", f"file:{office}/held_out.txt",
        "--forget", f"file:{office}/withdrawn.txt", "--log_dir", log_dir, "--figures", "False", *flags,
    )  # fmt: skip


QUICK = ("--image_size", SIDE, "--num_epochs", 1, "--finetune_num_epochs", 0)


@pytest.mark.parametrize("name", TOLD)
def test_other_pictures_are_noticed_and_the_flag_is_named(office, name, tmp_path):
    done = unlearn(office, name, tmp_path, *QUICK, *KNOWN)
    _, named = TOLD[name]
    if done.status == 2:
        assert_refused(done, UNLEARN, "of the training images are right", named or "--transform")
        return
    report = json.loads((only(tmp_path) / "report.json").read_text())
    assert report["preprocessing"]["confirmed_by"] is None
    assert "warning  preprocessing unconfirmed: " in done.out and "UNCONFIRMED: " in done.out
    page = (only(tmp_path) / "report.html").read_text()
    assert "<b>Unconfirmed:</b>" in page
    assert "unconfirmed" in re.search("<h2 id=.verdict.>(.*)</h2>", page)[1]
    assert named is None or f"set {named} (" in done.out, done.out
    jsonschema.validate(report, SCHEMA)


@pytest.fixture(scope="module")
def told(office, tmp_path_factory):
    """Unlearn a model, by its name, whose preprocessing and accuracy are told; once each: the folder and the output."""

    @functools.cache
    def run(name: str) -> tuple[Path, Done]:
        log_dir = tmp_path_factory.mktemp(name)
        flags = [str(flag).format(folder=office) for flag in TOLD[name][0]]
        size = () if name == "grey" else ("--image_size", SIDE)
        expected = top1(office / f"{name}.pth", *load(office, SEEN, TRANSFORMS[name]))
        done = unlearn(
            office, name, log_dir, *flags, *size, "--finetune_num_epochs", 12, "--retain_budget", 10,
            "--expected_accuracy", f"{expected:.1f}",
        )  # fmt: skip
        # So few pictures do not always reach what counts as forgotten.
        assert done.status in (0, 4) and done.err == "", done
        return only(log_dir), done

    return run


def report_of(folder: Path) -> dict:
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return report


@pytest.mark.parametrize("name", ["squash", "grey"])
def test_told_what_the_model_saw_its_owner_sees_the_forgetting(office, told, name):
    folder, done = told(name)
    report = report_of(folder)
    seen = report["preprocessing"]
    assert seen["confirmed_by"] == "expected_accuracy" and "UNCONFIRMED" not in done.out
    parts = {"train": SEEN, "forget": GONE, "retain": [name for name in SEEN if name not in GONE]}
    inputs = {part: load(office, names, TRANSFORMS[name]) for part, names in parts.items()}
    before, after = (
        {part: top1(weights, *inputs[part]) for part in parts}
        for weights in (office / f"{name}.pth", result_weights(folder))
    )
    # One picture may lie on the border between two classes.
    slack = 100 / len(GONE) + 1e-6
    for part in parts:
        assert seen["accuracy"][part] == pytest.approx(before[part], abs=slack)
        if part != "train":
            assert report["models"]["unlearned"][f"{part}_top1"] == pytest.approx(after[part], abs=slack)
    assert before["forget"] > after["forget"], "fewer withdrawn pictures are named rightly"
    assert before["retain"] - after["retain"] < 10 + slack


class TestCodeOfARun:
    """A run's own configuration executes nothing: whoever reads it names the code again."""

    def test_every_way_to_go_on_from_it(self, office, told, tmp_path):
        folder, _ = told("grey")
        code, log = ("--transform", f"{office}/eyes.py:grey"), ("--log_dir", tmp_path)
        (office / "second.txt").write_text("\n".join(name for name in SEEN[:3]))
        ways = {
            "verified": ("test.py", "--verify", folder),
            "judged": ("test.py", "--weight_path", result_weights(folder)),
            "dial": (UNLEARN, "--dial", folder, "--retain_budget", 5, *log),
            "next": (UNLEARN, "--previous_run", folder, "--forget", f"file:{office}/second.txt", "--num_epochs", 1,
                     "--finetune_num_epochs", 0, "--figures", "False", *log),
            "resumed": (UNLEARN, "--resume", folder),
        }  # fmt: skip
        for way, flags in ways.items():
            assert_refused(fork(*flags), flags[0], "the transform of that run is code", f"add --transform {code[1]}")
            done = fork(*flags, *code)
            assert done.status in (0, 4), (way, done)
        for run in tmp_path.iterdir():
            seen = report_of(run)["preprocessing"]
            assert seen["transform"] == code[1] and seen["image_size"] == [SIDE, SIDE] and seen["mean"] is None
            assert seen["confirmed_by"] in ("run", "expected_accuracy")
        assert len(list(tmp_path.iterdir())) == 2

    def test_other_code_is_another_file(self, office, told, tmp_path):
        folder, _ = told("grey")
        (tmp_path / "eyes.py").write_text(EYES + "\n# changed\n")
        done = fork("test.py", "--verify", folder, "--transform", f"{tmp_path}/eyes.py:grey")
        assert done.status == 3 and re.search(r"transform: .*eyes\.py .*DIFFERS", done.out)

    def test_its_figures_are_checked(self, told, office, tmp_path):
        folder, _ = told("squash")
        copy = tmp_path / "run"
        shutil.copytree(folder, copy)
        report = json.loads((copy / "report.json").read_text())
        report["preprocessing"]["accuracy"]["forget"] -= 20
        report["preprocessing"] |= {"resize": "short", "confirmed_by": "run"}
        (copy / "report.json").write_text(json.dumps(report))
        done = fork("test.py", "--verify", copy)
        assert done.status == 3 and re.search("input: resize .*DIFFERS", done.out)
        assert re.search("input: confirmed_by .*DIFFERS", done.out)
        assert re.search("original before any work: forget .*DIFFERS", done.out)


def test_another_accuracy_than_the_owner_knows_is_refused(office, tmp_path):
    """With the likely causes in their order, and the flag where one is found."""
    done = unlearn(office, "squash", tmp_path, *QUICK, *KNOWN, "--expected_accuracy", 99)
    assert_refused(done, UNLEARN, "--expected_accuracy 99: ", "set --resize squash (")
    assert not list(tmp_path.iterdir())
    done = unlearn(office, "squash", tmp_path, *QUICK, "--resize", "squash", *KNOWN, "--expected_accuracy", 70)
    causes = ["--resize squash", "--mean 0.485", "--image_size 32", "--class_order", "--stem auto", "--transform"]
    assert_refused(done, UNLEARN, *causes)
    assert sorted(causes, key=done.err.index) == causes
    lonely = fork(UNLEARN, "--model", "resnet8", "--expected_accuracy", 90, "--log_dir", tmp_path)
    assert_refused(lonely, UNLEARN, "--expected_accuracy 90", "--weight_path")


def test_what_was_trained_here_is_known_everywhere(office, tmp_path):
    """train.py states it in its folder, and test.py and the main script take it from there."""
    flags = ("--data_dir", office / "photos", "--model", "resnet8", "--width", 4, "--resize", "squash",
             "--image_size", "24,32", "--channels", 1, "--num_epochs", 2)  # fmt: skip
    done = fork("train.py", *flags, "--log_dir", tmp_path / "trained")
    assert done.status == 0, done
    trained = only(tmp_path / "trained")
    config = yaml.safe_load((trained / "config.yaml").read_text())
    seen = json.loads((trained / "preprocessing.json").read_text())
    assert config["image_size"] == seen["image_size"] == [24, 32] and config["resize"] == seen["resize"] == "squash"
    assert len(config["mean"]) == 1 and config["mean"] == seen["mean"] and seen["confirmed_by"] == "training"
    assert json.loads((trained / "report.json").read_text())["preprocessing"] == seen
    weights = ("--weight_path", trained / "model.pt")
    done = fork("test.py", *weights, "--output", tmp_path / "judged.json")
    assert done.status == 0 and "warning" not in done.out, done
    judged = json.loads((tmp_path / "judged.json").read_text())["preprocessing"]
    assert judged == {**seen, "confirmed_by": "run"}
    done = fork("test.py", *weights, "--resize", "fit", "--output", tmp_path / "other.json")
    assert json.loads((tmp_path / "other.json").read_text())["preprocessing"]["confirmed_by"] != "run"


def test_the_order_of_the_outputs(office, told, tmp_path):
    """A model whose outputs stand in another order than the folders is named, and told."""
    state = torch.load(office / "squash.pth", weights_only=True)
    order = torch.tensor([2, 0, 1])
    torch.save({name: value[order] if name.startswith("fc.") else value for name, value in state.items()},
               office / "ordered.pth")  # fmt: skip
    known = (*QUICK, "--resize", "squash", *KNOWN)
    assert_refused(unlearn(office, "ordered", tmp_path, *known), UNLEARN, "set another --class_order (")
    (tmp_path / "classes.txt").write_text("kind2\nkind0\nkind1\n")
    done = unlearn(office, "ordered", tmp_path / "runs", *known, "--class_order", tmp_path / "classes.txt")
    assert done.status in (0, 4), done
    run = only(tmp_path / "runs")
    assert report_of(run)["preprocessing"]["accuracy"] == pytest.approx(
        report_of(told("squash")[0])["preprocessing"]["accuracy"], abs=1
    )
    assert fork("test.py", "--verify", run).status == 0
