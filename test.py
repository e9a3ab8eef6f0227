"""Judge checkpoints: accuracy and loss on every part, attacks, distances to retrained models; test images are touched.

    python test.py --weight_path runs/NAME/model.pt
    python test.py --weight_path downloaded.pth --model resnet50 --data_dir photos --dataset imagefolder
    python test.py --weight_path unlearned.pt --retrained_weight_path a.pt b.pt c.pt --splits runs/NAME/splits.npz
    python test.py --weight_path unlearned.pt --original_weight_path original.pt --relearn --linear_probe --prototype
    python test.py --weight_path runs/NAME/model.pt --shadow_models 16 --shadow_config runs/NAME/config.yaml
    python test.py --verify runs/NAME

A re-initialised model stands beside them as a floor. Splits are the splits.npz beside the first file, or --splits.
--verify checks the report of an unlearning run; its exit status is 0 if the report holds, 3 if it does not, and 2 if it
cannot be checked.
"""

import sys

if __name__ == "__main__" and sys.stderr.isatty() and "--quiet" not in sys.argv:
    print("test.py: loading PyTorch, which takes seconds", file=sys.stderr, flush=True)

import dataclasses
from pathlib import Path

import train_constrained_unlearning
import train_contrastive
from data.arguments import DataArgs
from evaluation.attacks.lira import against_shadows, run_shadows, shadow_folder
from evaluation.attacks.shadow_runs import by_script, deciding, read_method
from evaluation.checkpoints import (
    CheckpointArgs,
    check_checkpoints,
    compare_shadows,
    load_checkpoints,
    probe_further,
)
from evaluation.gaps import summarise_gaps
from evaluation.judge import Judgement, intervals_of_gaps, judge_all
from evaluation.report.tables import FIGURES, plain, table
from evaluation.verify.verify import verify_run
from helper_functions.config import ComputeArgs, ScriptParser, run_script
from helper_functions.files import write_json
from models.arguments import ModelArgs
from unlearning.confirmation import confirm
from unlearning.experiment import Experiment
from unlearning.known_weights import described, own_weights

# Whose reports can be verified.
SCRIPTS = {
    "train_constrained_unlearning.py": train_constrained_unlearning,
    "train_contrastive.py": train_contrastive,
}


@dataclasses.dataclass
class Args(ComputeArgs, DataArgs, ModelArgs, CheckpointArgs):
    """Flags of test.py."""

    verify: str | None = None
    """A run folder whose report is checked: digests and figures are computed again from its weights and splits. Beside
    it, --data_dir, --model, --device, --original_weight_path and --retrained_weight_path say where things lie now."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(
        Args, "test.py", __doc__,
        presets=lambda asked: {
            **own_weights(asked), **described(next(iter(asked.weight_path), None), asked),
        },
    )  # fmt: skip


def attack_by_shadows(args: Args, method: object, experiment: Experiment, judgements: dict[str, Judgement]) -> None:
    """Make the shadow models that are missing, add U-LiRA's figures to every model's, and those of the method."""
    folder = shadow_folder(args.shadow_dir, deciding(method), experiment.splits)
    make = by_script(train_constrained_unlearning, method, experiment.model, Path(args.shadow_dir) / "originals")
    shadows = run_shadows(experiment.sets, experiment.precision, args.shadow_models, folder, make)
    for judgement in judgements.values():
        judgement.figures |= against_shadows(experiment.sets, shadows, judgement.logits)
    compare_shadows(judgements, shadows)


def main(args: Args) -> dict:
    """Judge every file of weights and a re-initialised model, or verify a run; returns what `--output` holds."""
    if args.verify is not None:
        return verify_run(args, SCRIPTS)
    check_checkpoints(args)
    method = read_method(train_constrained_unlearning, args.shadow_config, args) if args.shadow_models else None
    experiment = Experiment(args, args.weight_path[0])
    splits, sets, precision = experiment.splits, experiment.sets, experiment.precision
    models = load_checkpoints(args, experiment)
    first = args.original_weight_path or args.weight_path[0]
    confirmed = confirm(experiment, next(iter(models.values())), first, args.expected_accuracy, refuse=False)
    print("\n".join([experiment.describe(), *confirmed.lines()]))
    judgements = judge_all(models, sets, precision)
    probe_further(args, models, judgements, sets, precision)
    if method is not None:
        attack_by_shadows(args, method, experiment, judgements)
    figures = {name: judgement.figures for name, judgement in judgements.items()}
    print(f"\n{table(figures, tuple(FIGURES))}")
    report = {"models": figures, "splits_sha256": splits.sha256, "final_test": splits.final_test}
    report |= summarise_gaps(figures) | {"gap_intervals": intervals_of_gaps(judgements, sets)}
    report = plain(report | {"preprocessing": confirmed.entry(experiment)})
    if args.output is not None:
        write_json(Path(args.output), report)
    return report


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
