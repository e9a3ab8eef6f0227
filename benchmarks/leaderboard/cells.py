"""One cell of the leaderboard: a method on a forget set and a seed, from flags by the main script to a stored row."""

import contextlib
import dataclasses
import functools
import io
import json
from pathlib import Path

import torch

import test as judge
import train
import train_constrained_unlearning as script
from benchmarks.leaderboard.trained_models import ELSEWHERE, LATER, cache_of, model_key
from benchmarks.sweeps.sweep import append_row, begun_run, command_line, read_rows
from data.arguments import DataArgs
from evaluation.gaps import retrained_of
from helper_functions.code_version import code_words
from helper_functions.errors import UserError
from helper_functions.files import key_of, load_config
from helper_functions.run_folder import CHECKPOINT, RESULTS, result_weights, run_quietly
from models.arguments import ModelArgs
from unlearning.experiment import TARGETS
from unlearning.methods import METHODS, get_method
from unlearning.methods.method import ClassCounts
from unlearning.methods.own import fingerprint, is_own, stem_of

# Kinds of forget sets that use the tuned flags of another kind unless they have their own.
SIMILAR = {
    "superclass": "class", "subclass": "random", "file": "random", "long_tailed": "random", "memorised": "random",
}  # fmt: skip
VARIANTS = {"scrub_r": {"method": "scrub", "rewind": True}}  # rows that need no file of flags
WEIGHTS = (*RESULTS, CHECKPOINT)  # are removed once a cell is finished
# Figures that all methods on a forget set and seed share: a line of references.jsonl, stored once.
SHARED, REFERENCES = ("original", "retrained"), "references.jsonl"
# Flags that only locate files on the machine of the run.
PLACES = {
    "cache_dir", "config_file", "data_dir", "log_dir", "name_prefix", "resume", "retrained_weight_path", "splits",
    "weight_path",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of the main script; models are given by their run folders."""

    method: str  # name of the row
    forget: str  # as the leaderboard names it
    seed: int  # of splits, original and method
    flags: dict  # of the main script, without those of `ELSEWHERE` and without weights
    original: str
    retrained: tuple[str, ...]
    log_dir: str
    log_interval: int
    further: dict = dataclasses.field(default_factory=dict)  # the flags of `FurtherArgs` that are set

    @functools.cached_property
    def key(self) -> str:
        """Hash of everything that the figures depend on."""
        flags = {name: value for name, value in self.flags.items() if name not in ELSEWHERE}
        if "method" in flags:
            flags["method"] = fingerprint(flags["method"])
        models = [model_key(load_config(Path(folder) / "config.yaml")) for folder in (self.original, *self.retrained)]
        # Absent when empty: keys of cells without further figures stay those of existing records.
        further = {"further": self.further} if self.further else {}
        return key_of({"method": self.method, "forget": self.forget, "flags": flags, "models": models, **further})


def data_flags(train_config: str) -> dict:
    """The flags of data set and model in a training's configuration, which the main script shares."""
    args = train.get_parser().parse(["--config_file", train_config])
    names = [field.name for part in (DataArgs, ModelArgs) for field in dataclasses.fields(part)]
    given = {name: getattr(args, name) for name in (*names, "device", "precision") if name not in ("forget", "splits")}
    return {name: value for name, value in given.items() if value is not None and value != LATER.get(name)}


def kind_of(forget: str, labels: str | None = None) -> str:
    """The kind of a forget set; a class is a `subclass` where the labels are those of superclasses."""
    kind = forget.partition(":")[0]
    return "subclass" if (kind, labels) == ("class", "superclass") else kind


def applies(method: str, kind: str) -> bool:
    """Whether the method of a row takes forget sets of this kind, of whose classes there are unseen images."""
    some = torch.ones(1)
    retain = some * (kind not in ("class", "superclass"))
    name = method if is_own(method) or method in METHODS else "constrained"
    return get_method(name).refuses(TARGETS.get(kind, "unseen"), ClassCounts(some, retain, some)) is None


def method_flags(tuned: str | None, kind: str, method: str) -> dict:
    """A row's flags: TUNED/KIND/METHOD.yaml, else the defaults of the method of that name, else a UserError."""
    if is_own(method):
        get_method(method)
        return {**tuned_flags(tuned, kind, method), "method": method}
    if found := tuned_flags(tuned, kind, method):
        return found
    if method not in METHODS and method not in VARIANTS:
        raise UserError(f"--methods {method}: no method, and no {kind}/{method}.yaml in --tuned {tuned}")
    return VARIANTS.get(method, {"method": method})


def tuned_flags(tuned: str | None, kind: str, method: str) -> dict:
    """The content of TUNED/KIND/METHOD.yaml, or of that of a similar kind; empty where there is none."""
    for place in (kind, SIMILAR.get(kind, kind)):
        path = Path(tuned or "") / place / f"{stem_of(method)}.yaml"
        if tuned is not None and path.is_file():
            return load_config(path)
    return {}


def is_tuned(tuned: str | None, row: dict) -> bool:
    """Whether a row of a method of the user's own has the flags that were tuned for it; others count as tuned."""
    if not is_own(row["method"]):
        return True
    found = tuned_flags(tuned, kind_of(row["forget"], row["config"].get("labels")), row["method"])
    return bool(found) and all(row["config"].get(name) == value for name, value in found.items() if name != "method")


def run_cell(cell: dict) -> dict:
    """Run a cell, given as a dict, or resume it where it stopped; returns its row."""
    cell = Cell(**cell)
    flags = {**cache_of(cell.original), **cell.flags, "figures": False, "log_dir": cell.log_dir}
    flags |= {"log_interval": cell.log_interval, "weight_path": f"{cell.original}/model.pt"}
    argv = command_line(flags) + ["--retrained_weight_path", *(f"{folder}/model.pt" for folder in cell.retrained)]
    name = f"{stem_of(cell.method)}-{cell.key}"
    if begun := begun_run(cell.log_dir, name):
        # Code is run only where it is named.
        argv = ["--resume", begun, *(["--method", cell.flags["method"]] if is_own(cell.flags["method"]) else [])]
    folder, report = run_quietly(script, argv, name)
    row = _row(cell, folder, report)
    if cell.further:
        _add_further(row, folder, cell)
    for name in WEIGHTS:
        (folder / name).unlink(missing_ok=True)
    return short(row)


def _row(cell: Cell, folder: Path, report: dict) -> dict:
    models, environment = report["models"], json.loads((folder / "environment.json").read_text())
    finished = json.loads((Path(cell.retrained[0]) / "report.json").read_text())
    return {
        "key": cell.key, "method": cell.method, "forget": cell.forget, "seed": cell.seed,
        "config": flags_of(load_config(folder / "config.yaml")),
        "figures": models["unlearned"], "original": models["original"],
        "retrained": list(retrained_of(models).values()), "verdict": report["verdict"],
        "cost": report["cost"]["unlearned"], "retrained_cost": finished["cost"]["retrained"],
        "environment": {**environment, "code": code_words(report["run"]["code"])},
    }  # fmt: skip


def _add_further(row: dict, run: Path, cell: Cell) -> None:
    """Add the further figures of the unlearned model, the original and the retrained models, by test.py."""
    weights = str(result_weights(run))
    shared = {field.name for field in dataclasses.fields(judge.Args)} - {"forget"}
    own = {name: value for name, value in cell.flags.items() if name in shared and value is not None}
    own |= {"weight_path": weights, "splits": run / "splits.npz", "original_weight_path": f"{cell.original}/model.pt"}
    own |= {"retrained_weight_path": [f"{folder}/model.pt" for folder in cell.retrained]}
    if "shadow_models" in cell.further:
        own |= {"shadow_method": cell.flags["method"]} if is_own(cell.flags["method"]) else {}
        own |= {"shadow_config": run / "config.yaml", "shadow_dir": run.parent.parent / "shadows"}
    with contextlib.redirect_stdout(io.StringIO()):
        models = judge.main(judge.get_parser().parse(command_line({**own, **cell.further})))["models"]
    others = [models[weights], models["original"], *retrained_of(models).values()]
    parts = [row["figures"], row["original"], *row["retrained"]]
    for figures, further in zip(parts, others, strict=True):
        figures |= {name: value for name, value in further.items() if name not in figures}


def short(row: dict) -> dict:
    """The same with real numbers to six significant digits, for records in the repository."""
    return json.loads(json.dumps(row), parse_float=lambda digits: float(f"{float(digits):.6g}"))


def read_cells(path: Path) -> dict[str, dict]:
    """Finished cells by key, each with the figures of its original and its retrained models."""
    references = read_rows(path.with_name(REFERENCES))
    return {key: {**references.get(row.get("reference"), {}), **row} for key, row in read_rows(path).items()}


def append_cell(path: Path, row: dict) -> None:
    """Add a finished cell, and the figures that it shares with other cells unless they are stored already."""
    shared = {name: row[name] for name in SHARED}
    key, references = key_of(shared), path.with_name(REFERENCES)
    if key not in read_rows(references):
        append_row(references, {"key": key, **shared})
    append_row(path, {**{name: value for name, value in row.items() if name not in SHARED}, "reference": key})


def flags_of(config: dict | None) -> dict[str, object]:
    """The flags of a run without those that only locate files."""
    return {name: value for name, value in (config or {}).items() if name not in PLACES}
