"""Student, teacher, discriminator: learn a teacher's outputs without labels, or untrain until the latter is at chance.

    python train_contrastive.py --config_file configs/contrastive/train.yaml
    python train_contrastive.py --config_file configs/contrastive/untrain.yaml
    python train_contrastive.py --mode untrain_contrastive --forget class:apple --weight_path model.pt

The teacher of both untrain modes is the original; they are also methods of train_constrained_unlearning.py.
"""

import sys

if __name__ == "__main__" and sys.stderr.isatty() and "--quiet" not in sys.argv:
    print("train_contrastive.py: loading PyTorch, which takes seconds", file=sys.stderr, flush=True)

import dataclasses
from typing import Literal

from torch import nn

from data.arguments import DataArgs
from evaluation.outlook import outlook
from evaluation.report.arguments import ReportArgs, check_report
from evaluation.report.write import write_report, write_student_report
from helper_functions.config import RunArgs, ScriptParser, run_script
from models.arguments import ModelArgs
from unlearning.arguments import UnlearnArgs
from unlearning.distillation import STUDENT, Distillation, DistillationArgs, check_distillation
from unlearning.experiment import Experiment
from unlearning.known_weights import described, own_weights
from unlearning.methods import defaults_of
from unlearning.setup import OriginalArgs, TraceArgs, begin, check_forgetting, forget, set_up


@dataclasses.dataclass
class Args(RunArgs, DataArgs, ModelArgs, UnlearnArgs, OriginalArgs, DistillationArgs, TraceArgs, ReportArgs):
    """Flags of train_contrastive.py."""

    mode: Literal["train", "untrain", "untrain_contrastive"] = "train"
    """Train a student on a teacher; or make it forget, by an adversary or by a regression on group means."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(
        Args, "train_contrastive.py", __doc__,
        presets=lambda asked: {
            **(STUDENT if asked.mode == "train" else defaults_of(asked.mode)), **own_weights(asked),
            **described(asked.weight_path, asked),
        },
    )  # fmt: skip


def check(args: Args, experiment: Experiment, teacher: nn.Module) -> None:
    """Refuse a distillation, or a method, that these arguments and images do not allow."""
    if args.mode == "train":
        check_distillation(args, experiment, teacher)
    else:
        check_forgetting(args, args.mode, experiment, teacher)


def main(args: Args) -> dict:
    """Train or load the teacher, then train or untrain a student; returns what `report.json` holds."""
    args.check()
    check_report(args, args.mode != "train")
    run = set_up(args, "contrastive", args.mode != "train", check)
    if run.args.mode != "train":
        unlearning = begin(run, run.args.mode)
        print("\n".join(outlook(run, unlearning)))
        return write_report(run, forget(run, unlearning), "train_contrastive.py")
    distillation = Distillation(run)
    return write_student_report(run, distillation.critic, distillation.train())


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
