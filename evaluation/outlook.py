"""What a run is about to do, and what is known of its end: every run prints it, a dry run adds the time."""

import bisect
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from data.arguments import dataset_name
from data.datasets import DOWNLOADED
from helper_functions.errors import UserError
from helper_functions.wording import counted
from unlearning.dial import FINER_SHARES, SHARES
from unlearning.evaluator import UNSEEN_TOLERANCE, ZERO_TOLERANCE, keeps_budget, met_before, paired_fall
from unlearning.run import UnlearningRun
from unlearning.setup import PreparedRun

# Steps that are timed, after as many that warm up.
TIMED = 3


@dataclasses.dataclass
class DryRunArgs:
    """A rehearsal."""

    dry_run: bool = False
    """Check the request, print what the run would do, how long it would take and whether there is anything to forget;
    write nothing."""


def check_dry_run(args: Any) -> None:
    """Refuse what leaves nothing to rehearse, and data that would have to be downloaded, by a UserError."""
    if not args.dry_run:
        return
    if args.resume is not None:
        raise UserError(f"--dry_run: --resume {args.resume} goes on with a run that has begun; leave one of them out")
    if not args.untrain:
        raise UserError("--dry_run: --untrain False forgets nothing; leave one of them out")
    name = dataset_name(args)
    folder = args.data_dir or f"data/{name}"
    if name in DOWNLOADED and not Path(folder).is_dir():
        remedy = f"run python -m data.prepare --dataset {name} --data_dir {folder}"
        raise UserError(f"--dry_run: {folder} is not there, and nothing is downloaded; {remedy}")


def outlook(run: PreparedRun, unlearning: UnlearningRun) -> list[str]:
    """Lines for the terminal: method and steps, whether there is anything to forget, and what the budget rests on."""
    said = {"plan": _plan(run, unlearning), "aim": _aim(run, unlearning), "budget": _budget(unlearning)}
    return [f"{word:8s} {line}" for word, line in said.items()]


def rehearse(run: PreparedRun, unlearning: UnlearningRun) -> dict:
    """Print how long the run would take; returns the figures that the lines rest on.

    The method's own steps are timed on the copy of the original that `unlearning` has.
    """
    began = time.perf_counter()
    unlearning.measure()
    measuring = time.perf_counter() - began
    stages, turned = unlearning.trainer.planned(), run.args.dial is not None
    measured = sum(passes for _, passes, _, _ in stages) + (len(SHARES) - 1) * unlearning.method.constrained
    images = _trained_images(run) + sum(images for *_, images in stages)
    seconds, rate = len(FINER_SHARES) * measuring, None
    if not turned:
        rate = _rate(unlearning)
        seconds = None if rate is None else images / rate + measured * measuring
    if seconds is None:
        why = "its first steps become NaN or infinite" if stages else "the method does all at once"
        print(f"time     unknown: {why}")
    else:
        pace = f"at {rate:,.0f} images with gradients a second" if rate else "without gradients"
        print(f"time     about {max(seconds, 1):,.0f} s here {pace}, the final judgement apart")
    print("dry run  nothing has been written")
    return {
        "dry_run": {
            "method": unlearning.name, "target": unlearning.target.name, "stages": [] if turned else stages,
            "seconds": seconds, "met_before": None if _is_untrained(run) else _is_met(unlearning),
            "least_visible_fall": _visible(unlearning), "original": unlearning.original,
        }
    }  # fmt: skip


def least_visible_fall(budget: float, images: int) -> float | None:
    """Points that so many held-out images have to lose, with none gained, before they break a budget; None: never."""

    def breaks(lost: int) -> bool:
        return not keeps_budget(budget, (0.0, 0.0), paired_fall(torch.ones(images), torch.arange(images) >= lost))

    lost = bisect.bisect_left(range(images + 1), True, key=breaks)
    return None if lost > images else 100 * lost / images


