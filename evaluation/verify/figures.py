"""Checks of a report's files and figures, recomputed from a run's configuration, splits, weights and data."""

import base64
import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from data.copies import find_copies, find_near_duplicates, near_distance
from data.image_list import REQUESTS, load_requests
from data.preprocessing import file_of
from evaluation.judge import Judgement
from evaluation.report.classes import class_falls
from evaluation.report.page import PAGE, PICTURE
from evaluation.report.record import (
    ENVIRONMENT,
    PAGE_DIGEST,
    data_of,
    file_digest,
    listed_files,
    request_of,
    trace_of,
)
from evaluation.report.requesters import evidence_for
from evaluation.report.tables import plain
from evaluation.report.write import evaluation, judge_models, verdict_of
from evaluation.verify.checks import ROUNDING, Check, all_near, at, exact, near, titled, tolerance_of
from helper_functions.errors import UserError
from helper_functions.run_folder import RESULTS
from helper_functions.training.devices import describe_environment
from unlearning.confirmation import accuracies, kept
from unlearning.evaluator import JUDGED
from unlearning.experiment import Experiment
from unlearning.sequence import DIGITS

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run to check.

    folder: of the run. report: content of report.json. script: name of the one that ran. args: its flags, from
    config.yaml. moved: flags that replace these, and the present paths of weights outside of the folder.
    """

    folder: Path
    report: dict
    script: str
    args: Any
    moved: dict[str, Any]

    @property
    def method(self) -> str | None:
        """The unlearning method; None where nothing was forgotten."""
        return getattr(self.args, "mode", None) or (self.args.method if self.args.untrain else None)

    @functools.cached_property
    def files(self) -> list[tuple[str, str, Path]]:
        """Role, name and present path of every file of `listed_files`."""
        moved = {
            "original": [path for path in [self.moved.get("original_weight_path")] if path],
            "retrained": list(self.moved.get("retrained_weight_path", [])),
            "transform": [file_of(path) for path in [self.moved.get("transform")] if path],
        }
        listed = listed_files(self.folder, self.args)
        return [(role, name, Path(moved[role].pop(0)) if moved.get(role) else path) for role, name, path in listed]

    @functools.cached_property
    def digests(self) -> dict[tuple[str, str], object]:
        """Digests of files in the report, by role and name."""
        files = self.report.get("files")
        files = files if isinstance(files, list) else []
        return {(str(at(file, "role")), str(at(file, "path"))): at(file, "sha256") for file in files}

    @functools.cached_property
    def experiment(self) -> Experiment:
        """Data and splits of the run, in its precision."""
        precision = PRECISIONS.get(str(at(self.report, "run", "precision")), self.args.precision)
        places = ("data_dir", "model", "device", "transform")
        moved = {name: value for name, value in self.moved.items() if name in places}
        # --resume takes the splits of the run folder.
        return Experiment(dataclasses.replace(self.args, resume=str(self.folder), precision=precision, **moved))


def check_files(run: Recorded) -> list[Check]:
    """The digest of every file; a missing model or checkpoint may have been deleted on purpose."""
    paths = {(role, name): path for role, name, path in run.files}
    checks = []
    for role, name in {**paths, **run.digests}:
        told, path = run.digests.get((role, name)), paths.get((role, name))
        if path is not None and path.is_file():
            checks.append(exact(f"{role}: {name}", told, file_digest(path)))
        elif told is not None or path is None:
            optional = role in (("weights",) if path is None else ("original", "retrained", "checkpoint"))
            checks.append(Check(f"{role}: {name}", "a file", "missing", None if optional else False))
    return checks


def check_figures(run: Recorded) -> list[Check]:
    """Request, data, trace, figures, verdict and pictures; UserError where data or weights are missing."""
    models = _models(run)
    judgements = judge_models(models, run.experiment, run.args)
    found, told = plain(evaluation(judgements, run.experiment)), at(run.report, "models")
    device, images = run.experiment.precision.device, data_of(run.experiment)["images"]
    here = describe_environment(device)
    # On a CPU, with the same processor and versions, figures are reproducible up to rounding.
    same = device.type == "cpu" and all(at(run.report, "run", name) == here[name] for name in ENVIRONMENT)

    checks = _records(run, same)

    def tolerance(figure: str, told: Any = None) -> float | None:
        return ROUNDING if same else tolerance_of(figure, images, told)

    checks += _preprocessing(run, models, tolerance)
    for name, figures in told.items() if isinstance(told, dict) else ():
        checks += _figures(name, figures, at(found, "models", name), tolerance)
    name = "loss_histograms"
    histograms = all_near("loss histograms", run.report.get(name), found[name], tolerance("forget_top1"))
    complete = isinstance(told, dict) and set(told) == set(models)
    name = "gap_intervals"
    intervals = all_near("intervals of gaps", run.report.get(name), found.get(name), tolerance("forget_top1"))
    checks += [
        check if complete else dataclasses.replace(check, found="missing", holds=None)
        for check in (histograms, intervals)
    ]  # fmt: skip
    names = ("splits_sha256", "final_test", "judged_retain_images")
    checks += [exact(name.replace("_", " "), run.report.get(name), found[name]) for name in names]
    checks += _requesters(run, judgements, tolerance("mia_auc")) + _class_falls(run, judgements, same)
    return checks + _verdict(run, judgements, tolerance("retain_top1")) + _pictures(run)


def _models(run: Recorded) -> dict[str, nn.Module]:
    """The models whose weights exist, by name; UserError where the resulting ones do not exist or cannot be read."""
    told = [name for role, name in run.digests if role == "weights" and name in RESULTS]
    results = [path for name in (*told, *RESULTS) if (path := run.folder / name).is_file()]
    if not results:
        raise UserError(f"--verify {run.folder}: the resulting weights are not there ({' or '.join(RESULTS)})")
    if run.method is None:
        return {"original": run.experiment.model(str(results[0]))}
    retrained = [path for role, _, path in run.files if role == "retrained"]
    named = [("original", path) for role, _, path in run.files if role == "original"] + [("unlearned", results[0])]
    named += [("retrained" if n == 1 else f"retrained-{n}", path) for n, path in enumerate(retrained, 1)]
    return {name: run.experiment.model(str(path)) for name, path in named if path.is_file()}


def _records(run: Recorded, same: bool) -> list[Check]:
    """Exact checks of all that is not a measurement; `same`: on the run's own processor and versions."""
    report, experiment, splits = run.report, run.experiment, run.experiment.splits
    request, told = request_of(run.args, splits, experiment.dataset), report.get("request")
    titles = {"id": "request id", "requester": "requester", "forget": "what to forget, as written",
              "images": "images to forget", "sha256": "digest of their list"}  # fmt: skip
    checks = [exact(title, at(told, name), request[name]) for name, title in titles.items()]
    expected = {"script": run.script, "method": run.method, "judge": run.args.judge, "seed": run.args.seed}
    checks += [exact(name, at(report, "run", name), value) for name, value in expected.items()]
    distance = near_distance(run.args.near_duplicates, experiment.dataset)
    near = None if distance is None else find_near_duplicates(experiment.dataset, splits, distance)
    similar = exact("near-duplicates elsewhere", report.get("near_duplicates"), near)
    return [
        *checks,
        similar if same or similar.holds else dataclasses.replace(similar, holds=None),
        exact("data set and its parts", report.get("data"), data_of(experiment)),
        exact("copies of forget images elsewhere", report.get("copies"), find_copies(experiment.dataset, splits)),
        exact("images of earlier requests", at(report, "sequence", "forgotten_images") or 0, splits.num_forgotten),
        all_near("trace", report.get("trace"), trace_of(run.folder / "metrics.jsonl"), 0),
    ]


