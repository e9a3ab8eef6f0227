"""A run of unlearning from flags: its folder, data and models, and the forgetting itself."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from data.copies import find_copies, find_near_duplicates, near_distance, tell_copies, tell_near_duplicates
from data.forget import parse_forget
from data.image_list import REQUESTS, Request, load_requests, read_requests
from data.pictures.pixel_cache import check_writable
from helper_functions.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from helper_functions.errors import UserError
from helper_functions.files import write_bytes, write_json
from helper_functions.progress import progress_bar
from helper_functions.record import RunRecord
from helper_functions.run_folder import CODE, run_name
from helper_functions.training.devices import seed_everything
from helper_functions.training.distribution import from_main
from helper_functions.training.loop import Cost
from models.trainable import moves_features
from models.weight_files import WeightFile
from models.weights import keep_frozen
from optimizer.schedules import SCHEDULES
from optimizer.training import Recipe, fit_once
from unlearning.arguments import MethodArgs
from unlearning.confirmation import KnownArgs, confirm, kept
from unlearning.constrained.difficulty import Difficulty
from unlearning.dial import end_of
from unlearning.experiment import Experiment
from unlearning.known_weights import resumed
from unlearning.methods import arguments_of, check_images, check_method, get_method
from unlearning.methods.own import file_of, is_own, stem_of
from unlearning.run import Unlearned, UnlearningRun
from unlearning.sequence import check_previous, follow


@dataclasses.dataclass
class OriginalArgs(KnownArgs):
    """Where the original, and the retrained model, come from."""

    weight_path: str | None = None
    """Weights of the original; without them it is trained first. Those of a run bring its data and its model along,
    where no flag names others."""
    train_num_epochs: PositiveInt = 30
    """Passes over the training set when the original, or the retrained model, is trained here."""
    train_batch_size: PositiveInt = 128
    """Images in one gradient step of that training."""
    train_learning_rate: PositiveFloat = 0.1
    """Peak learning rate of that training."""
    train_weight_decay: NonNegativeFloat = 5e-4
    """Of that training."""
    train_schedule: Literal[*SCHEDULES] = "one_cycle"
    """Of that training's learning rate."""
    retrain: bool = False
    """Also train the retrained model, without the forget set, and report every gap to it."""
    retrained_weight_path: list[str] = dataclasses.field(default_factory=list)
    """Weights of one or several retrained models, to report every gap to them; several give a band."""
    judge: Literal["final", "validation"] = "final"
    """What the report rests on: everything, test images and attacks included, or no more than a run may look at while
    flags are tuned."""
    judged_retain_images: PositiveInt | None = None
    """Most retain images, drawn once for all models, that the report and the verdict rest on; 50,000 by default. For a
    sample, the verdict adds the margin of a one-sided 95 % bound to the fall."""

    def recipe(self) -> Recipe:
        """How the original and the retrained model are trained; SAM as in unlearning."""
        names = ("num_epochs", "batch_size", "learning_rate", "weight_decay", "schedule")
        shared = ("use_sam", "adaptive_sam", "rho")
        return Recipe(**{n: getattr(self, f"train_{n}") for n in names}, **{n: getattr(self, n) for n in shared})


@dataclasses.dataclass
class TraceArgs:
    """Where the forget set may be left."""

    near_duplicates: Literal["auto", "off"] | NonNegativeInt = "auto"
    """Name images of other parts whose perceptual hash is within so many of 64 bits of a forget image's; auto is 6 for
    an imagefolder, off for other data sets."""
    keep_checkpoint: bool = False
    """Keep checkpoint.pt, and original.pt where the original is trained here, after the run has forgotten. They hold
    what is to be forgotten; without the original, there is no --dial of the run, and --verify leaves its verdict out.
    """


@dataclasses.dataclass
class PreparedRun:
    """A run that has begun: `models` and `costs` by name, `original` and, where it was asked for, `retrained`.

    `args` are those of the run that is resumed, where one is, with what is left of the budget; `checkpoint` is its last
    one. `notes` join the report: `copies` and `near_duplicates` of forget images elsewhere, `sequence` for a request
    after others, `preprocessing` and how it is confirmed.
    `weight_file` is the format of the original's file, where it came from one. `requests` are those of --requests.
    A dry run has no record, and random weights where the original would be trained.
    """

    args: Any
    experiment: Experiment
    record: RunRecord | None
    checkpoint: dict | None
    models: dict[str, nn.Module]
    costs: dict[str, Cost]
    notes: dict[str, object]
    weight_file: WeightFile | None = None
    requests: list[Request] = dataclasses.field(default_factory=list)


