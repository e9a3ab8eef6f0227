"""Fit a classifier with SGD or SAM; with --retain_only, without the forget set: the retrained model, the gold standard.

    python train.py --dataset digits --model resnet8 --num_epochs 20
    python train.py --config_file configs/cifar100/resnet18_cpu.yaml
    python train.py --config_file configs/cifar100/resnet18_cpu.yaml --retain_only
"""

import dataclasses
import sys

import torch

from data.arguments import DataArgs, augmentation_from, dataset_from
from data.image_sets import ImageSets
from data.make_splits import make_splits
from data.splits import Splits
from evaluation.judge import judge, utility
from helper_functions.config import RunArgs, ScriptParser, run_script
from helper_functions.devices import choose_device, choose_precision, seed_everything
from helper_functions.errors import UserError
from helper_functions.files import save_tensors, write_json
from helper_functions.inference import predict
from helper_functions.record import RunRecord
from models.arguments import ModelArgs, model_from
from optimizer.training import Recipe, fit_classifier


@dataclasses.dataclass
class Args(RunArgs, DataArgs, ModelArgs, Recipe):
    """Flags of train.py."""

    retain_only: bool = False
    """Leave the forget set out: this trains the retrained model that unlearning is measured against."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "train.py", __doc__)


def main(args: Args) -> dict:
    """Train, judge and save; returns what `report.json` holds."""
    record = None
    if args.resume is not None:
        record, args = RunRecord.reopen(args.resume, Args)
    precision = choose_precision(choose_device(args.device), args.precision)
    dataset = dataset_from(args)
    previous = Splits.load(args.splits, dataset) if args.splits else None
    splits = make_splits(
        dataset, args.forget, validation=args.validation, test=args.test, seed=args.seed,
        confusion=args.confusion, previous=previous,
    )  # fmt: skip
    if args.retain_only and len(splits.forget) == 0:
        raise UserError("--retain_only True: there is no forget set to leave out; name it by --forget or --splits")
    seed_everything(args.seed)
    model = model_from(args, dataset.num_classes, dataset.in_channels, dataset.image_size)
    model.to(precision.device, memory_format=torch.channels_last)
    sets = ImageSets(dataset, splits, augmentation_from(args, dataset), precision.device, args.seed)
    record = record or RunRecord.create(args.log_dir, args.name_prefix or "train", args, precision.device)
    splits.save(record.path("splits.npz"))

    name = "retrained" if args.retain_only else "original"
    indices = splits.retain if args.retain_only else splits.train
    validation = sets.evaluation(splits.validation)
    cost = fit_classifier(
        model, sets.training(indices, args.batch_size), args, precision, record,
        name=name, checkpoint=record.load_checkpoint(), log_interval=args.log_interval,
        evaluate=lambda model: utility(*predict(model, validation, precision), "validation"),
    )  # fmt: skip
    save_tensors(model.state_dict(), record.path("model.pt"))
    report = {"models": {name: judge(model, sets, precision).figures}, "cost": {name: dataclasses.asdict(cost)}}
    write_json(record.path("report.json"), report)
    record.close()
    print(f"\n{record.path('model.pt')}: {name} model, {cost.seconds:,.1f} s, {cost.gradient_steps:,} steps")
    for figure, value in report["models"][name].items():
        print(f"  {figure:18s} {value:8.3f}" if value is not None else f"  {figure:18s}        –")
    return report


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
