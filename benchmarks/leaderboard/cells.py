"""One cell of the leaderboard: a method on a forget set and a seed, by the main script, from flags to a row."""

import dataclasses
import functools
import json
from pathlib import Path

import train
import train_constrained_unlearning as script
from benchmarks.leaderboard.further_figures import add_further
from benchmarks.leaderboard.trained_models import ELSEWHERE, model_key
from benchmarks.sweeps.sweep import command_line
from data.arguments import DataArgs
from evaluation.gaps import retrained_of
from helper_functions.code_version import code_words
from helper_functions.config import RunArgs
from helper_functions.errors import UserError
from helper_functions.files import key_of, load_config
from helper_functions.run_folder import INFEASIBLE, RESULT, run_quietly
from models.arguments import ModelArgs
from unlearning.methods import METHODS

# Whose tuned flags serve a kind of forget set that has none of its own.
NEXT_OF_KIN = {"superclass": "class", "file": "random", "memorised": "random"}
# What a finished run needs no longer.
WEIGHTS = (RESULT, INFEASIBLE, "checkpoint.pt")
# Points of a trace that a row keeps.
TRACE_POINTS = 120


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is run, and where.

    Args:
        method: name of the row.
        forget: the forget set as the leaderboard names it.
        seed: of splits, original and method.
        flags: of the main script, without those of `ELSEWHERE` and without weights.
        original: run folder of the original.
        retrained: run folders of the retrained models.
        log_dir: where the run is made.
        log_interval: steps between two points of the traces.
        further: what `benchmarks.leaderboard.further_figures` is asked for.
    """

    method: str
    forget: str
    seed: int
    flags: dict
    original: str
    retrained: tuple[str, ...]
    log_dir: str
    log_interval: int
    further: dict = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def key(self) -> str:
        """Changes with everything that its figures depend on, and with nothing else."""
        flags = {name: value for name, value in self.flags.items() if name not in ELSEWHERE}
        models = [model_key(load_config(Path(folder) / "config.yaml")) for folder in (self.original, *self.retrained)]
        # A row that asks for nothing further keeps the key that it had before there was any.
        further = {"further": self.further} if self.further else {}
        return key_of({"method": self.method, "forget": self.forget, "flags": flags, "models": models, **further})


def data_flags(train_config: str) -> dict:
    """The data set and the model of a training's configuration, as flags that the main script has, too."""
    args = train.get_parser().parse(["--config_file", train_config])
    names = [field.name for part in (DataArgs, ModelArgs) for field in dataclasses.fields(part)]
    names += [field.name for field in dataclasses.fields(RunArgs) if field.name in ("device", "precision")]
    given = {name: getattr(args, name) for name in names if name not in ("forget", "splits")}
    return {name: value for name, value in given.items() if value is not None}


def method_flags(tuned: str | None, kind: str, method: str) -> dict:
    """A row's flags: TUNED/KIND/METHOD.yaml, or the method of that name as it is by default.

    Raises:
        UserError: there is neither.
    """
    for place in (kind, NEXT_OF_KIN.get(kind, kind)):
        path = Path(tuned or "") / place / f"{method}.yaml"
        if tuned is not None and path.is_file():
            return load_config(path)
    if method not in METHODS:
        raise UserError(f"--methods {method}: no method, and no {kind}/{method}.yaml in --tuned {tuned}")
    return {"method": method}


def run_cell(cell: dict) -> dict:
    """Run a cell, given as a dict, or go on with it where it was stopped; gives its row."""
    cell = Cell(**cell)
    flags = {**cell.flags, "figures": False, "log_dir": cell.log_dir, "log_interval": cell.log_interval}
    flags |= {"weight_path": f"{cell.original}/model.pt"}
    argv = command_line(flags) + ["--retrained_weight_path", *(f"{folder}/model.pt" for folder in cell.retrained)]
    begun = [path.parent for path in Path(cell.log_dir).glob(f"{cell.method}-{cell.key}-*/checkpoint.pt")]
    argv += ["--resume", str(begun[0])] if begun else []
    folder, report = run_quietly(script, argv, f"{cell.method}-{cell.key}")
    row = _row(cell, folder, report)
    if cell.further:
        add_further(row, folder, cell.further, cell.original, cell.retrained, cell.flags)
    for name in WEIGHTS:
        (folder / name).unlink(missing_ok=True)
    return short(row)


def _row(cell: Cell, folder: Path, report: dict) -> dict:
    models = report["models"]
    finished = json.loads((Path(cell.retrained[0]) / "report.json").read_text())
    histograms, environment = report["loss_histograms"], json.loads((folder / "environment.json").read_text())
    row = {
        "key": cell.key,
        "method": cell.method,
        "forget": cell.forget,
        "seed": cell.seed,
        "config": load_config(folder / "config.yaml"),
        "figures": models["unlearned"],
        "original": models["original"],
        "retrained": list(retrained_of(models).values()),
        "verdict": report["verdict"],
        "cost": report["cost"]["unlearned"],
        "retrained_cost": finished["cost"]["retrained"],
        "histograms": {name: histograms[name] for name in ("edges", "original", "unlearned", "retrained")},
        "trace": _trace(folder / "metrics.jsonl"),
        "environment": {**environment, "code": code_words(report["run"]["code"])},
    }
    return row


def short(value: object) -> object:
    """The same with real numbers to six digits: results are kept in the repository."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _trace(path: Path) -> dict | None:
    """Violation and multiplier over the steps of a constrained method, thinned out; the last step is always there."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    points = [line for line in lines if "constraint/violation" in line]
    if not points:
        return None
    points = [*points[: -1 : -(-len(points) // TRACE_POINTS)], points[-1]]
    names = {"step": "step", "violation": "constraint/violation", "multiplier": "constraint/multiplier"}
    return {name: [point.get(key) for point in points] for name, key in names.items()}
