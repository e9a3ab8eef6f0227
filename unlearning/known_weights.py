"""What the weights of a run bring with them: which data they were trained on, and which model they belong to."""

from pathlib import Path
from typing import Any

from data.arguments import dataset_name
from data.preprocessing import FIELDS, refuse_unnamed_transform
from data.split_record import dataset_of
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.record import RunRecord
from helper_functions.run_folder import RESULT
from helper_functions.training.distribution import from_main
from helper_functions.user_code import refuse_unnamed
from models.arguments import ModelArgs
from models.sources import refuse_unnamed_code, weights_of_folder

MODEL = ("model", "stem", "width")
PLACE = ("dataset", "data_dir")
TREATMENT = (*FIELDS, "skip_unreadable", "labels", "class_order")
DESCRIBING = (*PLACE, *MODEL, *TREATMENT)
# Which every version has written.
ALWAYS = (*PLACE, *MODEL)


def described(weight_path: str | None, asked: Any) -> dict[str, object]:
    """Flags of the run that weights lie in the folder of, by its config.yaml; empty for weights from elsewhere.

    Where `dataset`, `data_dir` and `model`, as they were `asked` for, name another data set than the run's, the model
    alone is taken over; where its data have moved, all but their place. Raises UserError where the run's config.yaml
    cannot be read, or names code as its model.
    """
    if weight_path is None:
        return {}
    found = from_main(lambda: _described(Path(weight_path), asked))
    refuse_code(found, asked, f"--weight_path {weight_path}")
    return found


def own_weights(asked: Any) -> dict[str, object]:
    """As the flag --weight_path, the weights in the folder of `--model hf:FOLDER`; empty where flags name others."""
    others = ("weight_path", "previous_run", "dial", "resume", "verify")
    path = weights_of_folder(asked.model)
    if path is None or any(getattr(asked, name, None) for name in others):
        return {}
    return {"weight_path": [path] if isinstance(asked.weight_path, list) else path}


def refuse_code(config: dict, asked: Any, flag: str) -> None:
    """Refuse code as model or transform of an earlier run, maybe a stranger's, where the user has not asked for it."""
    if asked.model == ModelArgs.model:
        refuse_unnamed_code(config.get("model"), asked.model, flag)
    if asked.transform is None:
        refuse_unnamed_transform(config.get("transform"), None, flag)


def refuse_unnamed_method(method: object, asked: str, flag: str) -> None:
    """Refuse to run the code of an earlier run's method, unless the user has `asked` for it."""
    if isinstance(method, str) and ":" in method:
        refuse_unnamed("method", method, asked, flag)


def resumed(given: Any) -> tuple[RunRecord, Any]:
    """The record and the flags of the run that `--resume` names, code in which the user has to name again.

    Raises UserError where there is no such run, or it is another script's.
    """
    config = Path(given.resume) / "config.yaml"
    if hasattr(given, "method") and config.is_file():
        refuse_unnamed_method(load_config(config).get("method"), given.method, f"--resume {given.resume}")
    record, args = RunRecord.reopen(given.resume, type(given), given.on_nan)
    refuse_unnamed_code(args.model, given.model, f"--resume {given.resume}")
    students = (getattr(each, "student_model", None) for each in (args, given))
    refuse_unnamed_code(*students, f"--resume {given.resume}", "student_model")
    refuse_unnamed_transform(args.transform, given.transform, f"--resume {given.resume}")
    return record, args


def _described(weights: Path, asked: Any) -> dict[str, object]:
    folder = weights.parent
    path, dataset = folder / "config.yaml", dataset_of(folder / "splits.npz")
    # Other programs also write files called config.yaml.
    if dataset is None or not path.is_file():
        return {}
    config = load_config(path)
    if not config.keys() >= set(ALWAYS):
        return {}
    names, found = MODEL, {}
    if weights.name == RESULT and config.get("student_model"):
        # Its weights show its stem, and the teacher's may be one that it lacks.
        config |= {"model": config["student_model"], "stem": "auto"}
    if _named(asked) in (None, dataset):
        names += TREATMENT
        if asked.data_dir is None:
            names += PLACE
        else:
            found["dataset"] = dataset
    return found | {name: config[name] for name in names if config.get(name) is not None}


def _named(asked: Any) -> str | None:
    """The data set that the flags name, or that the folder holds; None where they leave it open."""
    if asked.dataset == "auto" and asked.data_dir is None:
        return None
    try:
        return dataset_name(asked)
    except UserError:
        return None
