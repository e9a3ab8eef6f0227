"""Image folders that do not fit in memory: building the file of pixels, reading it, training and unlearning from it.

    python -m benchmarks.speed.scale --output docs/performance/scale.json
    python -m benchmarks.speed.scale --pictures 2000 --large 200

Makes two folders of JPEG files, whose classes are colours and stripes, and measures: decoding into the file against
Pillow alone on all cores; the start of a second run; gradient steps from memory, from the file and from the file after
its pages were dropped, in turns; training and unlearning under a limit of anonymous memory, with each place for the
pixels.
"""

import dataclasses
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

from data.augmentation import Augmentation
from data.datasets import Dataset, load_dataset
from data.loaders import TensorLoader
from data.preprocessing import Preprocessing
from helper_functions.config import PositiveFloat, PositiveInt, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import make_folder, write_json
from helper_functions.training.devices import choose_device, choose_precision, describe_environment
from models.classifiers import get_model
from optimizer.training import EmpiricalRisk

REPOSITORY = Path(__file__).parents[2]
CLASSES = 10
# Of the classes' pictures: side, model of the step, and images in one.
SIDES = {"small": (64, "resnet18", 128), "large": (224, "resnet50", 32)}
PLACES = ("memory", "disk")


@dataclasses.dataclass
class Args:
    """Flags of benchmarks.speed.scale."""

    pictures: PositiveInt = 200_000
    """Pictures of 64 pixels."""
    large: PositiveInt = 20_000
    """Pictures of 224 pixels."""
    folder: str = "runs/scale"
    """Where pictures, the files of pixels and the runs are; pictures that are there are used again."""
    rounds: PositiveInt = 3
    """Measurements of steps from each place."""
    limit: PositiveFloat = 1.5
    """GiB of anonymous memory for training and unlearning."""
    output: str | None = None
    """JSON file to write; it is replaced."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.speed.scale", __doc__)


def draw(path: Path, side: int, number: int) -> None:
    """One picture of class `number % CLASSES`: a hue and a direction of stripes, with noise and a random phase."""
    rng = np.random.RandomState(number)
    label = number % CLASSES
    rows, columns = np.mgrid[:side, :side] / side
    angle, phase = np.pi * label / CLASSES, rng.rand() * 6
    stripes = np.sin(20 * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
    hue = 100 + 60 * np.sin(2 * np.pi * (label / CLASSES + np.arange(3) / 3))
    noise = rng.randint(-40, 41, (side // 4, side // 4, 3)).repeat(4, 0).repeat(4, 1)
    pixels = hue + 40 * stripes[..., None] + noise[:side, :side]
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def make_pictures(folder: Path, side: int, count: int) -> None:
    """A folder of so many pictures, unless it is there."""
    if (folder / "done").is_file() and (folder / "done").read_text() == str(count):
        return
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    paths = [folder / f"class{number % CLASSES}" / f"{number:07}.jpg" for number in range(count)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw, paths, [side] * count, range(count), chunksize=64))
    (folder / "done").write_text(str(count))


def _decode(path: str) -> int:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).nbytes


def pillow_rate(folder: Path, limit: int = 20_000) -> float:
    """Pictures a second that Pillow decodes to arrays on all cores, the files in the page cache."""
    paths = [str(path) for path in sorted(folder.glob("*/*.jpg"))[:limit]]
    with ProcessPoolExecutor() as pool:
        began = time.perf_counter()
        list(pool.map(_decode, paths, chunksize=64))
        return len(paths) / (time.perf_counter() - began)


def load(folder: Path, cache: str, side: int) -> tuple[Dataset, float]:
    """The data set and the seconds that loading it took."""
    began = time.perf_counter()
    dataset = load_dataset(
        "imagefolder", folder, Preprocessing(side), cache=cache, cache_dir=folder.parent / "cache"
    )
    return dataset, time.perf_counter() - began


def drop_pages(folder: Path) -> None:
    """Take the files of pixels out of the page cache."""
    os.sync()
    for path in folder.glob("*/pixels-*/pixels.npy"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def step_rate(dataset: Dataset, model_name: str, batch_size: int, steps: int, device: str) -> float:
    """Images a second of gradient steps on random images of the data set; the first step is not counted."""
    precision = choose_precision(choose_device(device, False), "auto")
    torch.manual_seed(0)
    model = get_model(model_name, CLASSES, 3, "imagenet", 64, dataset.image_size).to(precision.device)
    model = model.to(memory_format=torch.channels_last)
    loader = TensorLoader(
        dataset.images, dataset.labels, torch.arange(len(dataset.labels)), batch_size, mean=dataset.mean,
        std=dataset.std, augmentation=Augmentation(8), shuffle=True, device=precision.device,
    )  # fmt: skip
    risk, optimizer = EmpiricalRisk(model, precision), torch.optim.SGD(model.parameters(), 0.01)
    batches = loader.batches(0)
    for step, batch in zip(range(steps + 1), batches, strict=False):
        if step == 1:
            began = time.perf_counter()
        risk(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return steps * batch_size / (time.perf_counter() - began)


def fetch_rate(dataset: Dataset, batches: int = 200) -> float:
    """Images a second that a loader alone gives, augmented, in batches of 128."""
    loader = TensorLoader(
        dataset.images, dataset.labels, torch.arange(len(dataset.labels)), 128, mean=dataset.mean, std=dataset.std,
        augmentation=Augmentation(8), shuffle=True,
    )  # fmt: skip
    began = time.perf_counter()
    seen = sum(len(labels) for _, (_, labels) in zip(range(batches), loader.batches(0), strict=False))
    return seen / (time.perf_counter() - began)


def limited(limit: float, *command: object) -> dict:
    """Status, seconds and last line of a script under a limit of anonymous memory, in GiB."""
    size = int(limit * 2**30)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size)),
    )  # fmt: skip
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return {"status": done.returncode, "seconds": time.perf_counter() - began, "last": lines[-1] if lines else ""}


def newest(folder: Path, pattern: str) -> Path:
    """The last run folder of a name."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime)


