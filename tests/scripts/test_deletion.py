"""docs/deletion.md followed to the letter, as processes: foreign pictures and weights, and two requests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from helpers.processes import REPOSITORY
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18

PAGE = (REPOSITORY / "docs" / "deletion.md").read_text()
SCHEMA = json.loads((REPOSITORY / "docs" / "report.schema.json").read_text())
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
COLOURS = {"apple": (200, 40, 40), "leaf": (40, 180, 40), "sky": (40, 60, 200)}
EACH, HELD_OUT, SIZE = 14, 6, 64
# The run folder that the page shows stands for the one that the first command makes.
SHOWN = "runs/dsr-117-20261124-100000"


def picture(rng: np.random.Generator, colour: tuple[int, ...]) -> Image.Image:
    """Noise of one colour, so coarse that 64 pixels hold little."""
    coarse = np.clip(np.array(colour) + rng.normal(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((SIZE, SIZE))


def inputs(folder: Path, names: list[str]) -> Tensor:
    pixels = np.stack([np.array(Image.open(folder / name)) for name in names])
    return ((torch.from_numpy(pixels) / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def trained_elsewhere(images: Tensor, labels: Tensor) -> nn.Module:
    """Plain PyTorch, without a line of this project."""
    torch.manual_seed(0)
    model = resnet18(num_classes=len(COLOURS))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(9):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Path:
    """A folder with photos/, theirs.pth, held_out.txt, withdrawn.txt and second.txt, in which the commands run."""
    folder, rng = tmp_path_factory.mktemp("office"), np.random.default_rng(0)
    names = {kind: [f"{kind}/IMG_{number:04d}.png" for number in range(EACH)] for kind in COLOURS}
    for kind, colour in COLOURS.items():
        (folder / "photos" / kind).mkdir(parents=True)
        for name in names[kind]:
            picture(rng, colour).save(folder / "photos" / name)
    seen = [name for kind in COLOURS for name in names[kind][HELD_OUT:]]
    labels = torch.arange(len(COLOURS)).repeat_interleave(EACH - HELD_OUT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = trained_elsewhere(inputs(folder / "photos", seen), labels)
    torch.set_num_threads(threads)
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 8, "model": wrapped}, folder / "theirs.pth")
    lists = {
        "held_out": [name for kind in COLOURS for name in names[kind][:HELD_OUT]],
        "withdrawn": ["apple/IMG_0009.png", "sky/IMG_0011.png", "apple/IMG_0013.png"],
        "second": ["leaf/IMG_0010.png", "sky/IMG_0012.png"],
    }
    for name, listed in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(listed) + "\n")
    return folder


def command(beginning: str) -> str:
    """The command of the page that begins so, on one line."""
    (found,) = (block for block in re.findall(r"^```\n(.*?)^```$", PAGE, re.M | re.S) if block.startswith(beginning))
    return found.replace("\\\n", " ")


def shell(office: Path, line: str) -> subprocess.CompletedProcess:
    """As typed in the office, with this interpreter and the scripts where they are."""
    line = re.sub(r"^python (\w+\.py)", rf"{sys.executable} {REPOSITORY}/\1", line)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, shell=True, cwd=office, env=environment, capture_output=True, text=True, timeout=300)


def newest(office: Path, name: str) -> tuple[Path, dict]:
    folder = sorted((office / "runs").glob(f"{name}-*"))[-1]
    return folder, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def first(office) -> tuple[Path, dict, str]:
    """The page's one command: its run folder, its report, and what it said."""
    done = shell(office, command("python train_constrained_unlearning.py --dataset"))
    assert done.returncode == 0 and done.stderr == "", done
    return *newest(office, "dsr-117"), done.stdout


def test_weights_come_back_in_the_form_they_came_in(office, first):
    folder = first[0]
    theirs = torch.load(office / "theirs.pth", weights_only=True)["model"]
    found = torch.load(folder / "unlearned.pth", weights_only=True)
    assert list(found) == ["model"], "what was learned from the pictures beside the weights is not carried over"
    assert {name: value.dtype for name, value in found["model"].items()} == {
        name: value.dtype for name, value in theirs.items()
    }
    assert any(not torch.equal(value, theirs[name]) for name, value in found["model"].items())
    model = resnet18(num_classes=len(COLOURS))
    model.load_state_dict({name.removeprefix("module."): value for name, value in found["model"].items()})
    said = first[2]
    assert str(Path("runs") / folder.name / "unlearned.pth") in said and "left out, since" in said and "epoch" in said


def test_the_report_says_what_was_asked_and_fits_its_schema(office, first):
    folder, report, _ = first
    jsonschema.validate(report, SCHEMA)
    request = report["request"]
    digest = shell(office, command("LC_ALL=C sort")).stdout.split()[0]
    assert (request["images"], request["sha256"]) == (3, digest)
    page = (folder / "report.html").read_text()
    for word in ("DSR 2026-117", "customer 4711", digest):
        assert word in json.dumps(report) and word in page
    assert "IMG_0009" not in page, "the list itself is nobody's business"


def test_it_can_be_checked(office, first):
    done = shell(office, command("python test.py --verify").replace(SHOWN, f"runs/{first[0].name}"))
    assert done.returncode == 0, done


def test_the_next_request_keeps_the_first_ones_pictures_out(office, first):
    done = shell(
        office, command("python train_constrained_unlearning.py --previous_run").replace(SHOWN, f"runs/{first[0].name}")
    )
    assert done.returncode == 0 and done.stderr == "", done
    folder, report = newest(office, "unlearning")
    splits = np.load(folder / "splits.npz")
    names = sorted(str(path.relative_to(office / "photos")) for path in (office / "photos").glob("*/*"))
    parts = {part: {names[index] for index in splits[part]} for part in ("forget", "forgotten", "retain", "train")}
    listed = {name: set((office / f"{name}.txt").read_text().split()) for name in ("withdrawn", "second", "held_out")}
    assert parts["forget"] == listed["second"] and parts["forgotten"] == listed["withdrawn"]
    assert parts["retain"] == set(names) - listed["withdrawn"] - listed["second"] - listed["held_out"]
    assert report["request"]["id"] == "DSR 2026-131" and report["sequence"]["number"] == 2
    assert (folder / "unlearned.pth").exists()
