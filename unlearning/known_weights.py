"""What the weights of a run bring with them: which data they were trained on, and which model they belong to."""

from pathlib import Path
from typing import Any

from data.arguments import dataset_name
from data.split_record import dataset_of
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.training.distribution import from_main

MODEL = ("model", "stem", "width")
PLACE = ("dataset", "data_dir")
TREATMENT = ("image_size", "skip_unreadable", "mean", "std")
DESCRIBING = (*PLACE, *MODEL, *TREATMENT)


def described(weight_path: str | None, asked: Any) -> dict[str, object]:
    """Flags of the run that weights lie in the folder of, by its config.yaml; empty for weights from elsewhere.

    Args:
        weight_path: file of weights, if any.
        asked: `dataset` and `data_dir` as they were given. Where they name another data set than the run's, the model
            alone is taken over; where its data have moved, all but their place.

    Raises:
        UserError: the run's config.yaml cannot be read.
    """
    if weight_path is None:
        return {}
    return from_main(lambda: _described(Path(weight_path).parent, asked))


def _described(folder: Path, asked: Any) -> dict[str, object]:
    path, dataset = folder / "config.yaml", dataset_of(folder / "splits.npz")
    # Other programs also write files called config.yaml.
    if dataset is None or not path.is_file():
        return {}
    config = load_config(path)
    if not config.keys() >= set(DESCRIBING):
        return {}
    names, found = MODEL, {}
    if _named(asked) in (None, dataset):
        names += TREATMENT
        if asked.data_dir is None:
            names += PLACE
        else:
            found["dataset"] = dataset
    return found | {name: config[name] for name in names if config[name] is not None}


def _named(asked: Any) -> str | None:
    """The data set that the flags name, or that the folder holds; None where they leave it open."""
    if asked.dataset == "auto" and asked.data_dir is None:
        return None
    try:
        return dataset_name(asked)
    except UserError:
        return None