def _plan(run: PreparedRun, unlearning: UnlearningRun) -> str:
    args = run.args
    if getattr(args, "dial", None) is not None:
        return f"{len(FINER_SHARES)} points of the line of {args.dial}, without gradients"
    first = ""
    if _is_untrained(run):
        first = f"train the original ({counted(args.train_num_epochs, 'pass')}); "
    stages = [
        f"{name}: {counted(passes, 'pass')}, {counted(steps, 'step')}, {counted(images, 'image')} with gradients"
        for name, passes, steps, images in unlearning.trainer.planned()
    ]
    return f"{first}{unlearning.name}, target {unlearning.target.name}; {'; '.join(stages) or 'all at once'}"


def _aim(run: PreparedRun, unlearning: UnlearningRun) -> str:
    if _is_untrained(run):
        return "the original's accuracies, and whether there is anything to forget, are known once it is trained"
    if _is_met(unlearning):
        return "nothing measurable to forget: the original treats these images as it should at the end"
    target, figures = unlearning.target.name, unlearning.original
    top1, unseen = figures["forget/top1"], figures["unseen/top1"]
    aims = {
        "unseen": f"{unseen + UNSEEN_TOLERANCE:.2f} % (unseen images: {unseen:.2f} %)", "zero": f"{ZERO_TOLERANCE:g} %",
        "chance": f"{100 / unlearning.evaluator.num_classes:.2f} %, on given labels",
    }  # fmt: skip
    return f"forget accuracy is {top1:.2f} %, and counts as forgotten at no more than {aims[target]}"


def _budget(unlearning: UnlearningRun) -> str:
    evaluator, visible = unlearning.evaluator, _visible(unlearning)
    budget, held_out = unlearning.args.retain_budget, len(evaluator.original_right[1])
    steered = "likely kept, since weights outside of it are not taken" if unlearning.method.constrained else (
        f"open, since {unlearning.name} is not steered by it")  # fmt: skip
    sampled = f"{len(evaluator.retain_labels):,} of {evaluator.retain_images:,} retain images"
    shows = "cannot show" if visible is None else f"shows from {visible:.1f} points on"
    few = "" if visible is not None and visible <= 2 * budget else ": too few, hold out more (--validation)"
    rests = f"measured on {sampled} and {held_out:,} held-out ones, whose fall {shows}{few}"
    return f"{budget:g} point{'s' * (budget != 1)}: {steered}; {rests}"


def _visible(unlearning: UnlearningRun) -> float | None:
    return least_visible_fall(unlearning.args.retain_budget, len(unlearning.evaluator.original_right[1]))


def _is_met(unlearning: UnlearningRun) -> bool:
    return met_before(unlearning.target.name, unlearning.original, unlearning.evaluator.num_classes)


def _is_untrained(run: PreparedRun) -> bool:
    """Whether the original has its first weights, since a dry run does not train it."""
    return run.record is None and run.args.weight_path is None


def _trained_images(run: PreparedRun) -> int:
    """Images with gradients of the models that the run trains before."""
    splits, args = run.experiment.splits, run.args
    passes = len(splits.train) * _is_untrained(run) + len(splits.retain) * args.retrain
    return args.train_num_epochs * passes


class _TimedEnough(Exception):
    """The run may end."""


class _Clock:
    """In place of a run's record: writes nothing, and ends the run once enough steps are timed."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self.intervals = 0

    def path(self, name: str) -> Path:
        raise _TimedEnough  # a step became NaN or infinite

    def scalars(self, figures: dict[str, float], step: int) -> None:
        self.rate, self.intervals = figures.get("images_per_second", self.rate), self.intervals + 1
        if self.intervals == 2:
            raise _TimedEnough


def _rate(unlearning: UnlearningRun) -> float | None:
    """Images with gradients a second in a method's first steps; None for a method that does all at once."""

    def measure() -> None:
        raise _TimedEnough

    if not unlearning.trainer.planned():
        return None
    clock = unlearning.record = _Clock()
    unlearning.log_interval, unlearning.measure = TIMED, measure
    try:
        unlearning.run()
    except _TimedEnough:
        return clock.rate
    raise AssertionError("a pass ends with a measurement")
