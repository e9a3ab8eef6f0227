"""Image folders that do not fit in memory: building the file of pixels, reading it, training and unlearning from it.

    python -m benchmarks.speed.scale --output docs/performance/scale.json
    python -m benchmarks.speed.scale --pictures 2000 --large 200 --folder runs/scale-small --rounds 1

Makes two folders of JPEG files, whose classes are colours and stripes, and measures in parts, each of which stands in
the output when it is done: decoding into the file against Pillow alone on all cores; the start of a second run;
gradient steps from memory, from the file and from the file after its pages were dropped; the bytes that each of several
ranks gathers; weights from memory and from the file; training and unlearning under a limit of anonymous memory; and
unlearning as many pictures of a tenth of the folder.
"""

import dataclasses
import gc
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
import PIL
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

from data.augmentation import Augmentation
from data.datasets import Dataset, load_dataset
from data.loaders import TensorLoader
from data.pictures.pixel_cache import newest, place_of
from data.preprocessing import Preprocessing
from data.splits import make_splits
from helper_functions.code_version import code_version, code_words
from helper_functions.config import PositiveFloat, PositiveInt, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import check_folder_of, make_folder, write_json
from helper_functions.training.devices import choose_device, choose_precision, describe_environment
from models.classifiers import get_model
from optimizer.training import EmpiricalRisk

