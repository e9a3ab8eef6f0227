"""Shadow models by the main script, with the training and the method of a run's config.yaml."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from data.arguments import DataArgs
from evaluation.attacks.lira import TrainAndForget
from evaluation.report.record import file_digest
from helper_functions.config import RunArgs
from helper_functions.errors import UserError
from helper_functions.files import key_of, load_config
from helper_functions.run_folder import TRACES, result_weights
from helper_functions.user_code import refuse_unnamed
from models.arguments import ModelArgs
from unlearning.methods.own import fingerprint, is_own

# Arguments that shadow runs leave at their defaults.
FROM_SCRATCH = (
    "forget", "groups", "requests", "weight_path", "retrained_weight_path", "retrain", "resume", "previous_run",
    "with_copies", "request_id", "requester", "show_images", "keep_checkpoint", "expected_accuracy",
)  # fmt: skip
# Arguments that do not determine a shadow model: paths, and what the splits file contains.
ELSEWHERE = (
    *FROM_SCRATCH, "log_dir", "name_prefix", "seed", "device", "deterministic", "log_interval", "figures", "data_dir",
    "splits", "untrain", "judge", "near_duplicates",
)  # fmt: skip
# Data flags that the configuration decides, since they belong to training.
TRAINING = ("augmentation", "cutout")


def read_method(script: ModuleType, path: str, judged: Any) -> Any:
    """The arguments of shadow runs: method and training of a configuration, data and model of the judged weights.

    The --train_ flags of the configuration apply to the shadows' originals. Raises UserError where it cannot be read,
    is not a configuration of the script, forgets nothing, or names code as its method that the flags do not.
    """
    if is_own(method := load_config(path).get("method")):
        refuse_unnamed("shadow_method", method, judged.shadow_method, f"--shadow_config {path}")
    args = script.get_parser().parse(["--config_file", str(path)])
    if not args.untrain:
        raise UserError(f"--shadow_config {path}: untrain is False in it; give that of a run that unlearned")
    names = [field.name for part in (DataArgs, ModelArgs) for field in dataclasses.fields(part)]
    names += ["device", "precision", "deterministic"]
    own = {name: getattr(judged, name) for name in names if name not in TRAINING}
    plain = {name: getattr(type(args)(), name) for name in FROM_SCRATCH}
    # A shadow's report is not used, and attacks would take most of the time.
    spared = {"judge": "validation", "figures": False, "near_duplicates": "off"}
    return dataclasses.replace(args, **{**own, **plain, **spared})


def deciding(args: Any) -> dict:
    """The arguments that determine a shadow model, for the hash of its folder."""
    found = {name: value for name, value in dataclasses.asdict(args).items() if name not in ELSEWHERE}
    return found | {"method": fingerprint(args.method)}


def by_script(
    script: ModuleType, args: Any, load: Callable[[Path], nn.Module], originals: str | Path
) -> TrainAndForget:
    """Makes shadow models by the script's `main`, whose output goes to `log.txt` in the shadow's folder.

    An interrupted run is resumed. `args` are those of `read_method`; `load` returns the model of a weight file;
    `originals` is the folder of the shadows' originals, which other methods reuse.
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
                    f"a shadow model in {folder}: {error} (the --train_ flags in --shadow_config decide how its "
                    "original is trained)"
                ) from error
        return next(folder.glob(f"{name}-*/report.json")).parent

    # What determines a shadow's original, which all methods share.
    names = [field.name for part in (RunArgs, DataArgs, ModelArgs) for field in dataclasses.fields(part)]
    training = {name: value for name, value in deciding(args).items() if name in names}
    training |= dataclasses.asdict(args.recipe())

    def original(folder: Path, own: dict) -> Path:
        key = key_of({**training, **own, "splits": file_digest(Path(own["splits"]))})
        path = Path(originals) / f"{key}.pt"
        if not path.is_file():
            run = finished("original", folder, {**own, "untrain": False})
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another process may train the same one; the first that finishes is kept.
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
        for name in TRACES:
            (run / name).unlink(missing_ok=True)
        return load(result_weights(run))

    return train_and_forget
