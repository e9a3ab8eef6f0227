"""Make a classifier forget, subject to an accuracy budget on what it keeps, and report how well that worked.

    python train_constrained_unlearning.py --config_file configs/quickstart.yaml
    python train_constrained_unlearning.py --data_dir data/cifar100 --forget class:apple --weight_path model.pt
    python train_constrained_unlearning.py --data_dir photos --forget file:withdrawn.txt --retrain
    python train_constrained_unlearning.py --data_dir photos --requests requests.csv --weight_path model.pt
    python train_constrained_unlearning.py --previous_run runs/NAME --forget file:second.txt
    python train_constrained_unlearning.py --dial runs/NAME --retain_budget 0.5
    python train_constrained_unlearning.py --data_dir photos --weight_path model.pt --forget file:second.txt --dry_run

From Python, with any module and loaders: `untrain_constrained`.
"""

import sys

if __name__ == "__main__" and sys.stderr.isatty() and "--quiet" not in sys.argv:
    print("train_constrained_unlearning.py: loading PyTorch, which takes seconds", file=sys.stderr, flush=True)

import contextlib
import dataclasses
import tempfile
import warnings
from collections.abc import Iterable
from typing import Literal

from torch import nn

from data.arguments import DataArgs
from evaluation.outcome import Outcome, conclude
from evaluation.outlook import DryRunArgs, check_dry_run, outlook, rehearse
from evaluation.report.arguments import ReportArgs, check_report
from evaluation.report.write import write_report
from helper_functions.config import RunArgs, ScriptParser, as_spelled, run_script
from helper_functions.errors import UserError
from helper_functions.record import RunRecord
from helper_functions.run_folder import run_name
from helper_functions.training.devices import choose_device, choose_precision
from models.arguments import ModelArgs
from unlearning.arguments import MethodArgs
from unlearning.dial import DialArgs, line_of
from unlearning.experiment import Experiment
from unlearning.known_weights import described, own_weights
from unlearning.methods import METHODS, arguments_of, check_method, defaults_of, get_method
from unlearning.methods.own import stem_of
from unlearning.run import UnlearningRun
from unlearning.sequence import SequenceArgs, taken_over
from unlearning.setup import OriginalArgs, TraceArgs, begin, check_forgetting, forget, set_up

# For an unknown model and data, ours begin with a short step; the line search lengthens it.
CAREFUL = {"learning_rate": 0.001}