Check = Callable[[Any, Experiment, nn.Module], None]


def set_up(args: Any, name: str, must_forget: bool, check: Check) -> PreparedRun:
    """Open or reopen the run folder, read what there is, train what is missing; UserError before any work.

    Args:
        args: an instance of a script's `Args`, with the fields of `RunArgs`, `DataArgs`, `ModelArgs`, `UnlearnArgs` and
            `OriginalArgs`.
        name: beginning of the folder's name where --name_prefix gives none; method and forget set follow.
        must_forget: whether arguments or earlier splits have to name a forget set.
        check: refuses what the script would need and cannot have, from arguments, data and the original.
    """
    record = None
    if args.resume is not None:
        record, args = resumed(args)
    if args.retrain and args.retrained_weight_path:
        raise UserError("--retrain and --retrained_weight_path are two ways to a retrained model; give one")
    if args.expected_accuracy is not None and args.weight_path is None:
        raise UserError(f"--expected_accuracy {args.expected_accuracy:g}: it is that of a --weight_path; give one")
    # Only one of the scripts has requests after others.
    previous = check_previous(args) if getattr(args, "previous_run", None) is not None else None
    experiment = Experiment(
        args, args.weight_path, must_forget=must_forget, following=previous is not None,
        again=previous is not None and previous.asked_again > 0, with_copies=getattr(args, "with_copies", False),
    )  # fmt: skip
    args, models = experiment.args, {"original": experiment.model(args.weight_path)}
    confirmed = kept(record.folder) if record is not None else None
    if confirmed is None and args.weight_path is not None:
        confirmed = confirm(experiment, models["original"], args.weight_path, args.expected_accuracy)
    for number, path in enumerate(args.retrained_weight_path, start=1):
        models["retrained" if number == 1 else f"retrained-{number}"] = experiment.retrained(path)
    check(args, experiment, models["original"])
    with progress_bar("comparing pictures"):
        notes = {"copies": from_main(lambda: find_copies(experiment.dataset, experiment.splits))}
    said, left = tell_copies(notes["copies"], experiment.splits), args.retain_budget
    if (distance := near_distance(args.near_duplicates, experiment.dataset)) is not None:
        with progress_bar("comparing pictures"):
            near = from_main(lambda: find_near_duplicates(experiment.dataset, experiment.splits, distance))
        notes["near_duplicates"], said = near, [*said, *tell_near_duplicates(near)]
    if previous is not None:
        notes["sequence"] = follow(previous, args, experiment, models["original"])
        said, left = [*said, f"sequence {notes['sequence']}"], notes["sequence"].left_of(left)
    own, known = dataclasses.replace(args, retain_budget=left), confirmed.lines() if confirmed is not None else []
    if getattr(args, "dry_run", False):
        print("\n".join([experiment.describe(), *said, *known]))
        return PreparedRun(own, experiment, None, None, models, {}, notes)
    if record is None:
        method = getattr(args, "mode", None) or (args.method if args.untrain else "original")
        name = args.name_prefix or run_name(name, stem_of(method), experiment.splits.short_request)
        with progress_bar("preparing the run folder"):
            record = RunRecord.create(args.log_dir, name, args, experiment.precision.device)
    experiment.splits.save(record.path("splits.npz"))
    if is_own(method := getattr(args, "method", None)):
        keep_code(file_of(method), record)
    print("\n".join([experiment.describe(), *said, f"run      {record.folder}", *known]))
    if confirmed is not None:
        notes["preprocessing"] = confirmed.save(record, experiment)
    requests = from_main(lambda: _requests(experiment, record))
    form = experiment.forms.get(args.weight_path)
    run = PreparedRun(own, experiment, record, record.load_checkpoint(), models, {}, notes, form, requests)
    _train_missing(run)
    if confirmed is None:
        confirmed = confirm(experiment, models["original"], None, None)
        print("\n".join(["", *confirmed.lines()]))
        notes["preprocessing"] = confirmed.save(record, experiment)
    return run


