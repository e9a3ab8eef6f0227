"""Judge checkpoints: accuracy and loss on every part, a membership attack, a discriminator; test images are touched.

    python test.py --weight_path runs/unlearning-20260101-120000/model.pt --model resnet8
    python test.py --weight_path original.pt unlearned.pt retrained.pt --splits runs/NAME/splits.npz --output out.json

A re-initialised model stands beside them as a floor. Splits are the splits.npz beside the first file, or --splits.
"""

import dataclasses
import sys
from pathlib import Path

from data.arguments import DataArgs
from evaluation.judge import judge
from evaluation.report import FIGURES, plain, table
from helper_functions.config import RunArgs, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import write_json
from models.arguments import ModelArgs
from models.reinitialise import reinitialised
from unlearning.workspace import Workspace


@dataclasses.dataclass
class Args(RunArgs, DataArgs, ModelArgs):
    """Flags of test.py."""

    weight_path: list[str] = dataclasses.field(default_factory=list)
    """One or several files of weights."""
    output: str | None = None
    """JSON file for the figures; an existing one is not overwritten."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "test.py", __doc__)


def main(args: Args) -> dict:
    """Judge every file of weights and a re-initialised model; returns what `--output` holds."""
    if not args.weight_path:
        raise UserError("--weight_path: name at least one file of weights")
    if args.output is not None and Path(args.output).exists():
        raise UserError(f"--output {args.output}: there is such a file already; name another")
    if args.output is not None and not Path(args.output).parent.is_dir():
        raise UserError(f"--output {args.output}: there is no such folder; make it first")
    workspace = Workspace(args, args.weight_path[0])
    models = {path: workspace.model(path) for path in args.weight_path}
    floor = reinitialised(models[args.weight_path[0]])
    figures = {
        name: judge(model, workspace.sets, workspace.precision).figures
        for name, model in {**models, "re-initialised": floor}.items()
    }
    print(f"{workspace.describe()}\n\n{table(figures, tuple(FIGURES))}")
    splits = workspace.splits
    report = plain({"models": figures, "splits_sha256": splits.sha256, "final_test": splits.final_test})
    if args.output is not None:
        write_json(Path(args.output), report)
    return report


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
