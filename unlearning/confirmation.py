"""Whether the model sees here what it saw in its training: its accuracy, and what other preprocessing would give."""

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from data.loaders import TensorLoader
from data.pictures.listing import read_pictures
from data.preprocessing import Preprocessing, as_flags, names_code
from data.views import evaluation_batch, fixed_sample
from helper_functions.config import Percentage
from helper_functions.errors import UserError
from helper_functions.files import write_json
from helper_functions.progress import progress
from helper_functions.record import RunRecord
from helper_functions.training.distribution import from_main
from helper_functions.training.inference import predict
from unlearning.evaluator import RETAIN_SAMPLE, paired_fall
from unlearning.experiment import Experiment

FILE = "preprocessing.json"
# Training images that other preprocessing is tried on: all combinations, and the best of them. How many are decoded at
# a time.
FIRST, SAMPLE, CHUNK = 100, 500, 50
BEST = 8
# Accuracy points that count as the same.
POINT = 1.0
# A gain counts from so many one-sided 95 % margins on, since some ten are compared.
MARGINS = 1.5
RESIZES = ("short", "squash", "fit")
# Sides that are tried where none is stated, and the size of a usual resize over that of the crop after it.
SIDES, LARGER = (32, 64, 96, 128, 224), 256 / 224
# Mean and standard deviation by the number of channels: ImageNet's or MNIST's, between -1 and 1, none.
NORMALISATIONS = {
    3: [([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3), ([0.0] * 3, [1.0] * 3)],
    1: [([0.1307], [0.3081]), ([0.5], [0.5]), ([0.0], [1.0])],
}


@dataclasses.dataclass
class KnownArgs:
    """What is known of weights from elsewhere."""

    expected_accuracy: Percentage | None = None
    """Top-1 accuracy, in per cent, that the original has on its training images. A run is refused where it differs by
    more than a point here: the pictures are preprocessed in another way than in training."""


@dataclasses.dataclass(frozen=True)
class Confirmation:
    """How the original's preprocessing is confirmed.

    accuracy: top-1 in per cent on `retain`, `forget`, `train` (both) and `held_out` images, None for a part without
    any. confirmed_by: `training` in this run, the `run` that the weights come from, the `expected_accuracy`, an
    `accuracy` of nearly all, a `comparison` with other preprocessing; None: it is unconfirmed. warning: why.
    """

    accuracy: dict[str, float | None]
    confirmed_by: str | None
    warning: str | None = None

    def lines(self) -> list[str]:
        """For the terminal."""
        parts = {"retain": "retain", "forget": "forget", "held_out": "held-out"}
        known = [f"{self.accuracy[part]:.2f} % of {name}" for part, name in parts.items() if self.accuracy[part]]
        said = [f"original {', '.join(known)} images right"] if known else []
        return said + ([f"warning  preprocessing unconfirmed: {self.warning}"] if self.warning else [])

    def entry(self, experiment: Experiment) -> dict:
        """For reports, with what the model sees."""
        return {**experiment.seen(), **dataclasses.asdict(self)}

    def save(self, record: RunRecord, experiment: Experiment) -> dict:
        """Write the entry as `FILE`; returns it."""
        write_json(record.path(FILE), self.entry(experiment))
        return self.entry(experiment)


def confirm(
    experiment: Experiment, model: nn.Module, source: str | None, expected: float | None, *, refuse: bool = True
) -> Confirmation:
    """Measure the original, and confirm its preprocessing where that is possible.

    Args:
        experiment: data, as they are preprocessed here.
        model: the original.
        source: its file of weights; None: it was trained in this run.
        expected: as --expected_accuracy.
        refuse: whether weights at chance are refused, since forgetting them would prove nothing.

    Raises:
        UserError: the accuracy on training images is not the expected one, or a guess is about as good.
    """
    accuracy = accuracies(experiment, model)
    train, held_out = accuracy["train"], accuracy["held_out"]
    if source is None:
        return Confirmation(accuracy, "training")
    if expected is not None and abs(train - expected) <= POINT:
        return Confirmation(accuracy, "expected_accuracy")
    guessed = refuse and at_chance(train, experiment.dataset.num_classes)
    told = from_main(lambda: _of_run(source, experiment))
    if told is not None and expected is None and not guessed:
        if told.get("confirmed_by") is not None:
            return Confirmation(accuracy, "run")
        return Confirmation(accuracy, None, f"it was so in {Path(source).parent}; state --expected_accuracy")
    if expected is None and train >= 100 - POINT:
        return Confirmation(accuracy, "accuracy")
    better = find_better(experiment, model)
    remedy = better or f"check {_causes(experiment)}"
    right = f"{train:.2f} % of the training images are right"
    if expected is not None:
        raise UserError(f"--expected_accuracy {expected:g}: {right}; {remedy}")
    if guessed:
        raise UserError(f"--weight_path {source}: {right}, little more than by guessing; {remedy}")
    if better or (held_out is not None and train - held_out < POINT):
        why = better or f"{right}, hardly more than of held-out ones; {remedy}"
        return Confirmation(accuracy, None, f"{why}, or state --expected_accuracy")
    return Confirmation(accuracy, "comparison")


def kept(folder: Path) -> Confirmation | None:
    """That of an earlier run; None where it had not come so far."""

    def read() -> Confirmation | None:
        if not (folder / FILE).is_file():
            return None
        try:
            told = json.loads((folder / FILE).read_text())
            return Confirmation(**{field.name: told[field.name] for field in dataclasses.fields(Confirmation)})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{folder / FILE} is damaged; copy it anew, or run it again") from None

    return from_main(read)


def accuracies(experiment: Experiment, model: nn.Module) -> dict[str, float | None]:
    """As `Confirmation.accuracy`: by given labels, of retain images at most `RETAIN_SAMPLE`."""
    splits, found = experiment.splits, {}
    parts = {
        "retain": fixed_sample(splits.retain, RETAIN_SAMPLE), "forget": splits.forget,
        "held_out": torch.cat([splits.validation, splits.unseen]),
    }  # fmt: skip
    for name, images in parts.items():
        found[name] = None
        if len(images):
            logits, labels = predict(model, experiment.sets.evaluation(images), experiment.precision)
            found[name] = 100 * (logits.argmax(1) == labels).double().mean().item()
    sizes = {name: len(getattr(splits, name)) for name in ("retain", "forget") if found[name] is not None}
    right = sum(found[name] * size for name, size in sizes.items())
    found["train"] = right / sum(sizes.values()) if sizes else None
    return from_main(lambda: found)


def find_better(experiment: Experiment, model: nn.Module) -> str | None:
    """Which flags to set so that clearly more training images are right; None where no common preprocessing does it.

    All combinations are tried on `FIRST` training images and the best of them on `SAMPLE`. Of those that are not
    clearly worse than the best, the one with the fewest changes is named.
    """
    now, splits = experiment.dataset.preprocessing, experiment.splits
    images = fixed_sample(splits.train, SAMPLE)

    def tried(others: list[Preprocessing], images: Tensor) -> list[_Trial]:
        labels, found = splits.labels[images], []
        for one, predicted in zip(others, _predicted(experiment, model, images, others), strict=True):
            found.append(_Trial(one, _difference(now, one), False, predicted == labels))
            found.append(_Trial(one, _difference(now, one), True, _in_own_order(predicted, labels) == labels))
        return found

    first = sorted(tried(_combined(experiment), fixed_sample(images, FIRST)), key=lambda trial: -trial.right.sum())
    trials = tried([now, *(trial.preprocessing for trial in first[:BEST])], images)
    trials += tried(_further(experiment, max(trials, key=_Trial.share).preprocessing), images)
    best = max(trials, key=_Trial.share)
    near = [trial for trial in trials if not _gains(trial.right, best.right)]
    chosen = min(near, key=lambda trial: (len(trial.changed) + trial.reordered, -trial.share()))
    flags = [as_flags(chosen.changed)] * bool(chosen.changed) + ["another --class_order"] * chosen.reordered
    if not flags or at_chance(chosen.share(), experiment.dataset.num_classes):
        return None
    before = f"training images right instead of {trials[0].share():.1f} %"
    return f"set {' and '.join(flags)} ({chosen.share():.1f} % of {len(images)} {before})"


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Right answers `[n]` under a preprocessing with `changed` fields, the classes `reordered` as fits best or not."""

    preprocessing: Preprocessing
    changed: dict[str, object]
    reordered: bool
    right: Tensor

    def share(self) -> float:
        """Of right answers, in per cent."""
        return 100 * self.right.double().mean().item()


def at_chance(top1: float, num_classes: int) -> bool:
    """Whether an accuracy in per cent is at most twice that of a guess, or ten points above it where that is less."""
    guess = 100 / num_classes
    return top1 <= guess + min(guess, 10)


def _of_run(source: str, experiment: Experiment) -> dict | None:
    """The `FILE` beside weights, where it describes the present preprocessing."""
    try:
        told = json.loads(Path(source).with_name(FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    seen = {name: value for name, value in experiment.seen().items() if name != "data_dir"}
    return told if isinstance(told, dict) and all(told.get(name, ...) == seen[name] for name in seen) else None


def _causes(experiment: Experiment) -> str:
    """The likely causes of another accuracy, the likeliest first, with their present values."""
    seen = experiment.dataset.preprocessing.stated()
    groups = [("resize", "resize_size", "crop"), ("mean", "std"), ("image_size",)]
    if names_code(seen.get("transform")):
        groups = [("transform",)]
    shown = [as_flags({name: seen[name] for name in group if name in seen}) for group in groups]
    others = ["--class_order", f"--stem {experiment.args.stem}, or give your own --transform"]
    return ", ".join([*filter(None, shown), *others])


def _combined(experiment: Experiment) -> list[Preprocessing]:
    """Common ways to resize and crop, normalisations and, where none is stated, sizes, in all combinations."""
    dataset, now = experiment.dataset, experiment.dataset.preprocessing
    shapes = [now]
    if _is_free(experiment):
        sizes = [now.image_size]
        if not experiment.size_stated:
            sizes += [[side, side] for side in SIDES if [side, side] != now.image_size]
        plain = dataclasses.replace(now, transform=None, crop=None)
        shapes = [
            dataclasses.replace(plain, image_size=size, resize=resize, resize_size=resized).resolved()
            for size in sizes for resize in RESIZES
            for resized in (None, max(round(side * LARGER) for side in size)) if resized is None or resize != "fit"
        ]  # fmt: skip
    kinds = [] if dataset.images.is_floating_point() else NORMALISATIONS.get(dataset.in_channels, [])
    kinds = [(now.mean, now.std), *kinds]
    return [dataclasses.replace(shape, mean=mean, std=std) for shape in shapes for mean, std in kinds]


def _further(experiment: Experiment, now: Preprocessing) -> list[Preprocessing]:
    """Other interpolations, and the other orientation of photographs."""
    if not _is_free(experiment):
        return []
    changes = [{"interpolation": name} for name in ("bilinear", "bicubic") if name != now.interpolation]
    changes.append({"exif_orientation": not now.exif_orientation})
    return [dataclasses.replace(now, **change) for change in changes]


def _is_free(experiment: Experiment) -> bool:
    """Whether pictures can be preprocessed otherwise: they are files, and not the user's own code reads them."""
    dataset = experiment.dataset
    return dataset.name == "imagefolder" and not names_code(dataset.preprocessing.transform)


def _difference(now: Preprocessing, other: Preprocessing) -> dict[str, object]:
    """The fields in which another preprocessing differs; `resize_size` only where either is not just `image_size`."""
    changed = {name: value for name, value in other.stated().items() if value != getattr(now, name)}
    if other.resize_size and all(one.resize_size == one.image_size for one in (now, other)):
        changed.pop("resize_size", None)
    return changed


def _predicted(
    experiment: Experiment, model: nn.Module, images: Tensor, tried: list[Preprocessing]
) -> list[Tensor]:
    """Predicted classes of images, int64 `[n]` on the CPU, under each preprocessing; -1 where the model refuses it."""
    dataset, labels = experiment.dataset, experiment.splits.labels
    decoded = [dataclasses.replace(one, mean=None, std=None, transform=None) for one in (*tried, dataset.preprocessing)]
    own = decoded.pop()
    readers = [None if one == own or dataset.name != "imagefolder" else one.reader() for one in decoded]
    found: list[list[Tensor]] = [[] for _ in tried]
    for part in progress(images.split(CHUNK), "checking the preprocessing"):
        wanted = [reader for reader in readers if reader is not None]
        read = iter(())
        if wanted:
            names = [dataset.file_names[image] for image in part.tolist()]
            read = iter(read_pictures(Path(experiment.args.data_dir or f"data/{dataset.name}"), names, wanted))
        for one, reader, classes in zip(tried, readers, found, strict=True):
            pixels = dataset.images[part] if reader is None else torch.from_numpy(next(read)).permute(0, 3, 1, 2)
            device = experiment.precision.device
            loader = TensorLoader(
                pixels, labels[part], torch.arange(len(part)), evaluation_batch(tuple(pixels.shape[2:]), device),
                mean=one.mean or dataset.mean, std=one.std or dataset.std, device=device,
            )  # fmt: skip
            try:
                classes.append(predict(model, loader, experiment.precision)[0].argmax(1).cpu())
            except (RuntimeError, AssertionError):  # a model that takes no images of this size
                classes.append(torch.full_like(part, -1))
    return from_main(lambda: [torch.cat(classes) for classes in found])


def _in_own_order(predicted: Tensor, labels: Tensor) -> Tensor:
    """Predicted classes, renamed to the labels of most of their images; as they are where two labels claim one."""
    renamed = predicted.clone()
    known = labels[predicted >= 0].unique().tolist()
    usual = {label: predicted[labels == label].mode().values.item() for label in known}
    if len(set(usual.values())) < len(usual):
        return renamed
    for label, output in usual.items():
        renamed[predicted == output] = label
    return renamed


def _gains(before: Tensor, after: Tensor) -> bool:
    """Whether clearly more images are right, of bool `[n]` each: by a point, and by more than chance."""
    gain, margin = paired_fall(after, before)
    return gain >= POINT and gain > MARGINS * margin