def _preprocessing(run: Recorded, models: dict[str, nn.Module], tolerance: Callable[..., float | None]) -> list[Check]:
    """What the model sees, and the accuracy of the original that was measured before any work."""
    told, experiment = run.report.get("preprocessing"), run.experiment
    # Data and code may lie elsewhere now.
    seen = plain(experiment.seen() | {name: getattr(run.args, name) for name in ("data_dir", "transform")})
    checks = [exact(f"input: {name}", at(told, name), value) for name, value in seen.items()]
    recorded = dataclasses.asdict(found) if (found := kept(run.folder)) is not None else {}
    checks += [exact(f"input: {name}", at(told, name), recorded.get(name)) for name in ("confirmed_by", "warning")]
    found = accuracies(experiment, models["original"]) if "original" in models else {}
    for part, top1 in found.items():
        name = f"original before any work: {part.replace('_', '-')}"
        figure = "retain_top1" if part in ("retain", "train") else "forget_top1" if part == "forget" else "unseen_top1"
        checks.append(near(name, at(told, "accuracy", part), top1, tolerance(figure) or 0))
    return checks


def _figures(name: str, told: Any, found: dict | None, tolerance: Callable[..., float | None]) -> list[Check]:
    """Every figure of one model; a comparison with models that are missing is not checked."""
    if found is None:
        return [Check(f"{name}: every figure", "", "missing", None)]
    checks = []
    for figure in {**(told if isinstance(told, dict) else {}), **found}:
        allowed = tolerance(figure, told)
        check = near(f"{name}: {titled(figure)}", at(told, figure), found.get(figure), allowed or 0)
        if figure not in found:
            check = dataclasses.replace(check, found="missing", holds=None)
        elif allowed is None and not check.holds:
            check = dataclasses.replace(check, holds=None)
        checks.append(check)
    return checks