def keep_code(path: Path, record: RunRecord) -> None:
    """Keep a copy of the user's own method in the run folder; UserError where a resumed run began with other code."""
    kept, code = record.path(CODE), path.read_bytes()
    if from_main(lambda: kept.is_file() and kept.read_bytes() != code):
        raise UserError(f"--method {path}: it has changed since {record.folder} began; undo that, or start anew")
    write_bytes(kept, code)


def _requests(experiment: Experiment, record: RunRecord) -> list[Request]:
    """The requests that the forget set joins; the run folder keeps them, since their table may be gone at the end."""
    path, asked = record.path(REQUESTS), experiment.splits.forget_request
    if not asked.startswith("requests:"):
        return []
    if not path.is_file():
        found = read_requests(parse_forget(asked).path, experiment.dataset)
        write_json(path, [dataclasses.asdict(request) for request in found])
    return load_requests(path)


def _train_missing(run: PreparedRun) -> None:
    args, experiment = run.args, run.experiment
    parts = {"original": experiment.splits.train, "retrained": experiment.splits.retain}
    for name in [*(["original"] if args.weight_path is None else []), *(["retrained"] if args.retrain else [])]:
        if name not in run.models:
            run.models[name] = experiment.model()
            if args.weight_path is not None:
                keep_frozen(run.models[name], run.models["original"])
        run.costs[name] = fit_once(
            run.models[name], experiment.sets.training(parts[name], args.train_batch_size), args.recipe(),
            experiment.precision, run.record, name=name, checkpoint=run.checkpoint, log_interval=args.log_interval,
            evaluate=experiment.validation_figures, on_nan=args.on_nan,
        )  # fmt: skip


def check_forgetting(args: Any, method: str, experiment: Experiment, original: nn.Module) -> None:
    """Refuse a method that these arguments and images do not allow, by a UserError that says why."""
    settings, target = settings_from(args, method), experiment.target(args.forget_target)
    check_method(method, settings, target)
    check_images(method, settings, target, experiment.splits, experiment.dataset.num_classes)
    if experiment.withdrawn():
        from_main(lambda: check_writable(experiment.dataset.pixel_file))
    if get_method(method).discriminates:
        check_features(args, original)


def check_features(args: Any, model: nn.Module) -> None:
    """Refuse a discriminator of features that no weight may change, by a UserError."""
    if args.discriminate == "features" and not moves_features(model):
        raise UserError(
            f"--discriminate features --trainable {args.trainable}: the head alone does not change features; give "
            "--discriminate logits, or let other layers move"
        )


def settings_from(args: Any, method: str) -> MethodArgs:
    """The flags of a method out of a script's; defaults where the script has none."""
    kind = arguments_of(method, MethodArgs)
    names = [field.name for field in dataclasses.fields(kind) if hasattr(args, field.name)]
    return kind(**{name: getattr(args, name) for name in names})


def begin(run: PreparedRun, method: str) -> UnlearningRun:
    """A run of one of `METHODS` on a copy of the original, which joins the run's models as `unlearned`."""
    args, experiment = run.args, run.experiment
    model = run.models["unlearned"] = copy.deepcopy(run.models["original"])
    settings, target = settings_from(args, method), experiment.target(args.forget_target)
    loaders = experiment.loaders(settings, augment=get_method(method).augmented)
    seed_everything(args.seed)  # whether the original was trained just now or read again must not show
    return UnlearningRun(
        model, loaders, settings, target, method, experiment.precision, run.record, args.seed, args.log_interval,
        args.on_nan,
    )  # fmt: skip


def forget(run: PreparedRun, unlearning: UnlearningRun) -> Unlearned:
    """Run it to its end."""
    args, experiment, target = run.args, run.experiment, unlearning.context.target
    if getattr(args, "dial", None) is not None:
        outcome = unlearning.turn(experiment.model(str(end_of(args.dial))).state_dict())
        run.costs["unlearned"] = outcome.cost
        return outcome
    if target == "unseen" and (difficulty := unlearning.evaluator.difficulty) != Difficulty():
        print(f"ranks    of the forget losses: {difficulty}")
    outcome = unlearning.run(run.checkpoint)
    run.costs["unlearned"] = outcome.cost
    return outcome

