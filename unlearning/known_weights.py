"""What the weights of a run bring with them: which data they were trained on, and which model they belong to."""

from pathlib import Path
from typing import Any

from helper_functions.files import load_config

MODEL = ("model", "stem", "width")
PLACE = ("dataset", "data_dir")
TREATMENT = ("image_size", "skip_unreadable", "mean", "std")


def described(weight_path: str | None, asked: Any) -> dict[str, object]:
    """Flags of the run that weights lie in the folder of, by its config.yaml; empty for weights from elsewhere.

    Args:
        weight_path: file of weights, if any.
        asked: what was given of `dataset`, which leaves the data to the flags where it is another one than the run's,
            and of `data_dir`, which says where they are now.

    Raises:
        UserError: the run's config.yaml cannot be read.
    """
    folder = Path(weight_path).parent if weight_path is not None else None
    # Other programs call their files config.yaml, too.
    if folder is None or not ((folder / "splits.npz").is_file() and (folder / "config.yaml").is_file()):
        return {}
    config = load_config(folder / "config.yaml")
    if not config.keys() >= {*MODEL, *PLACE, *TREATMENT}:
        return {}
    names = MODEL
    if asked.dataset in ("auto", config["dataset"]):
        names += TREATMENT + (PLACE if asked.data_dir is None else ())
    return {name: config[name] for name in names if config[name] is not None}
