"""What `benchmarks.kills` kills: small runs on digits, how each goes on, and what of it has to be the same."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.sweeps.sweep import command_line, read_rows
from helper_functions.errors import UserError

SMALL = {"dataset": "digits", "model": "resnet8", "width": 4, "figures": False, "log_interval": 2}
# What the clock, the machine and the place say.
ELSEWHERE = {
    "seconds", "peak_memory_bytes", "images_per_second", "log_dir", "weight_path", "retrained_weight_path",
    "environment",
}  # fmt: skip
# What a report says of one run alone: when, where, in which files.
OF_ONE_RUN = ("created", "run", "files", "report_sha256", "page_sha256")
TRAIN_CONFIG = "dataset: digits\nmodel: resnet8\nwidth: 4\nnum_epochs: 1\nbatch_size: 64\n"


def _decided(value: object) -> object:
    """What was found, without `ELSEWHERE`."""
    if isinstance(value, dict):
        return {name: _decided(item) for name, item in value.items() if name not in ELSEWHERE}
    return [_decided(item) for item in value] if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Job:
    """A script with flags, which makes a run folder in the folder of the job.

    Args:
        script: its file.
        flags: by name; `original` stands for the weights that all jobs share.
    """

    script: str
    flags: dict

    def command(self, folder: Path, weights: Path) -> list[str]:
        """What starts it anew."""
        flags = {name: weights if value == "original" else value for name, value in self.flags.items()}
        return [self.script, *command_line({**SMALL, **flags, "log_dir": folder})]

    def again(self, folder: Path, weights: Path) -> list[str]:
        """What goes on with it; a run that had not even written down its flags is started anew."""
        begun = sorted(folder.glob("*/config.yaml"))
        return [self.script, "--resume", str(begun[0].parent)] if begun else self.command(folder, weights)

    def place(self, folder: Path) -> str:
        """How far a run had come, by what it has written."""
        if not (begun := sorted(folder.glob("*/config.yaml"))):
            return "no run folder yet"
        run = begun[0].parent
        if (run / "report.json").exists():
            return "all written, the checkpoint is of the end"
        if not (run / "checkpoint.pt").exists():
            return "run folder alone"
        checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
        return f"checkpoint of {checkpoint['name']}, step {checkpoint['step']}"

    def outcome(self, folder: Path) -> dict:
        """Everything that must not depend on kills: tensors by file and name, figures and report as they are."""
        (run,) = (path.parent for path in folder.glob("*/report.json"))
        report = json.loads((run / "report.json").read_text())
        found = {"report": _decided({name: value for name, value in report.items() if name not in OF_ONE_RUN})}
        found["figures"] = [_decided(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for path in sorted(run.glob("*.pt")):
            if path.name not in ("checkpoint.pt", "rewound.pt"):
                found |= {f"{path.name} {name}": value for name, value in torch.load(path, weights_only=True).items()}
        return found

    def left_over(self, folder: Path) -> str | None:
        """A file that a finished run has no use for, in words."""
        for run in (path.parent for path in folder.rglob("report.json")):
            for path in run.iterdir():
                if path.name.startswith(".") or path.name in ("run.lock", "nan.json"):
                    return f"{path} is left over"
        return None


class LeaderboardJob(Job):
    """A leaderboard, which goes on by the same command."""

    def command(self, folder: Path, weights: Path) -> list[str]:
        config = folder / "train.yaml"
        config.write_text(TRAIN_CONFIG)
        own = {"train_config": config, "output": folder / "out", "log_dir": folder / "runs"}
        return ["-m", self.script, *command_line({**self.flags, **own})]

    again = command

    def place(self, folder: Path) -> str:
        rows = len(read_rows(folder / "out" / "results.jsonl"))
        begun = len(list(folder.glob("runs/*/*/checkpoint.pt")))
        return f"{rows} rows, {begun} runs with a checkpoint" if begun else f"{rows} rows"

    def outcome(self, folder: Path) -> dict:
        rows = read_rows(folder / "out" / "results.jsonl")
        config = {name: _decided(row) for name, row in rows.items()}
        pages = {name: (folder / "out" / f"leaderboard.{name}").exists() for name in ("csv", "md", "html")}
        return {"rows": config, "pages": pages}


UNLEARN, CONTRASTIVE = "train_constrained_unlearning.py", "train_contrastive.py"
GIVEN = {"weight_path": "original", "judge": "validation"}
JOBS: dict[str, Job] = {
    "train": Job("train.py", {"forget": "random:40", "num_epochs": 10}),
    "constrained": Job(
        UNLEARN,
        {
            "forget": "random:40", "train_num_epochs": 3, "retrain": True, "num_epochs": 4, "finetune_num_epochs": 2,
            "batch_size": 10,
        },
    ),
    "scrub": Job(UNLEARN, {"method": "scrub", "num_epochs": 6, **GIVEN}),
    "random_labels --rewind": Job(UNLEARN, {"method": "random_labels", "rewind": True, "num_epochs": 6, **GIVEN}),
    "untrain_contrastive": Job(CONTRASTIVE, {"mode": "untrain_contrastive", "batch_size": 10, **GIVEN}),
    "lesson": Job(CONTRASTIVE, {"mode": "train", "num_epochs": 6, "discriminator_steps": 1, **GIVEN}),
    "leaderboard": LeaderboardJob(
        "benchmarks.leaderboard",
        {"methods": ["constrained", "delete"], "forget": ["class:3"], "workers": 2, "log_interval": 1},
    ),
}  # fmt: skip


def original_of(log_dir: str, launch: Callable) -> Path:
    """The weights that jobs start from; trained now where they are not there yet.

    Raises:
        UserError: they cannot be trained.
    """
    folder, job = Path(log_dir) / "original", JOBS["train"]
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*/report.json")):
        status = launch(job.command(folder, folder), folder / "said.txt").wait()
        if status:
            raise UserError(f"{folder}/said.txt: training ended with status {status}")
    return next(folder.glob("*/report.json")).with_name("model.pt")
