"""Fit a classifier with SGD or SAM; with --retain_only, without the forget set: the retrained model, the gold standard.

    python train.py --dataset digits --model resnet8 --num_epochs 20
    python train.py --config_file configs/cifar100/resnet18_cpu.yaml
    python train.py --config_file configs/cifar100/resnet18_cpu.yaml --retain_only
"""

import sys

if __name__ == "__main__" and sys.stderr.isatty() and "--quiet" not in sys.argv:
    print("train.py: loading PyTorch, which takes seconds", file=sys.stderr, flush=True)

import dataclasses

from data.arguments import DataArgs
from evaluation.judge import judge_all
from evaluation.report.tables import FIGURES, cost_table, plain, table
from helper_functions.config import RunArgs, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import save_tensors, write_json
from helper_functions.record import RunRecord
from helper_functions.run_folder import run_name
from models.arguments import ModelArgs
from optimizer.training import Recipe, fit_classifier
from unlearning.confirmation import confirm
from unlearning.evaluator import JUDGED
from unlearning.experiment import Experiment
from unlearning.known_weights import resumed


@dataclasses.dataclass
class Args(RunArgs, DataArgs, ModelArgs, Recipe):
    """Flags of train.py."""

    retain_only: bool = False
    """Leave the forget set out: this trains the retrained model that unlearning is measured against."""
    exclude: str | None = None
    """The forgotten.sha256 of a run: pictures with these pixels are in no part, whatever their names are now."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "train.py", __doc__)


def main(args: Args) -> dict:
    """Train, judge and save; returns what `report.json` holds."""
    record = None
    if args.resume is not None:
        record, args = resumed(args)
    experiment = Experiment(args, excluded=args.exclude)
    args = experiment.args
    splits, sets, precision = experiment.splits, experiment.sets, experiment.precision
    if args.retain_only and len(splits.forget) == 0:
        raise UserError("--retain_only True: there is no forget set to leave out; name it by --forget or --splits")
    model = experiment.model()
    name = "retrained" if args.retain_only else "original"
    prefix = args.name_prefix or run_name("train", name, splits.short_request)
    record = record or RunRecord.create(args.log_dir, prefix, args, precision.device)
    checkpoint = record.load_checkpoint()
    splits.save(record.path("splits.npz"))
    print(f"{experiment.describe()}\nrun      {record.folder}")

    indices = splits.retain if args.retain_only else splits.train
    cost = fit_classifier(
        model, sets.training(indices, args.batch_size), args, precision, record,
        name=name, checkpoint=checkpoint, log_interval=args.log_interval,
        evaluate=experiment.validation_figures, on_nan=args.on_nan,
    )  # fmt: skip
    save_tensors(model.state_dict(), record.path("model.pt"))
    seen = confirm(experiment, model, None, None).save(record, experiment)
    figures = judge_all({name: model}, sets, precision, retain_images=JUDGED)[name].figures
    record.hparams(args, splits.forget_request, figures)
    report = plain({"models": {name: figures}, "cost": {name: cost}, "preprocessing": seen})
    write_json(record.path("report.json"), report)
    record.close()
    print(f"\n{table(report['models'], tuple(FIGURES))}\n\n{cost_table({name: cost})}")
    print(f"\nweights  {record.path('model.pt')}")
    return report


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
