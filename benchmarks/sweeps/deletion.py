"""How long a deletion request takes, end to end: a folder of pictures, a model, a list of pictures to forget.

    python -m benchmarks.sweeps.deletion --output docs/deletion.json

Makes the folder out of some classes of a data set, trains the model on it once, and answers one request a seed with the
command of docs/deletion.md, as a process that is timed from its start to its end. A model retrained without the
pictures, by the same recipe, gives the cost of the alternative.
"""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

from benchmarks.leaderboard.trained_models import Training
from benchmarks.sweeps.sweep import command_line
from data.datasets import load_dataset
from data.preprocessing import Preprocessing
from data.random_streams import random_state
from data.split_record import Splits
from helper_functions.config import NonNegativeFloat, PositiveInt, ScriptParser, Seed, run_script
from helper_functions.errors import UserError
from helper_functions.files import check_folder_of, key_of, load_tensors, save_config, save_tensors, write_json
from helper_functions.training.devices import choose_device, choose_precision, describe_environment

SCRIPT = Path(__file__).parents[2] / "train_constrained_unlearning.py"
NORMALISATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # of the model, trained elsewhere
# Flags that stand in no record, and flags of the requests, on which folder and models do not depend.
PLACES = ("data_dir", "log_dir", "output")
ASKED = ("log_dir", "output", "retain_budget", "seeds")
FIGURES = ("retain_top1", "forget_top1", "unseen_top1", "test_top1")


