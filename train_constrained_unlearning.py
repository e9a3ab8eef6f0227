"""Make a classifier forget, subject to an accuracy budget on what it keeps, and report how well that worked.

    python train_constrained_unlearning.py --config_file configs/quickstart.yaml
    python train_constrained_unlearning.py --data_dir data/cifar100 --forget class:apple --weight_path model.pt
    python train_constrained_unlearning.py --data_dir photos --forget file:withdrawn.txt --retrain

From Python, with any module and loaders: `untrain_constrained`.
"""

import copy
import dataclasses
import sys
from collections.abc import Iterable
from typing import Literal

from torch import nn

from data.arguments import DataArgs
from evaluation.conclude import conclude, refuse_chance
from helper_functions.config import NonNegativeFloat, PositiveFloat, PositiveInt, RunArgs, ScriptParser, run_script
from helper_functions.devices import choose_device, choose_precision
from helper_functions.errors import UserError
from helper_functions.record import RunRecord
from models.arguments import ModelArgs
from optimizer.schedules import SCHEDULES
from optimizer.training import Recipe, fit_once
from unlearning.arguments import UnlearnArgs
from unlearning.unlearn import Unlearned, Unlearning
from unlearning.workspace import Workspace


@dataclasses.dataclass
class Args(RunArgs, DataArgs, ModelArgs, UnlearnArgs):
    """Flags of train_constrained_unlearning.py."""

    untrain: bool = True
    """Whether to forget; False trains the original and stops there."""
    weight_path: str | None = None
    """Weights of the original; without them it is trained first."""
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
    retrained_weight_path: str | None = None
    """Weights of a retrained model, to report every gap to it."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "train_constrained_unlearning.py", __doc__)


def untrain_constrained(
    model: nn.Module,
    retainloader: Iterable,
    forgetloader: Iterable,
    unseenloader: Iterable,
    validloader: Iterable,
    num_epochs: int = 10,
    learning_rate: float = 0.001,
    log_dir: str = "runs",
    device: str = "auto",
    name_prefix: str | None = None,
    *,
    forget_target: str = "chance",
    precision: str = "auto",
    seed: int = 0,
    log_interval: int = 50,
    record: RunRecord | None = None,
    checkpoint: dict | None = None,
    **settings,
) -> Unlearned:
    """Make a model forget, in place, subject to a budget on what it keeps.

    Args:
        model: any classifier, images `[B, C, H, W]` to logits `[B, K]`.
        retainloader: what is kept; a sized iterable of `(inputs, labels)`, such as a `DataLoader`, best not augmented.
        forgetloader: what must go, likewise.
        unseenloader: what the model never saw, of the forget set's classes.
        validloader: what the model never saw, for choosing the epoch.
        num_epochs: passes over the forget set.
        learning_rate: of the weights.
        log_dir: where the run folder is made.
        device: as `--device`.
        name_prefix: beginning of the run folder's name.
        forget_target: `unseen`, `zero` or `chance`.
        precision: as `--precision`.
        seed: of the retain images that feasibility is judged on.
        log_interval: steps between two transfers from the device.
        record: a run folder to write to instead of a new one.
        checkpoint: what that record's `load_checkpoint` gave.
        settings: further fields of `unlearning.arguments.UnlearnArgs`, by name.

    Returns:
        The epochs' figures, the chosen one (None: no epoch kept the budget) and the cost; `model` has its weights.

    Raises:
        UserError: a request that cannot be met.
    """
    args = UnlearnArgs(num_epochs=num_epochs, learning_rate=learning_rate, **settings)
    if forget_target not in ("unseen", "zero", "chance"):
        raise UserError(f"forget_target {forget_target!r}: unseen, zero or chance")
    ScriptParser(UnlearnArgs, "untrain_constrained").parse_object(dataclasses.asdict(args))
    compute = choose_precision(choose_device(device), precision)
    if record is None:
        record = RunRecord.create(log_dir, name_prefix or "untrain_constrained", args, compute.device)
    model.to(compute.device)
    loaders = {"retain": retainloader, "forget": forgetloader, "unseen": unseenloader, "validation": validloader}
    return Unlearning(model, loaders, args, forget_target, compute, record, seed, log_interval).run(checkpoint)


def main(args: Args) -> dict:
    """Train or load the original, forget, judge; returns what `report.json` holds."""
    record = None
    if args.resume is not None:
        record, args = RunRecord.reopen(args.resume, Args)
    if args.retrain and args.retrained_weight_path is not None:
        raise UserError("--retrain and --retrained_weight_path are two ways to a retrained model; give one")
    workspace = Workspace(args, args.weight_path, default_forget="random:0.1")
    models = {"original": workspace.model(args.weight_path)}
    if args.weight_path is not None:
        refuse_chance(models["original"], workspace, args.weight_path)
    if args.retrained_weight_path is not None:
        models["retrained"] = workspace.retrained(args.retrained_weight_path)
    name = args.name_prefix or "unlearning"
    record = record or RunRecord.create(args.log_dir, name, args, workspace.precision.device)
    workspace.splits.save(record.path("splits.npz"))
    print(f"{workspace.describe()}\nrun      {record.folder}")

    checkpoint, costs, outcome = record.load_checkpoint(), {}, None
    parts = {"original": workspace.splits.train, "retrained": workspace.splits.retain}
    for name in [*(["original"] if args.weight_path is None else []), *(["retrained"] if args.retrain else [])]:
        if name not in models:
            models[name] = workspace.model()
        costs[name] = fit_once(
            models[name], workspace.sets.training(parts[name], args.train_batch_size), recipe_of(args),
            workspace.precision, record, name=name, checkpoint=checkpoint, log_interval=args.log_interval,
            evaluate=workspace.validation_figures,
        )  # fmt: skip
    if args.untrain:
        models["unlearned"] = copy.deepcopy(models["original"])
        fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(UnlearnArgs)}
        target = workspace.target(fields.pop("forget_target"))
        outcome = untrain_constrained(
            models["unlearned"], **workspace.loaders(args.batch_size, args.retain_batch_size), **fields,
            device=args.device, precision=args.precision, seed=args.seed, log_interval=args.log_interval,
            forget_target=target, record=record, checkpoint=checkpoint,
        )  # fmt: skip
        costs["unlearned"] = outcome.cost
    return conclude(workspace, models, costs, outcome, args, record)


def recipe_of(args: Args) -> Recipe:
    """How the original and the retrained model are trained."""
    names = ("num_epochs", "batch_size", "learning_rate", "weight_decay", "schedule")
    shared = ("use_sam", "adaptive_sam", "rho")
    return Recipe(**{n: getattr(args, f"train_{n}") for n in names}, **{n: getattr(args, n) for n in shared})


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
