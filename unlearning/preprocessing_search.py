"""Which common preprocessing makes clearly more training images right than the present one."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from data.loaders import TensorLoader
from data.pictures.listing import read_pictures
from data.preprocessing import Preprocessing, as_flags, names_code
from data.views import evaluation_batch, fixed_sample
from helper_functions.progress import progress
from helper_functions.training.distribution import from_main
from helper_functions.training.inference import predict
from unlearning.evaluator import paired_fall
from unlearning.experiment import Experiment

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