REPOSITORY = Path(__file__).parents[2]
CLASSES, SAMPLE = 10, 2000
# Pictures from which a model has learned the classes.
LEARNED = 20_000
# Of a folder's pictures: side, model of the step, images in one, steps of a measurement, and images in a step of the
# runs: few of the large ones, whose activations would not fit under the limit.
SIDES = {"small": (64, "resnet18", 128, 16, 64), "large": (224, "resnet50", 32, 3, 8)}
RANKS = (1, 2, 4)
# Settings that a record's parts share.
SHARED = ("pictures", "large", "limit")


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
    """JSON file to write after each part; parts that it holds are not measured again."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.speed.scale", __doc__)


@dataclasses.dataclass
class Bench:
    """One folder of pictures, and what is measured on it."""

    args: Args
    name: str
    count: int

    def __post_init__(self) -> None:
        self.side, self.model, self.batch_size, self.steps, self.few = SIDES[self.name]
        self.home = Path(self.args.folder)

    def load(self, cache: str = "disk", folder: str | None = None) -> Dataset:
        """The data set of the folder, or of another one beside it."""
        return load_dataset(
            "imagefolder", self.home / (folder or self.name), Preprocessing(self.side), cache=cache,
            cache_dir=self.home / "cache",
        )  # fmt: skip

    def build(self) -> dict:
        """Decoding into the file, and pictures a second of Pillow alone before and after it."""
        folder = self.home / self.name
        shutil.rmtree(place_of(self.home / "cache", folder, Preprocessing(self.side).resolved()), ignore_errors=True)
        before = pillow_rate(folder)
        began = time.perf_counter()
        size = self.load().images.nbytes
        seconds = time.perf_counter() - began
        pillow = [before, pillow_rate(folder)]
        rate = self.count / seconds
        ratio = rate / statistics.mean(pillow)
        return {"seconds": seconds, "bytes": size, "images_per_second": rate, "pillow": pillow, "ratio": ratio}

    def start(self) -> dict:
        """Seconds that a second run takes for its data set and its splits."""
        began = time.perf_counter()
        dataset = self.load()
        loaded = time.perf_counter()
        make_splits(dataset, f"random:{self.forgotten}images")
        return {"load_seconds": loaded - began, "split_seconds": time.perf_counter() - loaded}

    def reading(self) -> dict:
        """Images a second of gradient steps and of a loader alone, from each place; those from the disk read bytes."""
        disk = self.load()
        # Reads the whole file.
        memory = dataclasses.replace(disk, images=disk.images[:])
        places: dict[str, list[tuple[float, float]]] = {"memory": [], "disk": [], "disk, cold": []}
        for _ in range(self.args.rounds):
            places["memory"].append(self.rates(memory))
            places["disk"].append(self.rates(disk))
        # Mapped pages stay where they are.
        del memory, disk
        gc.collect()
        before = bytes_read()
        for _ in range(self.args.rounds):
            places["disk, cold"].append(self.rates(None))
        found = {}
        for number, what in enumerate(("steps", "loader")):
            rates = {place: [each[number] for each in pairs] for place, pairs in places.items()}
            ratios = [disk / memory for disk, memory in zip(rates["disk"], rates["memory"], strict=True)]
            median = {place: statistics.median(values) for place, values in rates.items()}
            found[what] = {"median": median, "ratio": statistics.median(ratios), "all": rates}
        return {**found, "cold_bytes_read": bytes_read() - before}

    def rates(self, dataset: Dataset | None) -> tuple[float, float]:
        """Images a second of gradient steps and of the loader; without a data set, of one no pixel of which is cached.
        """
        found = []
        for steps, measured in ((self.steps, step_rate), (40, fetch_rate)):
            given = self.cold() if dataset is None else dataset
            found.append(measured(given, self.model, self.batch_size, steps, self.args.device))
        return tuple(found)

    def cold(self) -> Dataset:
        """The data set, its pixels dropped from the page cache."""
        gc.collect()
        dataset = self.load()
        os.sync()
        with open(newest(dataset.pixel_file).folder / "pixels.npy", "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return dataset

    def ranks(self) -> dict:
        """Bytes that each of several ranks gathers, over Gloo."""
        return {
            str(ranks): json.loads(
                limited(
                    None, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", ranks,
                    "-m", "benchmarks.speed.gathered", self.home / self.name, self.side, self.home / "cache",
                )["last"]
            )
            for ranks in RANKS
        }  # fmt: skip

    def same_bits(self) -> dict:
        """Whether training from memory and from the file end with the same weights, on a folder that fits."""
        folder, weights = f"{self.name}-sample", []
        make_pictures(self.home / folder, self.side, min(self.count, SAMPLE))
        for place in ("memory", "disk"):
            _, run = self.train(place, folder, None)
            weights.append(torch.load(run / "model.pt", weights_only=True))
        first, second = weights
        return {"pictures": min(self.count, SAMPLE), "same": all(torch.equal(first[key], second[key]) for key in first)}

    def train(self, place: str, folder: str, limit: float | None, may_fail: bool = False) -> tuple[dict, Path | None]:
        """One pass of training, more of few pictures; its run folder, if it has succeeded."""
        ended = limited(
            limit, "train.py", *self.flags(folder), "--num_epochs", -(-LEARNED // self.size(folder)),
            "--batch_size", self.few, "--learning_rate", 0.05, "--cache", place,
            "--name_prefix", f"{folder}-{place}",
        )  # fmt: skip
        return ended, None if may_fail and ended["status"] else self.run_of(ended, f"{folder}-{place}")

    def unlearn(self, folder: str, weights: Path) -> dict:
        """Unlearning of 1 % of the whole folder's pictures, in this folder, under the limit; one pass of fine-tuning.
        """
        ended = limited(
            self.args.limit, "train_constrained_unlearning.py", *self.flags(folder), "--cache", "disk",
            "--weight_path", weights, "--near_duplicates", "off", "--name_prefix", f"{folder}-unlearned",
            "--finetune_num_epochs", 1, "--batch_size", self.few, "--retain_batch_size", 2 * self.few,
        )  # fmt: skip
        report = json.loads((self.run_of(ended, f"{folder}-unlearned") / "report.json").read_text())
        figures = ("retain_top1", "forget_top1", "test_top1")
        models = {model: {key: found[key] for key in figures} for model, found in report["models"].items()}
        return ended | {"cost": report["cost"]["unlearned"], "models": models}

    def runs(self) -> dict:
        """Training from memory, training and unlearning from the file, under the limit; the cost of training again."""
        found = {"memory": self.train("memory", self.name, self.args.limit, may_fail=True)[0]}
        found["disk"], run = self.train("disk", self.name, self.args.limit)
        found["disk"]["cost"] = json.loads((run / "report.json").read_text())["cost"]["original"]
        return found | {"unlearned": self.unlearn(self.name, run / "model.pt")}

    def tenth(self) -> dict:
        """Unlearning of as many pictures in a tenth of the folder."""
        folder, count = f"{self.name}-tenth", self.count // 10
        for path in (self.home / self.name).glob("*/*.jpg"):
            link = self.home / folder / path.parent.name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if int(path.stem) < count and not link.exists():
                link.hardlink_to(path)
        _, run = self.train("disk", folder, None)
        return {"pictures": count} | self.unlearn(folder, run / "model.pt")

    @property
    def forgotten(self) -> int:
        return max(1, self.count // 100)

    def size(self, folder: str) -> int:
        return sum(1 for _ in (self.home / folder).glob("*/*.jpg"))

    def flags(self, folder: str) -> tuple:
        """What all runs on a folder share; of few pictures, larger parts are held out."""
        size = self.size(folder)
        share = min(0.2, max(0.02, 400 / size))
        return (
            "--dataset", "imagefolder", "--data_dir", self.home / folder, "--image_size", self.side,
            "--model", "resnet8", "--width", 8, "--figures", "False", "--log_dir", self.home,
            "--cache_dir", self.home / "cache", "--validation", share, "--test", share,
            "--forget", f"random:{min(self.forgotten, max(1, size // 10))}images", "--device", self.args.device,
        )  # fmt: skip

    def run_of(self, ended: dict, name: str) -> Path:
        """The last run folder of a name; UserError where the script has failed."""
        if ended["status"] not in (0, 3, 4):
            raise UserError(f"--{'pictures' if self.name == 'small' else self.name} {self.count}: {ended['last']}")
        return max(self.home.glob(f"{name}-2*"), key=lambda path: path.stat().st_mtime)


# Parts of the record for each folder.
PARTS = {
    "small": (Bench.build, Bench.start, Bench.reading, Bench.ranks, Bench.same_bits, Bench.runs, Bench.tenth),
    "large": (Bench.build, Bench.start, Bench.reading, Bench.same_bits, Bench.runs),
}


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


def pillow_rate(folder: Path) -> float:
    """Pictures a second that Pillow decodes to arrays on all cores, which leaves the files in the page cache."""
    paths = [str(path) for path in sorted(folder.glob("*/*.jpg"))]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_decode, paths[:64], chunksize=1))  # starts the processes
        began = time.perf_counter()
        list(pool.map(_decode, paths, chunksize=64))
        return len(paths) / (time.perf_counter() - began)


def loader_of(dataset: Dataset, batch_size: int, device: torch.device) -> TensorLoader:
    """Batches of random images of the data set, augmented."""
    return TensorLoader(
        dataset.images, dataset.labels, torch.arange(len(dataset.labels)), batch_size, mean=dataset.mean,
        std=dataset.std, augmentation=Augmentation(8), shuffle=True, device=device,
    )  # fmt: skip


def step_rate(dataset: Dataset, model_name: str, batch_size: int, steps: int, device: str) -> float:
    """Images a second of gradient steps on random images of the data set; the first step is not counted."""
    precision = choose_precision(choose_device(device, False), "auto")
    torch.manual_seed(0)
    model = get_model(model_name, CLASSES, 3, "imagenet", 64, dataset.image_size).to(precision.device)
    model = model.to(memory_format=torch.channels_last)
    loader = loader_of(dataset, batch_size, precision.device)
    risk, optimizer = EmpiricalRisk(model, precision), torch.optim.SGD(model.parameters(), 0.01)
    seen = 0
    for step, batch in zip(range(steps + 1), loader.batches(0), strict=False):
        risk(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += len(batch[1])
        if step == 0:
            seen, began = 0, time.perf_counter()
    return seen / (time.perf_counter() - began)


def fetch_rate(dataset: Dataset, _: str, batch_size: int, batches: int, device: str) -> float:
    """Images a second that a loader alone gives."""
    loader = loader_of(dataset, batch_size, choose_device(device, False))
    began = time.perf_counter()
    seen = sum(len(labels) for _, (_, labels) in zip(range(batches), loader.batches(0), strict=False))
    return seen / (time.perf_counter() - began)


def bytes_read() -> int:
    """Bytes that this process has had read from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def limited(limit: float | None, *command: object) -> dict:
    """Status, seconds and last line of a script, under a limit of anonymous memory in GiB unless it is None."""
    size = None if limit is None else int(limit * 2**30)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True,
        # Or else freed activations stay in a heap that they leave full of holes.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
        preexec_fn=None if size is None else lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size)),
    )  # fmt: skip
    lines = (done.stderr if done.returncode in (1, 2) else done.stdout).strip().splitlines()
    last = lines[-1].replace(f"{REPOSITORY}/", "") if lines else ""
    return {"status": done.returncode, "seconds": time.perf_counter() - began, "last": last}


def main(args: Args) -> dict:
    """Measure what the output does not hold; prints and writes each part."""
    check_folder_of("output", args.output)
    args.folder = str(make_folder("folder", args.folder).resolve())
    settings = {key: getattr(args, key) for key in SHARED}
    found = {"settings": settings, "small": {}, "large": {}}
    if args.output is not None and Path(args.output).is_file():
        found = json.loads(Path(args.output).read_text())
        if found.get("settings") != settings:
            raise UserError(f"--output {args.output}: its parts have other settings than {settings}; name a new file")
    version = code_words(code_version())
    found["environment"] = {**describe_environment(choose_device(args.device, False)), "pillow": PIL.__version__}
    for name, count in (("small", args.pictures), ("large", args.large)):
        make_pictures(Path(args.folder) / name, SIDES[name][0], count)
        for part in PARTS[name]:
            if part.__name__ in found[name]:
                continue
            began = time.perf_counter()
            result = {"code": version, **part(Bench(args, name, count))}
            found[name][part.__name__] = result | {"part_seconds": time.perf_counter() - began}
            print(json.dumps({name: {part.__name__: found[name][part.__name__]}}, indent=2), flush=True)
            if args.output is not None:
                write_json(Path(args.output), found)
    return found


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
