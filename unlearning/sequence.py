"""A request after others: continues from a run that unlearned, within one budget for the whole sequence."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from torch import nn

from data.views import fixed_sample
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.run_folder import ORIGINAL, RESULTS, result_weights
from helper_functions.training.distribution import from_main
from helper_functions.training.inference import predict
from helper_functions.wording import counted
from unlearning.evaluator import JUDGED, paired_fall
from unlearning.experiment import Experiment
from unlearning.known_weights import DESCRIBING, MODEL, TREATMENT, refuse_code
from unlearning.methods import get_method

# Flags that a later request cannot change: data, their parts, and the model.
SAME = ("dataset", *MODEL, *TREATMENT, "validation", "test", "subset")
# Flags that it takes over as well, unless they are given.
TAKEN_OVER = (
    *DESCRIBING, "validation", "test", "subset", "augmentation", "cutout", "seed", "retain_budget", "train_num_epochs",
    "train_batch_size", "train_learning_rate", "train_weight_decay", "train_schedule", "trainable",
)  # fmt: skip
# Digits of points to which spending is rounded, upwards.
DIGITS = 4


@dataclasses.dataclass
class SequenceArgs:
    """A request after others."""

    previous_run: str | None = None
    """Run folder of an earlier request: this one goes on from its weights, splits, multiplier and what is left of
    --retain_budget, which is one for the whole sequence. Flags of data and model come from there."""
    with_copies: bool = False
    """Also forget the retain images that equal a forget image pixel by pixel."""


@dataclasses.dataclass(frozen=True)
class Previous:
    """The run of the request before: its folder, flags and report; UserError where this lacks a number."""

    folder: Path
    config: dict
    report: dict

    @classmethod
    def read(cls, folder: str) -> "Previous":
        """A finished run that kept its budget, whether it has forgotten or not; UserError where there is none."""
        return from_main(lambda: _read(Path(folder)))

    @property
    def weights(self) -> Path:
        """Where its result lies: in the form that weights from elsewhere came in, which the next run keeps."""
        given = [path for pattern in ("unlearned.*", "not_forgotten*.*") for path in sorted(self.folder.glob(pattern))]
        return next((path for path in given if path.name not in RESULTS), result_weights(self.folder))

    @property
    def asked_again(self) -> int:
        """Its images, where it has not forgotten them: they join the next request."""
        forgotten = self.report["verdict"].get("forgotten") is True
        return 0 if forgotten else int(self._number("images", "forget"))

    @property
    def number(self) -> int:
        """Its place in the sequence, from 1."""
        return int(self._number("number", "sequence", 1))

    @property
    def multiplier(self) -> float | None:
        """As it was learned there; None where its method had none."""
        found = self._number("multiplier", "forget", None)
        return None if found is None else max(0.0, found)

    @property
    def spent(self) -> float:
        """Points spent after it, by its own account: what had been spent before, and its own fall."""
        before = self._number("budget_spent", "sequence", 0.0)
        budget, slack, margin = (self._number(name, "verdict") for name in ("retain_budget", "slack", "margin"))
        return max(0.0, before + budget - slack + margin)

    def first_original(self) -> Path | None:
        """The weights that the sequence began with, None where they are gone."""
        folder, config = self.folder, self.config
        for _ in range(self.number - 1):
            folder = Path(str(config.get("previous_run")))
            if not (folder / "config.yaml").is_file():
                return None
            config = load_config(folder / "config.yaml")
        path = Path(config.get("weight_path") or folder / ORIGINAL)
        return path if path.is_file() and config.get("previous_run") is None else None

    def _number(self, name: str, part: str, *default: float | None) -> float | None:
        values = self.report.get(part, {})
        found = values.get(name, *default) if isinstance(values, dict) else self
        if default and found is default[0]:
            return found
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise UserError(f"--previous_run {self.folder}: its report.json has no sound {part}.{name}; run it again")
        return found


def _read(folder: Path) -> Previous:
    flag = f"--previous_run {folder}"
    config, report = finished(folder, flag)
    if report["verdict"].get("feasible") is not True:
        raise UserError(f"{flag}: that run ended infeasible; go on from one that kept its budget, or run it again")
    for path in (result_weights(folder), folder / "splits.npz"):
        if not path.is_file():
            raise UserError(f"{flag}: its {path.name} is gone; put it back, or run it again")
    return Previous(folder, config, report)


def finished(folder: Path, flag: str) -> tuple[dict, dict]:
    """Flags and report of a run that has unlearned; a UserError that begins with `flag` where there is none."""
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{flag}: no run folder (it has no config.yaml)")
    config = load_config(folder / "config.yaml")
    if not config.keys() >= set(TAKEN_OVER) - set(TREATMENT):
        raise UserError(f"{flag}: that run did not unlearn, or was made by another version; name one that did")
    if not (folder / "report.json").is_file():
        raise UserError(f"{flag}: that run has not ended (it has no report.json); continue it by --resume {folder}")
    try:
        report = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{flag}: its report.json cannot be read; copy it anew, or run it again") from None
    verdict = report.get("verdict") if isinstance(report, dict) else None
    if not isinstance(verdict, dict):
        raise UserError(f"{flag}: that run forgot nothing (its report has no verdict); name one that did")
    return config, report


def taken_over(asked: Any) -> dict[str, object]:
    """Flags that a request takes over from the run before; empty where it is the first.

    The multiplier is among them where the solver is the same and both methods have one. The scale of the step belongs
    to one learning rate and one forget set, and is found again within a few epochs.
    """
    if asked.previous_run is None:
        return {}
    previous = Previous.read(asked.previous_run)
    refuse_code(previous.config, asked, f"--previous_run {asked.previous_run}")
    found = {name: previous.config[name] for name in TAKEN_OVER if previous.config.get(name) is not None}
    found["weight_path"] = str(previous.weights)
    same_solver = previous.config.get("solver") == asked.solver and get_method(asked.method).constrained
    if same_solver and previous.multiplier is not None:
        found["multiplier"] = previous.multiplier
    return found


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A request's place among others, as the report gives it.

    Args:
        previous_run: run folder of the request before.
        number: this one's place, from 1.
        budget_spent: points by which retain accuracy had fallen below the first original before this request.
        forgotten_images: how many images earlier requests forgot.
        multiplier: first value of the multiplier, where it is the last one of the run before.
        asked_again: images of the run before, which kept the budget but did not forget them; they join this request.
    """

    previous_run: str
    number: int
    budget_spent: float
    forgotten_images: int
    multiplier: float | None
    asked_again: int

    def left_of(self, budget: float) -> float:
        """What is left of the whole sequence's budget, in points; UserError where nothing is."""
        left = budget - self.budget_spent
        if left <= 0 and self.budget_spent > 0:
            raise UserError(
                f"--retain_budget {budget:g}: earlier requests have spent {self.budget_spent:.2f} points of it, "
                f"{max(0.0, left):.2f} are left; raise it, or retrain (train.py --retain_only)"
            )
        return round(left, DIGITS)

    def __str__(self) -> str:
        images = f"{counted(self.forgotten_images, 'image')} forgotten before"
        if self.asked_again:
            images += f", {self.asked_again:,} that the request before did not forget are asked for again"
        return f"request {self.number}; {images}, {self.budget_spent:.2f} points of the budget spent"


