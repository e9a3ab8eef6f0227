"""Shadow models by the main script: its training and its method, as a run's config.yaml tells them."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from data.arguments import DataArgs
from evaluation.attacks.shadows import TrainAndForget
from evaluation.report.record import file_digest
from helper_functions.config import RunArgs
from helper_functions.errors import UserError
from helper_functions.files import key_of
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


def deciding_training(args: Any) -> dict:
    """Those that decide what a shadow's original is: the same for every method that is judged."""
    names = [field.name for part in (RunArgs, DataArgs, ModelArgs) for field in dataclasses.fields(part)]
    own = {name: value for name, value in deciding(args).items() if name in names}
    return {**own, **dataclasses.asdict(args.recipe())}


def by_script(
    script: ModuleType, args: Any, load: Callable[[Path], nn.Module], originals: str | Path
) -> TrainAndForget:
    """A way to make shadow models: the script's `main`, whose output goes to `log.txt` in the shadow's folder.

    A run that was cut short is gone on with. Of a finished one the weights, the report and the record are kept.

    Args:
        script: the main script.
        args: of `read_method`.
        load: a model from a file of weights.
        originals: folder in which the weights of the shadows' originals are kept, for the methods to come.
    """

    def finished(name: str, folder: Path, own: dict) -> Path:
        if not list(folder.glob(f"{name}-*/report.json")):
            begun = [path.parent for path in folder.glob(f"{name}-*/config.yaml")]
            own = dataclasses.replace(
                args, **own, log_dir=str(folder), name_prefix=name, resume=str(begun[0]) if begun else None
            )
            try:
                with open(folder / "log.txt", "a") as log, contextlib.redirect_stdout(log):
                    script.main(own)
            except UserError as error:
                raise UserError(
                    f"a shadow model in {folder}: {error} (how its original is trained stands in the --train_ flags of "
                    "--shadow_config)"
                ) from error
        return next(folder.glob(f"{name}-*/report.json")).parent

    def original(folder: Path, own: dict) -> Path:
        key = key_of({**deciding_training(args), **own, "splits": file_digest(Path(own["splits"]))})
        path = Path(originals) / f"{key}.pt"
        if not path.is_file():
            run = finished("original", folder, {**own, "untrain": False})
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another process may be at the same one: each trains its own, and the first that is done stays.
            if not path.is_file():
                result_weights(run).replace(path)
        for run in folder.glob("original-*"):
            shutil.rmtree(run)
        return path

    def train_and_forget(splits: Path, seed: int, folder: Path) -> nn.Module:
        own = {"splits": str(splits), "seed": seed}
        if not list(folder.glob("run-*/report.json")):
            own["weight_path"] = str(original(folder, own))
        run = finished("run", folder, own)
        for name in LEFT_OVERS:
            (run / name).unlink(missing_ok=True)
        return load(result_weights(run))

    return train_and_forget