@dataclasses.dataclass
class Args(
    RunArgs, DataArgs, ModelArgs, MethodArgs, OriginalArgs, SequenceArgs, DialArgs, TraceArgs, ReportArgs, DryRunArgs
):  # fmt: skip
    """Flags of train_constrained_unlearning.py."""

    method: Literal[*METHODS] | str = "constrained"
    """How to forget: a name of docs/methods.md, or FILE.py:METHOD for your own (see CONTRIBUTING.md)."""
    untrain: bool = True
    """Whether to forget; False trains the original and stops there."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(
        Args, "train_constrained_unlearning.py", __doc__,
        presets=lambda asked: {
            **defaults_of(asked.method), **own_weights(asked), **described(asked.weight_path, asked),
            **taken_over(asked), **line_of(asked),
        },
        extend=lambda method: arguments_of(method, Args),
    )  # fmt: skip


def untrain_constrained(
    model: nn.Module,
    retainloader: Iterable,
    forgetloader: Iterable,
    unseenloader: Iterable,
    validloader: Iterable,
    num_epochs: int | None = None,
    learning_rate: float | None = None,
    log_dir: str | None = None,
    device: str = "auto",
    name_prefix: str | None = None,
    *,
    forget_target: str = "chance",
    precision: str = "auto",
    seed: int = 0,
    log_interval: int = 50,
    method: str = "constrained",
    record: RunRecord | None = None,
    checkpoint: dict | None = None,
    on_nan: str | None = None,
    **settings,
) -> Outcome:
    """Make a model forget, in place, subject to a budget on what it keeps.

    Within a process group of the caller's, every rank calls it with loaders that give all of them the same whole
    batches, each of which the ranks share.

    Args:
        model: any classifier, images `[B, C, H, W]` to logits `[B, K]`.
        retainloader: what is kept; a sized iterable of `(inputs, labels)`, such as a `DataLoader`, best not augmented.
        forgetloader: what must go, likewise.
        unseenloader: what the model never saw, of the forget set's classes.
        validloader: what the model never saw, for choosing the epoch.
        num_epochs: passes over the forget set, 20 by default for `zero`, else none: fine-tuning forgets; published
            methods have their own.
        learning_rate: of the weights in these passes, 0.001 by default; other methods have their own.
        log_dir: where the run folder is made, with weights and report; None: nothing is saved.
        device: as `--device`.
        name_prefix: beginning of the run folder's name.
        forget_target: `unseen`, `zero` or `chance`.
        precision: as `--precision`.
        seed: of the retain images that feasibility is judged on.
        log_interval: steps between two transfers from the device.
        method: as `--method`.
        record: a run folder to write to instead of a new one.
        checkpoint: what that record's `load_checkpoint` gave.
        on_nan: as `--on_nan`.
        settings: further fields of `unlearning.arguments.MethodArgs`, by name; the method's own values by default.

    Returns:
        Verdict, figures and cost, to print; `model` has the weights. Warns where it has not forgotten within the
        budget, and says what to set.

    Raises:
        UserError: a request that cannot be met.
        NotFinite: a loss, a gradient or a weight became NaN or infinite, and is not rewound.
    """
    method = as_spelled(method, tuple(METHODS))
    given = {"num_epochs": num_epochs, "learning_rate": learning_rate}
    given = {name: value for name, value in given.items() if value is not None}
    own = defaults_of(method) | (CAREFUL if get_method(method).constrained else {})
    args = arguments_of(method, MethodArgs)(**own | given | settings)
    if on_nan not in (None, "stop", "rewind"):
        raise UserError(f"on_nan {on_nan!r}: stop or rewind")
    if forget_target not in ("unseen", "zero", "chance"):
        raise UserError(f"forget_target {forget_target!r}: unseen, zero or chance")
    check_method(method, args, forget_target)
    ScriptParser(type(args), "untrain_constrained").parse_object(dataclasses.asdict(args))
    compute = choose_precision(choose_device(device), precision)
    loaders = {"retain": retainloader, "forget": forgetloader, "unseen": unseenloader, "validation": validloader}
    with contextlib.ExitStack() as stack:
        saved = record is not None or log_dir is not None
        if record is None:
            place = log_dir if saved else stack.enter_context(tempfile.TemporaryDirectory())
            name = name_prefix or run_name("untrain_constrained", stem_of(method))
            record = RunRecord.create(place, name, args, compute.device)
        model.to(compute.device)
        run = UnlearningRun(model, loaders, args, forget_target, method, compute, record, seed, log_interval, on_nan)
        outcome = conclude(run, run.run(checkpoint), saved)
    if outcome.advice:
        warnings.warn(outcome.advice, stacklevel=2)
    return outcome


def check(args: Args, experiment: Experiment, original: nn.Module) -> None:
    """Refuse a method that these arguments and images do not allow."""
    if args.untrain:
        check_forgetting(args, args.method, experiment, original)


def main(args: Args) -> dict:
    """Train or load the original, forget, judge; returns what `report.json` holds."""
    check_report(args, args.untrain)
    check_dry_run(args)
    run, outcome = set_up(args, "unlearning", args.untrain, check), None
    if run.args.untrain:
        unlearning = begin(run, run.args.method)
        print("\n".join(outlook(run, unlearning)))
        if args.dry_run:
            return rehearse(run, unlearning)
        outcome = forget(run, unlearning)
    return write_report(run, outcome, "train_constrained_unlearning.py")


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