def _requesters(run: Recorded, judgements: dict[str, Judgement], tolerance: float) -> list[Check]:
    path, entries = run.folder / REQUESTS, run.report.get("requesters")
    if not path.is_file():
        return [exact("requesters", entries, None)]
    if "original" not in judgements:
        return [Check("requesters", "", "missing", None)]
    found = plain(evidence_for(load_requests(path), judgements, run.experiment))
    told = [
        {key: value for key, value in entry.items() if key != PAGE_DIGEST} if isinstance(entry, dict) else entry
        for entry in (entries if isinstance(entries, list) else [])
    ]
    return [all_near("requesters", told, found, tolerance)]


def _class_falls(run: Recorded, judgements: dict[str, Judgement], same: bool) -> list[Check]:
    what, told = "classes that lost most", run.report.get("class_falls")
    if run.method is None:
        return [exact(what, told, None)]
    if "original" not in judgements:
        return [Check(what, "", "missing", None)]
    found = plain(class_falls(judgements, run.experiment, run.args.judged_retain_images or JUDGED))
    check = all_near(what, told, found, ROUNDING)
    # Elsewhere, one image that is classified differently changes the list.
    return [check if same or check.holds else dataclasses.replace(check, holds=None)]


def _verdict(run: Recorded, judgements: dict[str, Judgement], tolerance: float) -> list[Check]:
    if run.method is None:
        return [exact("verdict", run.report.get("verdict"), None)]
    splits, target = run.experiment.splits, run.experiment.target(run.args.forget_target)
    how = {"request": splits.forget_request, "images": len(splits.forget), "method": run.method, "target": target}
    checks = [exact(f"forgetting: {name}", at(run.report, "forget", name), value) for name, value in how.items()]
    if "original" not in judgements:
        return [*checks, Check("verdict", "", "missing", None)]
    spent = at(run.report, "sequence", "budget_spent")
    left = run.args.retain_budget - (spent if isinstance(spent, int | float) else 0.0)
    args = dataclasses.replace(run.args, retain_budget=round(left, DIGITS))
    found = plain(verdict_of(judgements, args, target, run.experiment))
    for name, value in found.items():
        compare = exact if isinstance(value, bool | str) else functools.partial(near, tolerance=tolerance)
        checks.append(compare(f"verdict: {name.replace('_', ' ')}", at(run.report, "verdict", name), value))
    return checks


def _pictures(run: Recorded) -> list[Check]:
    """Whether the page shows those images of the data set that it names."""
    told, page = run.report.get("pictures"), run.folder / PAGE
    if not told or not page.is_file():
        return []
    dataset, splits = run.experiment.dataset, run.experiment.splits
    names = dataset.file_names or range(len(dataset.labels))
    places = {names[index]: index for index in splits.forget.tolist()}
    shown = PICTURE.findall(page.read_text(errors="replace"))
    try:
        same = len(shown) == len(told) and all(
            np.array_equal(decoded(base64.b64decode(data)), dataset.picture(places[at(picture, "image")]).numpy())
            for picture, data in zip(told, shown, strict=True)
        )
    except (ValueError, KeyError, TypeError):  # no PNG, no such image, or no name of one
        same = False
    return [Check("pictures on the page", f"{len(told)} images", f"{len(shown)} images", same)]


def decoded(png: bytes) -> np.ndarray:
    """The pixels of a PNG file, uint8 `[C, H, W]`; ValueError where it is none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG file: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
