"""Entries of a report beside figures: request, run, data, trace, pictures, digests of files, its own digest."""

import datetime
import hashlib
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from data.datasets import Dataset
from data.exclusion import HASHES
from data.image_list import REQUESTS
from data.preprocessing import file_of, names_code
from data.split_record import PARTS, Splits
from evaluation.report.page import CARD, PAGE, model_card, report_page
from evaluation.report.requesters import list_digest, requester_page
from evaluation.report.tables import plain
from helper_functions.code_version import code_version
from helper_functions.run_folder import CHECKPOINT, CODE, ORIGINAL, RESULT
from helper_functions.training.devices import describe_environment
from unlearning.confirmation import FILE
from unlearning.experiment import Experiment
from unlearning.run import Unlearned
from unlearning.setup import PreparedRun

SCHEMA_VERSION = 1
# The report's own digest, which the page shows, and the page's digest, which the former therefore leaves out.
DIGEST, PAGE_DIGEST = "report_sha256", "page_sha256"
CARD_DIGEST = "model_card_sha256"
# File names of results: the plain `state_dict`, and the same in the format of the original's weights.
WEIGHTS = (RESULT, "infeasible*.*", "not_forgotten*.*", "unlearned.*")
# Other files of a run folder whose digests a report holds.
RECORDS = {
    "config.yaml": "configuration", "splits.npz": "splits", "metrics.jsonl": "figures", HASHES: "hashes",
    REQUESTS: "requests", CHECKPOINT: "checkpoint", FILE: "preprocessing", CODE: "method",
}  # fmt: skip
ENVIRONMENT = ("python", "torch", "device", "cpu", "cpu_threads")
TRACE_POINTS = 300
SHOWN_PICTURES = 24
INTERVALS = {"step": "step", "violation": "constraint/violation", "multiplier": "constraint/multiplier",
             "penalty_coefficient": "constraint/penalty_coefficient"}  # fmt: skip
EPOCHS = {"step": "step", "retain_fall": "constraint/fall", "retain_fall_bound": "constraint/fall_bound",
          "held_out_fall": "held_out/fall", "forget_top1": "forget/top1",
          "unseen_top1": "unseen/matched_top1"}  # fmt: skip


def complete_report(
    run: PreparedRun, outcome: Unlearned | None, script: str, figures: dict, removed: Collection[Path] = ()
) -> tuple[dict, dict[str, bytes]]:
    """The whole report, with its own digest and those of its pages, and these by name; arguments as of `write_report`.

    `figures` are the entries that follow from the models; files in `removed` do not stay, and are not listed.
    """
    args, experiment, folder = run.args, run.experiment, run.record.folder
    cost, kept = run.costs.get("unlearned"), folder / "environment.json"
    # Hardware and versions as of the run's start.
    environment = json.loads(kept.read_text()) if kept.is_file() else describe_environment(experiment.precision.device)
    report = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "request": request_of(args, experiment.splits, experiment.dataset),
        "run": {
            "name": folder.name,
            "script": script,
            "method": None if outcome is None else outcome.method,
            "judge": args.judge,
            "seed": args.seed,
            "seconds": None if cost is None else cost.seconds,
            "configuration_sha256": file_digest(folder / "config.yaml"),
            "code": code_version(),
            **{name: environment.get(name) for name in ENVIRONMENT},
            "precision": str(experiment.precision.dtype).removeprefix("torch."),
        },
        "data": data_of(experiment),
        **figures,
        "trace": trace_of(folder / "metrics.jsonl"),
        "files": [
            {"role": role, "path": name, "sha256": file_digest(path), "bytes": path.stat().st_size}
            for role, name, path in listed_files(folder, args) if path.is_file() and path not in removed
        ],
    }  # fmt: skip
    pictures = sample_pictures(experiment.splits, experiment.dataset) if args.show_images and outcome else []
    if pictures:
        report["pictures"] = [described for described, _ in pictures]
    report = plain(report)
    pages = {entry["page"]: requester_page(report, entry).encode() for entry in report.get("requesters", [])}
    for entry in report.get("requesters", []):
        entry[PAGE_DIGEST] = hashlib.sha256(pages[entry["page"]]).hexdigest()
    if "verdict" in report:
        pages[CARD] = model_card(report).encode()
        report[CARD_DIGEST] = hashlib.sha256(pages[CARD]).hexdigest()
    report[DIGEST] = report_digest(report)
    page = report_page(report, [png for _, png in pictures]).encode()
    return report | {PAGE_DIGEST: hashlib.sha256(page).hexdigest()}, {PAGE: page, **pages}