@dataclasses.dataclass
class Args:
    """Flags of benchmarks.sweeps.deletion."""

    data_dir: str = "data/cifar100"
    """Folder of the data set of the pictures, named after it."""
    log_dir: str = "runs/deletion"
    """Folder of the pictures, the models and the runs."""
    output: str | None = None
    """JSON file of the measurements, replaced where it exists; by default none is written."""
    classes: PositiveInt = 10
    """Classes of the data set, spread over its list."""
    pictures: PositiveInt = 2000
    """Pictures in the folder, the same number of each class."""
    withdrawn: PositiveInt = 60
    """Pictures to forget."""
    image_size: PositiveInt = 64
    """Pictures are scaled to squares of this many pixels."""
    train_num_epochs: PositiveInt = 20
    """Epochs in which the model and the retrained model are trained."""
    train_batch_size: PositiveInt = 64
    """Pictures in one gradient step of these trainings."""
    retain_budget: NonNegativeFloat = 1.0
    """Accuracy points on the retain set that forgetting may cost."""
    seeds: PositiveInt = 3
    """Requests for the same pictures, each with its own seed."""
    seed: Seed = 0
    """Seed of the folder and of the model."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of all models, as in train_constrained_unlearning.py."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.sweeps.deletion", __doc__)


def main(args: Args) -> dict:
    """Make the folder, train, answer the requests, print a line for each; returns what was measured."""
    check_folder_of("output", args.output)
    flags = dataclasses.asdict(args)
    folder = Path(args.log_dir) / key_of({name: value for name, value in flags.items() if name not in ASKED})
    make_pictures(args, folder / "photos")
    place = {"dataset": "imagefolder", "data_dir": f"{folder}/photos", "image_size": args.image_size, **NORMALISATION}
    place |= {"model": "resnet18", "precision": args.precision}
    withdrawn = {"forget": f"file:{folder}/withdrawn.txt"}
    recipe = {"num_epochs": args.train_num_epochs, "batch_size": args.train_batch_size}
    save_config({**place, **recipe}, folder / "train.yaml")
    training = Training(str(folder / "train.yaml"), str(folder / "models"))
    original = training.original("", args.seed)
    write_lists(args, folder, original / "splits.npz")
    again = {"seed": args.seed, "splits": original / "splits.npz", **withdrawn, "retain_only": True}
    retrained = json.loads((training.run("retrained", again) / "report.json").read_text())
    weights = load_tensors(original / "model.pt", "train it again")
    save_tensors({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, folder / "theirs.pth")
    asked = {**place, **withdrawn, "validation": f"file:{folder}/held_out.txt", "weight_path": folder / "theirs.pth"}
    asked |= {"retain_budget": args.retain_budget, "log_dir": folder / "runs"}
    requests = [answer({**asked, "seed": seed}) for seed in range(args.seeds)]
    cost, device = retrained["cost"]["retrained"]["seconds"], choose_device()
    print(f"training again without them, {args.train_num_epochs} passes: {cost:.0f} s")
    result = {
        "settings": {name: value for name, value in flags.items() if name not in PLACES},
        "requests": requests, "retraining_seconds": cost,
        "precision": str(choose_precision(device, args.precision).dtype), "environment": describe_environment(device),
    }  # fmt: skip
    if args.output is not None:
        write_json(Path(args.output), result)
    return result


def make_pictures(args: Args, folder: Path) -> None:
    """Write `CLASS/NUMBER.png`; a UserError where the data set has too few classes or pictures."""
    dataset = load_dataset(Path(args.data_dir).name, args.data_dir)
    each, labels = args.pictures // args.classes, dataset.labels[: dataset.num_train]
    chosen = range(0, dataset.num_classes, max(dataset.num_classes // args.classes, 1))[: args.classes]
    if len(chosen) < args.classes or labels.bincount()[chosen].min() < each:
        raise UserError(f"--pictures {args.pictures}: {dataset.name} has no {args.classes} classes of {each} pictures")
    for label in chosen:
        place = folder / dataset.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate((labels == label).nonzero()[:each, 0].tolist()):
            pixels = dataset.images[image].permute(1, 2, 0).expand(-1, -1, 3)
            Image.fromarray(pixels.numpy()).save(place / f"{number:04d}.png")


def write_lists(args: Args, folder: Path, splits: Path) -> None:
    """Write `held_out.txt`, all that the model never saw, and `withdrawn.txt`, drawn from its training images."""
    drawn = Splits.load(splits, load_dataset("imagefolder", folder / "photos", Preprocessing(args.image_size)))
    if args.withdrawn >= len(drawn.train):
        raise UserError(f"--withdrawn {args.withdrawn}: the model was trained on {len(drawn.train)} pictures")
    order = torch.from_numpy(random_state(args.seed, "deletion").permutation(len(drawn.train)))
    held_out = torch.cat([drawn.validation, drawn.unseen, drawn.test])
    for part, images in {"held_out": held_out, "withdrawn": drawn.train[order[: args.withdrawn]]}.items():
        names = [drawn.file_names[image] for image in images.sort().values.tolist()]
        (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))


def answer(flags: dict) -> dict:
    """Run the main script as a process and print a line; its seconds from start to end, and figures of its report."""
    before = set(Path(flags["log_dir"]).glob("*"))
    began = time.monotonic()
    done = subprocess.run([sys.executable, SCRIPT, *command_line(flags)], capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode not in (0, 3, 4):
        raise UserError(done.stderr.strip().splitlines()[-1])
    (run,) = set(Path(flags["log_dir"]).glob("*")) - before
    report = json.loads((run / "report.json").read_text())
    cost, unlearned, verdict = report["cost"]["unlearned"], report["models"]["unlearned"], report["verdict"]
    figures = {model: {name: report["models"][model][name] for name in FIGURES} for model in ("original", "unlearned")}
    change = {name: " to ".join(f"{each[name]:.1f}" for each in figures.values()) for name in FIGURES}
    print(
        f"seed {flags['seed']}: {seconds:.0f} s, {cost['seconds']:.0f} of them unlearning; "
        f"retain {verdict['slack'] - verdict['retain_budget']:+.1f} points, forget {change['forget_top1']}, "
        f"unseen {change['unseen_top1']}, {verdict['outcome']}", flush=True,
    )  # fmt: skip
    return {
        "seed": flags["seed"], "seconds": seconds, "unlearning_seconds": cost["seconds"],
        "gradient_steps": cost["gradient_steps"], "verdict": verdict, **figures,
        "attack_auc": [unlearned[f"mia_auc{end}"] for end in ("", "_low", "_high")],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
