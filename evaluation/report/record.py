"""What a report says beside figures: request, run, data, trace, digests of files, and the digest of itself."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from data.datasets import Dataset
from data.split_record import PARTS, Splits
from helper_functions.code_version import code_version
from helper_functions.run_folder import RESULT
from helper_functions.training.devices import describe_environment
from helper_functions.training.loop import Cost
from unlearning.experiment import Experiment

SCHEMA_VERSION = 1
# The report's own digest, which the page shows, and the page's digest, which therefore it cannot cover.
DIGEST, PAGE_DIGEST = "report_sha256", "page_sha256"
# What a run may have saved its result as: the plain `state_dict`, and the same in the format that it came in.
WEIGHTS = (RESULT, "infeasible*.*", "unlearned.*")
# What else of a run folder a report rests on.
RECORDS = {"config.yaml": "configuration", "splits.npz": "splits", "metrics.jsonl": "figures"}
ENVIRONMENT = ("python", "torch", "device", "cpu", "cpu_threads")
TRACE_POINTS = 300
INTERVALS = {
    "step": "step",
    "violation": "constraint/violation",
    "multiplier": "constraint/multiplier",
    "penalty_coefficient": "constraint/penalty_coefficient",
}
EPOCHS = {
    "step": "step",
    "retain_fall": "constraint/fall",
    "retain_fall_bound": "constraint/fall_bound",
    "forget_top1": "forget/top1",
    "unseen_top1": "unseen/matched_top1",
}


def request_of(args: Any, splits: Splits, dataset: Dataset) -> dict:
    """Who asked for what: references, the request as written, how many images, and the digest of their list."""
    return {
        "id": args.request_id or None,
        "requester": args.requester or None,
        "forget": splits.forget_request,
        "images": len(splits.forget),
        "sha256": list_digest(splits.forget.tolist(), dataset.file_names),
    }


def list_digest(images: list[int], file_names: tuple[str, ...] | None) -> str:
    """SHA-256 of a list of images, one a line: file names in the order of their bytes, else numbers in their order.

    What `LC_ALL=C sort -u list | sha256sum` says of file names, and `sort -nu list | sha256sum` of numbers.
    """
    if file_names is None:
        lines = [str(image).encode() for image in sorted(set(images))]
    else:
        # Names that are no UTF-8 come from Python with their bytes in disguise.
        lines = sorted({file_names[image].encode("utf-8", "surrogateescape") for image in images})
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()


def data_of(experiment: Experiment) -> dict:
    """The data set: its name, how many classes and images, and whether images are told apart by file names."""
    splits, dataset = experiment.splits, experiment.dataset
    return {
        "dataset": dataset.name,
        "classes": dataset.num_classes,
        "named_by": "number" if dataset.file_names is None else "file name",
        "images": {name: len(getattr(splits, name)) for name in PARTS},
    }


def run_of(folder: Path, script: str, args: Any, experiment: Experiment, method: str | None, cost: Cost | None) -> dict:
    """By what, with which settings, and on what a run came about; hardware and versions as of its beginning."""
    kept = folder / "environment.json"
    environment = json.loads(kept.read_text()) if kept.is_file() else describe_environment(experiment.precision.device)
    return {
        "name": folder.name,
        "script": script,
        "method": method,
        "judge": args.judge,
        "seed": args.seed,
        "seconds": None if cost is None else cost.seconds,
        "configuration_sha256": file_digest(folder / "config.yaml"),
        "code": code_version(),
        **{name: environment.get(name) for name in ENVIRONMENT},
        "precision": str(experiment.precision.dtype).removeprefix("torch."),
    }


def files_of(folder: Path, args: Any) -> list[dict]:
    """Role, path, SHA-256 and size of every file that a report rests on and that is there."""
    return [
        {"role": role, "path": name, "sha256": file_digest(path), "bytes": path.stat().st_size}
        for role, name, path in listed_files(folder, args)
        if path.is_file()
    ]


def listed_files(folder: Path, args: Any) -> list[tuple[str, str, Path]]:
    """Role, name and place of every file that a report may rest on; of weights from elsewhere, too.

    Names of the folder's own files are relative to it, others as they were given.
    """
    own = [(role, name, folder / name) for name, role in RECORDS.items()]
    own += [("weights", path.name, path) for path in saved_weights(folder)]
    # Those that the run trained itself; what it was given lies elsewhere.
    own += [("original", "original.pt", folder / "original.pt")] if args.weight_path is None else []
    own += [("retrained", "retrained.pt", folder / "retrained.pt")] if args.retrain else []
    own += [("original", args.weight_path, Path(args.weight_path))] if args.weight_path is not None else []
    return own + [("retrained", path, Path(path)) for path in args.retrained_weight_path]


def saved_weights(folder: Path) -> list[Path]:
    """The files of weights that a run has ended with."""
    return [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern)) if path.is_file()]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trace_of(path: Path) -> dict:
    """The course of forgetting from a `metrics.jsonl`: columns by `intervals` and by `epochs`, thinned out evenly.

    `intervals` are those of the stage whose constraint is the retain budget; of a method without one they are empty.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    # The constraint of fine-tuning, in other units, has no surrogate.
    return {
        "intervals": _columns([line for line in lines if "constraint/surrogate" in line], INTERVALS),
        "epochs": _columns([line for line in lines if "constraint/fall" in line], EPOCHS),
    }


def _columns(lines: list[dict], names: dict[str, str]) -> dict[str, list]:
    kept = thinned(lines, TRACE_POINTS)
    return {name: [_short(line.get(key)) for line in kept] for name, key in names.items()}


def thinned(values: list, most: int) -> list:
    """At most so many of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def _short(value: float | None) -> float | None:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def now() -> str:
    """The time in UTC, to the second, by ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def report_digest(report: dict) -> str:
    """SHA-256 of a report's canonical JSON, its two digests left out: keys sorted, ASCII, no white space.

    It shows damage and careless change. Whoever changes a report on purpose can compute it anew: against that helps a
    signature, or the digest kept where they cannot reach it.
    """
    content = {name: value for name, value in report.items() if name not in (DIGEST, PAGE_DIGEST)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
