"""Whether the model sees here what it saw in its training: by its accuracy, and by what confirms it."""

import dataclasses
import json
from pathlib import Path

import torch
from torch import nn

from data.preprocessing import as_flags, names_code
from data.views import fixed_sample
from helper_functions.config import Percentage
from helper_functions.errors import UserError
from helper_functions.files import write_json
from helper_functions.record import RunRecord
from helper_functions.training.distribution import from_main
from helper_functions.training.inference import predict
from unlearning.evaluator import RETAIN_SAMPLE
from unlearning.experiment import Experiment
from unlearning.preprocessing_search import POINT, at_chance, find_better

FILE = "preprocessing.json"


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