def measure_folder(args: Args, name: str, count: int) -> dict:
    """Everything but the runs, of one folder."""
    side, model, batch_size = SIDES[name]
    home = make_folder("folder", Path(args.folder))
    folder = home / name
    make_pictures(folder, side, count)
    found = {"pictures": count, "side": side, "model": model, "batch_size": batch_size}
    rates = {"pillow": pillow_rate(folder)}
    shutil.rmtree(home / "cache", ignore_errors=True)
    dataset, seconds = load(folder, "disk", side)
    found["build"] = rates | {"seconds": seconds, "ours": count / seconds, "bytes": dataset.images.nbytes}
    found["second_start_seconds"] = load(folder, "disk", side)[1]
    sample = home / f"{name}-sample"
    make_pictures(sample, side, min(count, 2000))
    memory, _ = load(sample, "memory", side)
    steps = 8 if name == "small" else 4
    measured: dict[str, list[float]] = {"memory": [], "disk": [], "disk, cold": []}
    for _ in range(args.rounds):
        measured["memory"].append(step_rate(memory, model, batch_size, steps, args.device))
        measured["disk"].append(step_rate(dataset, model, batch_size, steps, args.device))
        drop_pages(home / "cache")
        measured["disk, cold"].append(step_rate(dataset, model, batch_size, steps, args.device))
    found["steps"] = {place: {"median": statistics.median(rates), "all": rates} for place, rates in measured.items()}
    found["loader"] = {"memory": fetch_rate(memory, 15), "disk": fetch_rate(dataset, 15)}
    drop_pages(home / "cache")
    found["loader"]["disk, cold"] = fetch_rate(dataset, 15)
    return found


def measure_runs(args: Args, name: str, count: int) -> dict:
    """Training, unlearning of 1 % and retraining under the limit, for one folder."""
    side, home = SIDES[name][0], Path(args.folder)
    flags = (
        "--dataset", "imagefolder", "--data_dir", home / name, "--image_size", side, "--model", "resnet8", "--width", 8,
        "--figures", "False", "--log_dir", home, "--cache_dir", home / "cache", "--validation", "0.02",
        "--test", "0.02", "--forget", f"random:{max(1, count // 100)}images",
    )  # fmt: skip
    train = ("--num_epochs", 1, "--batch_size", 256, "--learning_rate", 0.05)
    found = {}
    for place in PLACES:
        prefix = ("--cache", place, "--name_prefix", f"{name}-{place}")
        found[place] = {"train": limited(args.limit, "train.py", *flags, *train, *prefix)}
    weights = newest(home, f"{name}-disk-2*") / "model.pt"
    found["disk"]["unlearn"] = limited(
        args.limit, "train_constrained_unlearning.py", *flags, "--cache", "disk", "--weight_path", weights,
        "--name_prefix", f"{name}-unlearned", "--near_duplicates", "off",
    )  # fmt: skip
    if found["disk"]["unlearn"]["status"] not in (0, 3, 4):
        raise UserError(f"--{'pictures' if name == 'small' else name} {count}: {found['disk']['unlearn']['last']}")
    report = json.loads((newest(home, f"{name}-unlearned-2*") / "report.json").read_text())
    found["cost"] = {
        model: {key: cost[key] for key in ("seconds", "images", "gradient_steps")}
        for model, cost in report["cost"].items()
    }
    trained = json.loads((weights.parent / "report.json").read_text())
    found["cost"]["trained"] = trained["cost"]["original"]
    found["figures"] = {
        model: {key: figures[key] for key in ("retain_top1", "forget_top1", "test_top1")}
        for model, figures in report["models"].items()
    }
    return found


def main(args: Args) -> dict:
    """Measure both folders; prints and writes what was found."""
    found = {"environment": describe_environment(choose_device(args.device, False))}
    for name, count in (("small", args.pictures), ("large", args.large)):
        found[name] = measure_folder(args, name, count) | {"runs": measure_runs(args, name, count)}
        print(json.dumps({name: found[name]}, indent=2), flush=True)
        if args.output is not None:
            write_json(Path(args.output), found)
    return found


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
