"""Checkpoints to judge: arguments and their checks, loading, and the figures that need more than a forward pass."""

import dataclasses

import torch
from torch import nn

from data.image_sets import ImageSets
from evaluation.attacks.klom import by_unlearned, klom
from evaluation.attacks.lira import FEWEST, Shadows
from evaluation.attacks.probe import linear_probe_top1
from evaluation.attacks.prototype import prototype_figures
from evaluation.attacks.relearn import relearn_steps
from evaluation.attacks.swap import swap_advantage
from evaluation.gaps import is_retrained, retrained_of
from evaluation.judge import ORIGINAL, Judgement
from helper_functions.config import NonNegativeInt
from helper_functions.errors import UserError
from helper_functions.files import check_file, check_new_file
from helper_functions.progress import progress
from helper_functions.training.devices import Precision
from helper_functions.training.distribution import world_size
from models.weights import reinitialised
from unlearning.confirmation import KnownArgs
from unlearning.experiment import Experiment

FLOOR = "re-initialised"
KLOM_PARTS = ("retain", "forget", "validation")


@dataclasses.dataclass
class FurtherArgs:
    """Figures that cost more than a forward pass."""

    relearn: bool = False
    """Count the gradient steps until accuracy on the forget set is that of the original again."""
    linear_probe: bool = False
    """Refit a linear classifier on frozen features and judge it on the forget set."""
    prototype: bool = False
    """Replace the head's rows of the forget set's classes by mean features of one or ten of its images, and judge on
    the others."""
    shadow_models: NonNegativeInt = 0
    """Number of shadow models of U-LiRA and the SWAP test, each trained and unlearned: even, at least 4; 0 turns both
    off."""


@dataclasses.dataclass
class CheckpointArgs(FurtherArgs, KnownArgs):
    """Checkpoints to judge."""

    weight_path: list[str] = dataclasses.field(default_factory=list)
    """One or several files of weights. If the first belongs to a run, its data and model are used unless flags name
    others."""
    original_weight_path: str | None = None
    """Weights of the original, which are judged as well; --relearn needs them."""
    retrained_weight_path: list[str] = dataclasses.field(default_factory=list)
    """Weights of one or several retrained models: gaps are to their mean, and the band spans them."""
    klom: bool = False
    """Take the files of --weight_path for runs of one method, and compare how their answers to each image vary with how
    those of the retrained models do (KLoM)."""
    shadow_config: str | None = None
    """config.yaml of an unlearning run: shadow models use its --train_ flags and its method."""
    shadow_method: str | None = None
    """The FILE.py:METHOD that --shadow_config names: code is run only where the user names it."""
    shadow_dir: str = "runs/shadows"
    """Folder of shadow models, by configuration, and of their originals, which all methods share; existing ones are
    reused."""
    output: str | None = None
    """JSON file for the figures; an existing file is not overwritten."""


def check_checkpoints(args: CheckpointArgs) -> None:
    """Check the arguments before any work; UserError with the flag and the remedy."""
    if not args.weight_path:
        raise UserError("--weight_path: give at least one file of weights")
    check_new_file("output", args.output)
    named = [("weight_path", path) for path in args.weight_path]
    named += [("retrained_weight_path", path) for path in args.retrained_weight_path]
    named += [("original_weight_path", args.original_weight_path), ("shadow_config", args.shadow_config)]
    for flag, path in named:
        if path is not None:
            check_file(flag, path)
    if args.relearn and args.original_weight_path is None:
        raise UserError("--relearn True: give --original_weight_path, whose forget accuracy is the goal")
    for flag in ("weight_path", "retrained_weight_path"):
        if args.klom and len(set(getattr(args, flag))) < 2:
            raise UserError(f"--klom True: give two or more different files of --{flag}")
    check_shadow_models(args.shadow_models)
    if args.shadow_models and world_size() > 1:
        raise UserError(f"--shadow_models {args.shadow_models}: they are trained in one process; do not use torchrun")
    if args.shadow_models and args.shadow_config is None:
        raise UserError(f"--shadow_models {args.shadow_models}: give --shadow_config, the method's config.yaml")
    if args.shadow_config is not None and not args.shadow_models:
        raise UserError(f"--shadow_config {args.shadow_config}: give their number by --shadow_models")


def check_shadow_models(count: int) -> None:
    """Check the number of shadow models, each target being in one half of them; UserError with the flag."""
    if count % 2 or 0 < count < FEWEST:
        raise UserError(f"--shadow_models {count}: give 0, or an even number of at least {FEWEST}")


def load_checkpoints(args: CheckpointArgs, experiment: Experiment) -> dict[str, nn.Module]:
    """The models to judge by name: original, files by their paths, a re-initialised one, retrained ones.

    Raises UserError where weights cannot be read or do not fit, a retrained model has another forget set, or flags need
    a forget set and there is none.
    """
    flags = ("retrained_weight_path", "relearn", "linear_probe", "prototype", "shadow_models")
    asked = [name for name in flags if getattr(args, name)]
    if asked and len(experiment.splits.forget) == 0:
        raise UserError(f"--{asked[0]}: these splits have no forget set; give one by --forget or --splits")
    models: dict[str, nn.Module] = {}
    if args.original_weight_path is not None:
        models[ORIGINAL] = experiment.model(args.original_weight_path)
    for path in args.weight_path:
        # A file may have the name of a model.
        name = f"./{path}" if path in (ORIGINAL, FLOOR) or is_retrained(path) else path
        models[name] = experiment.model(path)
    models[FLOOR] = reinitialised(next(iter(models.values())))
    for number, path in enumerate(args.retrained_weight_path, start=1):
        models["retrained" if number == 1 else f"retrained-{number}"] = experiment.retrained(path)
    return models


def probe_further(
    args: CheckpointArgs, models: dict[str, nn.Module], judgements: dict[str, Judgement], sets: ImageSets,
    precision: Precision,
) -> None:  # fmt: skip
    """Add the figures of --relearn, --linear_probe, --prototype and --klom; the re-initialised model is not relearned.
    """
    for name, model in progress(models.items(), "probing models"):
        figures = judgements[name].figures
        if args.relearn and name != FLOOR:
            goal = judgements[ORIGINAL].figures["forget_top1"]
            figures["relearn_steps"] = relearn_steps(model, sets, precision, goal)
        if args.linear_probe:
            figures["linear_probe_top1"] = linear_probe_top1(model, sets, precision, sets.splits.seed)
        if args.prototype:
            figures |= prototype_figures(model, sets, precision)
    if args.klom:
        sides = given(judgements).values(), retrained_of(judgements).values()
        for part in KLOM_PARTS:
            if len(getattr(sets.splits, part)):
                margins = [torch.stack([judgement.margins[part] for judgement in side]) for side in sides]
                for judgement in sides[0]:
                    judgement.figures[f"klom_{part}"] = klom(*margins)


def given(judgements: dict[str, Judgement]) -> dict[str, Judgement]:
    """Those of the files of --weight_path."""
    return {name: judgement for name, judgement in judgements.items()
            if name not in (ORIGINAL, FLOOR) and not is_retrained(name)}  # fmt: skip


def compare_shadows(judgements: dict[str, Judgement], shadows: Shadows) -> None:
    """Add the figures of the shadow models' method, `swap_advantage` and `klom_shadows`, to the files' that it made."""
    found = {
        "swap_advantage": swap_advantage(shadows.confidences, shadows.unlearned),
        "klom_shadows": klom(*by_unlearned(shadows.confidences, shadows.unlearned)),
    }
    for judgement in given(judgements).values():
        judgement.figures |= found
