"""What a script leaves in its run folder, read back."""

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from helper_functions.run_folder import result_weights

UNLEARN = "train_constrained_unlearning.py"
CONTRASTIVE = "train_contrastive.py"
FIGURES = {
    f"{part}_{figure}"
    for part in ("retain", "forget", "forget_true", "unseen", "validation", "test")
    for figure in ("top1", "top1_low", "top1_high", "top5", "loss")
} | {f"{attack}_auc{end}" for attack in ("mia", "discriminator") for end in ("", "_low", "_high")}
# Of a model beside an original.
EXPOSURE = {f"retain_exposure{end}" for end in ("", "_low", "_high")}
VERDICT = {
    "feasible", "forgotten", "retain_budget", "slack", "margin", "held_out_fall", "held_out_margin", "met_before",
    "outcome",
}  # fmt: skip
FIGURES |= {"mia_accuracy", "mia_tpr", "mia_efficacy"}
FIGURES |= {
    f"{name}{end}" for name in ("mia_worst_tenth", "discriminator_worst_tenth", "retain_mia_auc")
    for end in ("", "_low", "_high")
}  # fmt: skip


def status_of(verdict: dict) -> int:
    """The exit status that belongs to a verdict."""
    return 3 if not verdict["feasible"] else 0 if verdict["forgotten"] else 4


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def results_of(folder: Path) -> dict:
    """The report without what belongs to one run: when, where, at what cost, in which files."""
    own = ("created", "run", "cost", "files", "report_sha256", "page_sha256", "model_card_sha256")
    return {name: value for name, value in report_of(folder).items() if name not in own}


def weights_of(folder: Path, name: str | None = None) -> dict[str, torch.Tensor]:
    """The weights that a run ended with, or others in its folder."""
    return torch.load(result_weights(folder) if name is None else folder / name, weights_only=True)


def figures_of(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without what the clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def unexplained_tags(folder: Path) -> list[str]:
    """Tags of a run's events without a row in the table of runs/README.md, where PART is a name and `*` is anything."""
    table = (Path(__file__).parents[2] / "runs/README.md").read_text().partition("\n## TensorBoard")[2]
    cells = re.findall(r"^\| (`.*?) \|", table.partition("\n## ")[0], re.M)
    names = re.findall("`(.+?)`", " ".join(cells))
    known = [re.escape(name).replace("PART", r"\w+").replace(r"\*", ".+") for name in names]
    tags = events_of(folder).Tags()
    found = [tag for kind in ("scalars", "histograms", "images") for tag in tags[kind]]
    assert found and known
    return [tag for tag in found if not any(re.fullmatch(name, tag) for name in known)]


def hparams_of(folder: Path) -> set[str]:
    """Names of the flags in TensorBoard's table of runs."""
    started = events_of(folder).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    return set(HParamsPluginData.FromString(started).session_start_info.hparams)


def events_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0}).Reload()


def recorded_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The finite figures of metrics.jsonl by their names, as TensorBoard holds them: float32, in their order."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        step = line.pop("step")
        for name, value in line.items():
            if value is not None:
                found.setdefault(name, []).append((step, float(np.float32(value))))
    return found


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of the run, without the final figures beside the hyper-parameters."""
    events = events_of(folder)
    names = [name for name in events.Tags()["scalars"] if not name.startswith("final/")]
    points = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
    return {name: [(step, value) for step, value in found if math.isfinite(value)] for name, found in points.items()}


def measure_on_line(*shares: float, leave_budget: bool = False) -> None:
    """Let this process end at one of these shares of its line, and leave its budget: nothing else makes it."""
    import unlearning.run
    from unlearning.constrained.trainer import ConstrainedTrainer

    unlearning.run.SHARES = shares
    if leave_budget:
        ConstrainedTrainer._keeps_retain_budget = lambda *_: True
