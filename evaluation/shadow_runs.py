"""Shadow models by the main script: its training and its method, as a run's config.yaml tells them."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from data.arguments import DataArgs
from evaluation.shadows import TrainAndForget
from helper_functions.errors import UserError
from helper_functions.run_folder import result_weights
from models.arguments import ModelArgs

# What decides nothing about a shadow model: where things lie, and what the splits file says.
ELSEWHERE = (
    "log_dir", "name_prefix", "resume", "seed", "device", "deterministic", "log_interval", "figures", "data_dir",
    "splits", "forget", "weight_path", "retrained_weight_path", "retrain", "untrain", "judge", "previous_run",
    "with_copies", "request_id", "requester", "show_images",
)  # fmt: skip
FROM_SCRATCH = (
    "forget", "weight_path", "retrained_weight_path", "retrain", "resume", "previous_run", "with_copies",
    "request_id", "requester", "show_images",
)  # fmt: skip
# Of the configuration's own data flags, those that say how a model is trained.
TRAINING = ("augmentation", "cutout")
# What a finished run keeps for going on with it.
LEFT_OVERS = ("checkpoint.pt", "original.pt")


def read_method(script: ModuleType, path: str, judged: Any) -> Any:
    """The arguments of shadow runs: method and training of a configuration, data and model of the judged weights.

    Args:
        script: the main script, with `get_parser` and `main`.
        path: config.yaml of one of its runs; its --train_ flags say how the shadows' originals are trained.
        judged: arguments with the fields of `RunArgs`, `DataArgs` and `ModelArgs`.

    Raises:
        UserError: it cannot be read, or is no configuration of the script, or one that forgets nothing.
    """
    args = script.get_parser().parse(["--config_file", str(path)])
    if not args.untrain:
        raise UserError(f"--shadow_config {path}: untrain is False there; give a run that unlearned")
    names = [field.name for part in (DataArgs, ModelArgs) for field in dataclasses.fields(part)]
    names += ["device", "precision", "deterministic"]
    own = {name: getattr(judged, name) for name in names if name not in TRAINING}
    # Made from nothing but the splits that it is given.
    plain = {name: getattr(type(args)(), name) for name in FROM_SCRATCH}
    # Nobody reads a shadow's report: attacks on it would take longer than all else.
    return dataclasses.replace(args, **{**own, **plain, "judge": "validation", "figures": False})


def deciding(args: Any) -> dict:
    """The arguments that decide what a shadow model is, for the hash of its folder."""
    return {name: value for name, value in dataclasses.asdict(args).items() if name not in ELSEWHERE}


def by_script(script: ModuleType, args: Any, load: Callable[[Path], nn.Module]) -> TrainAndForget:
    """A way to make shadow models: the script's `main`, whose output goes to `log.txt` in the shadow's folder.

    A run that was cut short is gone on with. Of a finished one the weights, the report and the record are kept.

    Args:
        script: the main script.
        args: of `read_method`.
        load: a model from a file of weights.
    """

    def train_and_forget(splits: Path, seed: int, folder: Path) -> nn.Module:
        if not list(folder.glob("run-*/report.json")):
            begun = [path.parent for path in folder.glob("run-*/config.yaml")]
            own = dataclasses.replace(
                args, splits=str(splits), seed=seed, log_dir=str(folder), name_prefix="run",
                resume=str(begun[0]) if begun else None,
            )  # fmt: skip
            with open(folder / "log.txt", "a") as log, contextlib.redirect_stdout(log):
                script.main(own)
        run = next(folder.glob("run-*/report.json")).parent
        for name in LEFT_OVERS:
            (run / name).unlink(missing_ok=True)
        return load(result_weights(run))

    return train_and_forget
