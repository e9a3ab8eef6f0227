"""Originals and retrained models of a sweep: each is trained once and found by the hash of its configuration.

Forget sets by memorisation stand here too, since they need models that were trained on one half of the images.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import train
from benchmarks.sweeps.sweep import RunAll, command_line, results_of
from data.random_streams import random_state
from evaluation.report.record import file_digest
from helper_functions.errors import UserError
from helper_functions.files import check_file, key_of, load_config
from helper_functions.run_folder import result_weights, run_quietly
from helper_functions.training.inference import predict
from unlearning.experiment import Experiment

# Flags that do not change what a run computes (--sync_bn needs several ranks, a cell has one).
ELSEWHERE = (
    "log_dir", "name_prefix", "resume", "device", "precision", "deterministic", "sync_bn", "data_on_device", "compile",
    "compile_mode", "log_interval", "figures", "data_dir", "on_nan", "cache", "cache_dir",
)  # fmt: skip
# Records from before there were these flags keep their hashes where they have these values.
LATER = {"exclude": None, "groups": None, "requests": None, "labels": "fine", "cache": "auto", "subset": None}
THIRDS = ("low", "middle", "high")
SHARE = 0.1  # of the training images in a set by memorisation: the size of random:0.1


def model_key(config: dict) -> str:
    """Hash of a training's configuration without `ELSEWHERE`, of files by their content; they have to exist."""
    values = {name: value for name, value in config.items() if name not in ELSEWHERE}
    values = {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}
    for name in ("splits", "forget"):
        path = Path(str(values.get(name) or "").removeprefix("file:"))
        if name == "splits" and values.get(name) or str(values.get(name)).startswith("file:"):
            check_file(name, path)
            values[name] = file_digest(path)
    if not values.get("retain_only"):
        values["forget"] = original_of(values.get("forget"))
    return key_of(values)


def original_of(forget: str | None) -> str | None:
    """The forget set as far as an original depends on it: wrong labels are drawn before training, other sets after."""
    return forget if str(forget).startswith("mislabelled") else None


def cache_of(original: str) -> dict[str, str]:
    """The flag that has a run find the file of pixels that the training of its original has built."""
    return {"cache_dir": f"{Path(original).parent}/cache"}


@dataclasses.dataclass(frozen=True)
class Training:
    """Models of a sweep, trained with the flags of `config_file` into run folders in `log_dir`, if not there yet."""

    config_file: str
    log_dir: str

    def original(self, forget: str, seed: int) -> Path:
        """The run folder of an original."""
        corrupted = original_of(forget)
        return self.run("original", {"seed": seed, **({"forget": corrupted} if corrupted else {})})

    def retrained(self, forget: str, seed: int, further: int = 0) -> Path:
        """The run folder of a retrained model on the original's splits, trained from seed + `further`."""
        asked = {"splits": self.original(forget, seed) / "splits.npz", "forget": forget}
        if further:
            # A random forget set is drawn by the run's seed: this run takes the set of the first one's splits, and
            # names none, unless the configuration names this very set.
            asked = {"splits": self.retrained(forget, seed) / "splits.npz"}
            if load_config(Path(self.config_file)).get("forget") != forget:
                asked["forget"] = None
        return self.run("retrained", {"seed": seed + further, "retain_only": True, **asked})

    def run(self, name: str, flags: dict) -> Path:
        """The folder of a finished run of train.py with these flags; starts or resumes it first if necessary."""
        argv = command_line({"config_file": self.config_file, **flags, "figures": False, "log_dir": self.log_dir})
        key = model_key(dataclasses.asdict(train.get_parser().parse(argv)))
        found = [path.parent for path in sorted(Path(self.log_dir).glob(f"*{key}*/config.yaml"))]
        finished = [folder for folder in found if (folder / "report.json").exists()]
        if finished:
            return finished[0]
        return run_quietly(train, ["--resume", found[0]] if found else argv, f"{name}-{key}")[0]

    def experiment(self, original: Path, seed: int) -> Experiment:
        """Data, splits and models of an original."""
        argv = command_line({"config_file": self.config_file, "splits": original / "splits.npz", "seed": seed,
                             "log_dir": self.log_dir})  # fmt: skip
        return Experiment(train.get_parser().parse(argv))