def how_forgotten(outcome: Unlearned) -> dict:
    """Part of the entry `forget`, and what only some methods have: a line from the original, a discriminator."""
    found = {"dial": outcome.dial, "held_out_discriminator_auc": outcome.held_out_auc}
    how = {
        "method": outcome.method, "target": outcome.target, "chosen_epoch": outcome.chosen,
        "line_search": outcome.events, "multiplier": outcome.multiplier, "share": outcome.share,
    }  # fmt: skip
    return {"forget": how, **{name: value for name, value in found.items() if value}}


def request_of(args: Any, splits: Splits, dataset: Dataset) -> dict:
    """Request id, requester, the request as written, number of images, and the digest of their list."""
    return {
        "id": args.request_id or None,
        "requester": args.requester or None,
        "forget": splits.forget_request,
        "images": len(splits.forget),
        "sha256": list_digest(splits.forget.tolist(), dataset.file_names),
    }


def data_of(experiment: Experiment) -> dict:
    """Name of the data set, numbers of classes and images, and whether images are identified by file names.

    `labels` is there where the classes are superclasses.
    """
    splits, dataset = experiment.splits, experiment.dataset
    return {
        "dataset": dataset.name,
        "classes": dataset.num_classes,
        "named_by": "number" if dataset.file_names is None else "file name",
        "images": {name: len(getattr(splits, name)) for name in PARTS},
        **({"labels": "superclass"} if dataset.subclasses else {}),
    }


def listed_files(folder: Path, args: Any) -> list[tuple[str, str, Path]]:
    """Role, name and path of every file that a report may depend on, weights outside of the folder included.

    Names of files in the folder are relative to it, others as given.
    """
    own = [(role, name, folder / name) for name, role in RECORDS.items()]
    saved = [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern)) if path.is_file()]
    own += [("weights", path.name, path) for path in saved]
    # Models that the run trained itself; given ones lie elsewhere.
    own += [("original", ORIGINAL, folder / ORIGINAL)] if args.weight_path is None else []
    own += [("retrained", "retrained.pt", folder / "retrained.pt")] if args.retrain else []
    own += [("original", args.weight_path, Path(args.weight_path))] if args.weight_path is not None else []
    code = [file_of(args.transform)] if names_code(args.transform) else []
    own += [("transform", path, Path(path)) for path in code]
    own += [("classes", args.class_order, Path(args.class_order))] if args.class_order is not None else []
    return own + [("retrained", path, Path(path)) for path in args.retrained_weight_path]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trace_of(path: Path) -> dict:
    """Measurements during unlearning from a `metrics.jsonl`: columns by `intervals` and by `epochs`, thinned evenly.

    `intervals` belong to the stage whose constraint is the retain budget; they are empty for a method without one.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {
        "intervals": _columns([line for line in lines if "constraint/violation" in line], INTERVALS),
        "epochs": _columns([line for line in lines if "constraint/fall" in line], EPOCHS),
    }


def _columns(lines: list[dict], names: dict[str, str]) -> dict[str, list]:
    kept = thinned(lines, TRACE_POINTS)
    values = {name: [line.get(key) for line in kept] for name, key in names.items()}
    return {name: [float(f"{v:.6g}") if isinstance(v, float) else v for v in column] for name, column in values.items()}


def thinned(values: list, most: int) -> list:
    """At most `most` of the values, evenly spaced, including the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def sample_pictures(splits: Splits, dataset: Dataset) -> list[tuple[dict, bytes]]:
    """Up to 24 forgotten images, evenly spaced over the forget set: each one's entry in the report, and a PNG file."""
    found = []
    for index in thinned(splits.forget.tolist(), SHOWN_PICTURES):
        name = index if dataset.file_names is None else dataset.file_names[index]
        png = encoded(dataset.picture(index))
        label = dataset.classes[int(splits.labels[index])]
        found.append(({"image": name, "label": label, "sha256": hashlib.sha256(png).hexdigest()}, png))
    return found


def encoded(image: Tensor) -> bytes:
    """An image, uint8 `[C, H, W]` with one or three channels, as a PNG file."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    return file.getvalue()


def report_digest(report: dict) -> str:
    """SHA-256 of a report's canonical JSON without its two digests: keys sorted, ASCII, no white space.

    It detects damage and accidental changes. Someone who changes a report on purpose can recompute it; a signature, or
    a copy of the digest out of their reach, detects that.
    """
    content = {name: value for name, value in report.items() if name not in (DIGEST, PAGE_DIGEST)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
