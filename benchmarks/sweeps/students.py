"""How well does a student learn through each discriminator, and by plain distillation? All from one teacher.

    python -m benchmarks.sweeps.students --weight_path runs/NAME/model.pt --output students.jsonl
    python -m benchmarks.sweeps.students --weight_path runs/NAME/model.pt --output students.jsonl --discriminators kl
    python -m benchmarks.sweeps.students --output students.jsonl --summary True

Each cell is a run of train_contrastive.py's mode train and appends one line; finished cells are skipped, stopped ones
resumed. On CIFAR-100, a cell of a ResNet-18 takes 45 minutes of one core. The cell `kl` minimises
KL(teacher || student) of the softmax (Hinton et al. 2015, temperature 1) with all else equal.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

import train_contrastive as script
from benchmarks.leaderboard.cells import short
from benchmarks.sweeps.sweep import append_all, begun_run, command_line, read_rows, run_all
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.teaching import PassForTeacher
from evaluation.report.record import file_digest
from evaluation.report.write import write_student_report
from helper_functions.code_version import code_version, code_words
from helper_functions.config import PositiveInt, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import check_file, key_of
from helper_functions.run_folder import CHECKPOINT, run_quietly
from optimizer.problems import Batch
from unlearning.distillation import STUDENT, Distillation
from unlearning.setup import PreparedRun, set_up

PLAIN = "kl"


@dataclasses.dataclass
class Args:
    """Flags of benchmarks/sweeps/students.py."""

    weight_path: str | None = None
    """Weights of the teacher, in a run folder of train.py."""
    output: str = "docs/students_cifar100.jsonl"
    """JSON lines, one a cell; finished cells are skipped."""
    discriminators: list[str] = dataclasses.field(default_factory=lambda: [*DISCRIMINATORS, PLAIN])
    """Discriminators, and kl."""
    num_epochs: list[PositiveInt] = dataclasses.field(default_factory=lambda: [STUDENT["num_epochs"]])
    """Passes over the training set."""
    seed: int = 0
    """Of the student."""
    log_dir: str = "runs/students"
    """Folder of the runs."""
    workers: PositiveInt = 2
    """Processes of one thread each; 1 is a single one with all threads."""
    summary: bool = False
    """Only print the table of the cells in --output."""


class KullbackLeibler(PassForTeacher):
    """KL(teacher || student) in nats; the critic is measured alone."""

    def __call__(self, train: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch, without its labels."""
        student = self._outputs(self.student, train[0])
        with torch.no_grad():
            teacher = self._outputs(self.teacher, train[0])
        self._seen = student.detach(), teacher
        logs = [(outputs * self.scale.std + self.scale.mean).log_softmax(1) for outputs in (student, teacher)]
        loss = F.kl_div(*logs, log_target=True, reduction="batchmean")
        return loss, {"train/loss": loss.detach()}


class PlainDistillation(Distillation):
    """A student that learns by `KullbackLeibler`; its discriminator learns nothing."""

    objective = KullbackLeibler

    def __init__(self, run: PreparedRun) -> None:
        super().__init__(run)
        self.critic.frozen = True


class Plain:
    """train_contrastive.py, but for the loss."""

    get_parser = staticmethod(script.get_parser)

    @staticmethod
    def main(args) -> dict:
        """Train the student and report it."""
        run = set_up(args, "contrastive", False, script.check)
        distillation = PlainDistillation(run)
        return write_student_report(run, distillation.critic, distillation.train())


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.sweeps.students", __doc__)


def main(args: Args) -> dict:
    """Run the missing cells, print the table; returns the cells."""
    rows = read_rows(Path(args.output))
    if not args.summary:
        for name in args.discriminators:
            if name not in (*DISCRIMINATORS, PLAIN):
                raise UserError(f"--discriminators {name}: unknown; give {', '.join(DISCRIMINATORS)} or {PLAIN}")
        if args.weight_path is None:
            raise UserError("--weight_path: name the teacher's weights, in a run folder of train.py")
        check_file("weight_path", args.weight_path)
        teacher = file_digest(Path(args.weight_path))[:16]
        cells = [
            {"teacher": teacher, "discriminator": name, "num_epochs": epochs, "seed": args.seed}
            for epochs in args.num_epochs for name in args.discriminators
        ]  # fmt: skip
        asked = [{"cell": cell, "args": args} for cell in cells if key_of(cell) not in rows]
        append_all(Path(args.output), rows, run_all(_run, asked, args.workers, "students"))
    print(summary(list(rows.values())))
    return {"cells": list(rows.values())}


def _run(asked: dict) -> dict:
    args, cell, key = asked["args"], asked["cell"], key_of(asked["cell"])
    plain = cell["discriminator"] == PLAIN
    flags = {name: cell[name] for name in ("num_epochs", "seed")}
    flags["discriminator"] = "auto" if plain else cell["discriminator"]
    flags |= {"mode": "train", "weight_path": args.weight_path, "log_dir": args.log_dir, "figures": False}
    name, argv = f"student-{key}", command_line(flags)
    if begun := begun_run(args.log_dir, name):
        argv = ["--resume", begun]
    folder, report = run_quietly(Plain if plain else script, argv, name)
    environment = json.loads((folder / "environment.json").read_text()) | {"code": code_words(code_version())}
    figures = {"models": report["models"], "auc": report["held_out_discriminator_auc"]["after"]}
    figures |= {"seconds": report["cost"]["student"]["seconds"]}
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return {"key": key, **cell, **short(figures), "environment": environment}


def summary(rows: list[dict]) -> str:
    """Markdown: a line a student, those of most passes first, the most accurate on test images before others."""
    lines = ["discriminator | epochs | test | teacher | as the teacher | AUC | seconds",
             "---|---:|---:|---:|---:|---:|---:"]  # fmt: skip
    for row in sorted(rows, key=lambda row: (-row["num_epochs"], -row["models"]["student"]["test_top1"])):
        teacher, student = row["models"]["teacher"], row["models"]["student"]
        figures = (student["test_top1"], teacher["test_top1"], student["test_agreement"])
        words = [row["discriminator"], str(row["num_epochs"]), *(f"{figure:.1f}" for figure in figures)]
        lines.append(" | ".join([*words, f"{row['auc']:.3f}", f"{row['seconds']:,.0f}"]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main, goes_on=True))