class Measurement:
    """Measures models on the data of one original, against it and independently of the reports of the runs."""

    def __init__(self, training: Training, original: Path, seed: int) -> None:
        self.experiment = training.experiment(original, seed)
        self.splits = self.experiment.splits
        self.held_out = torch.cat([self.splits.validation, self.splits.unseen]).sort().values
        self.original = self.experiment.model(str(original / "model.pt"))

    def __call__(self, folder: Path, requests: list[Tensor]) -> dict:
        """Figures of a run's model that has forgotten these requests: fall of retain accuracy in points, and parts."""
        model, splits, forgotten = self.experiment.model(str(result_weights(folder))), self.splits, torch.cat(requests)
        retain = splits.train[~torch.isin(splits.train, forgotten)]
        top1, before = (self._figures(which, retain)["top1"] for which in (model, self.original))
        parts = {"held_out": self.held_out, "test": splits.test, "forgotten": forgotten}
        figures = {name: self._figures(model, images) for name, images in parts.items()}
        return {"fall": before - top1, **figures, "lots": [self._figures(model, images) for images in requests]}

    def _figures(self, model: nn.Module, images: Tensor) -> dict[str, float]:
        logits, labels = predict(model, self.experiment.sets.evaluation(images), self.experiment.precision)
        right = (logits.argmax(1) == labels).double().mean().item()
        return {"top1": 100 * right, "loss": F.cross_entropy(logits, labels).item()}


def train_originals(places: Iterable[dict], run_all: RunAll) -> None:
    """Train the missing originals of places, as `_train_original` takes them; several forget sets may share one."""
    alone = {(original_of(place["forget"]), place["seed"]): place for place in places}
    list(results_of(run_all(_train_original, alone.values(), title="originals")))


def _train_original(place: dict) -> None:
    Training(place["config_file"], place["log_dir"]).original(place["forget"], place["seed"])


def resolve(forget: str, training: Training, seed: int) -> str:
    """A forget set as the scripts name it: `memorised:low|middle|high` becomes `file:` with the list of its images.

    Thirds by memorisation are those of RUM (Zhao et al. 2024), here by the loss without training on the image.
    """
    kind, _, third = forget.partition(":")
    if kind != "memorised":
        return forget
    if third not in THIRDS:
        raise UserError(f"--forget {forget}: memorised:{', memorised:'.join(THIRDS)}")
    path = Path(training.log_dir) / f"memorised-{third}-{training.original(forget, seed).name}.txt"
    if not path.exists():
        path.write_text("\n".join(map(str, choose(score(training, seed), third, seed).tolist())) + "\n")
    return f"file:{path}"


def choose(scores: dict[int, float], third: str, seed: int) -> Tensor:
    """A tenth of all images, drawn from the low, middle or high third by score: sorted int64 indices."""
    ranked = torch.tensor(sorted(scores, key=lambda image: (scores[image], image)))
    part = ranked.tensor_split(len(THIRDS))[THIRDS.index(third)]
    order = random_state(seed, "memorised", THIRDS.index(third)).permutation(len(part))
    return part[torch.from_numpy(order[: round(SHARE * len(ranked))])].sort().values


def score(training: Training, seed: int) -> dict[int, float]:
    """The loss of each training image, by image, under the one of two models that was trained on the other half."""
    original = training.original("", seed)
    experiment = training.experiment(original, seed)
    images = experiment.splits.train
    order = torch.from_numpy(random_state(seed, "halves").permutation(len(images)))
    scores = {}
    for number, half in enumerate(images[order].tensor_split(2)):
        path = Path(training.log_dir) / f"half-{number}-{original.name}.txt"
        path.write_text("\n".join(map(str, half.sort().values.tolist())) + "\n")
        flags = {"seed": seed, "splits": original / "splits.npz", "forget": f"file:{path}", "retain_only": True}
        model = experiment.model(str(training.run("half", flags) / "model.pt"))
        logits, labels = predict(model, experiment.sets.evaluation(half), experiment.precision)
        losses = F.cross_entropy(logits, labels, reduction="none")
        scores |= dict(zip(half.tolist(), losses.tolist(), strict=True))
    return scores