def check_previous(args: Any) -> Previous:
    """The run before a request; UserError where a flag contradicts it."""
    previous = Previous.read(args.previous_run)
    if args.weight_path is None or Path(args.weight_path) != previous.weights:
        raise UserError(
            f"--weight_path {args.weight_path}: --previous_run continues from {previous.weights}; leave one of them out"
        )
    if args.splits is not None:
        raise UserError(f"--splits {args.splits}: --previous_run continues from its own splits; leave one of them out")
    if args.forget is None and args.requests is None and args.resume is None:
        raise UserError(f"--previous_run {args.previous_run}: name what is to be forgotten next by --forget")
    for name in SAME:
        before, now = previous.config.get(name), getattr(args, name)
        if before != now and before != "auto":
            raise UserError(f"--{name} {now}: it was {before} in {previous.folder}; leave it out, or begin anew")
    return previous


def follow(previous: Previous, args: Any, experiment: Experiment, model: nn.Module) -> Sequence:
    """Where a request stands, before anything is forgotten.

    What has been spent is measured anew, on the images that this request retains: the fall of accuracy from the first
    original, whose weights are looked for where the sequence began, to the model of the run before. So the verdict
    within what is left is one on the first original. Where these weights are gone, the account of the run before is
    taken, which was kept on the images that it retained. It is never less than 0: what was gained is not spent.

    Args:
        previous: the run before.
        args: flags of this one.
        experiment: data of this one.
        model: that it starts from.

    Raises:
        UserError: images that are asked for again have another target.
    """
    target = previous.report["forget"].get("target") if previous.asked_again else None
    if target not in (None, experiment.target(args.forget_target)):
        raise UserError(
            f"--forget {experiment.splits.forget_request}: it joins {previous.folder}, which was not forgotten; "
            f"give its --forget_target {target}, or run that request again with a larger --retain_budget"
        )
    first, spent = previous.first_original(), previous.spent
    if first is not None:
        images = fixed_sample(experiment.splits.retain, args.judged_retain_images or JUDGED)
        right = []
        for compared in (experiment.model(str(first)), model):
            logits, labels = predict(compared, experiment.sets.evaluation(images), experiment.precision)
            right.append(logits.argmax(1) == labels)
        spent = max(0.0, sum(paired_fall(*right, len(experiment.splits.retain))))
    spent = from_main(lambda: math.ceil(spent * 10**DIGITS) / 10**DIGITS)
    carried = previous.multiplier if previous.config.get("solver") == args.solver else None
    return Sequence(
        args.previous_run, previous.number + 1, spent, experiment.splits.num_forgotten,
        carried if carried == args.multiplier else None, previous.asked_again
    )  # fmt: skip
