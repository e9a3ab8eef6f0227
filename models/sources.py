"""Classifiers from elsewhere: timm, a folder of transformers, and the user's own code, which the user has named."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from helper_functions.errors import UserError
from helper_functions.safe_files.plain_yaml import load_plain
from helper_functions.user_code import called, library, load_named, refuse_unnamed
from helper_functions.wording import did_you_mean

TIMM, HUGGING_FACE = "timm:", "hf:"
# Options of timm that would read or download other files.
NO_FILES = {"pretrained": False, "pretrained_cfg": None, "pretrained_cfg_overlay": None, "checkpoint_path": ""}
Size = tuple[int, int]


def is_code(name: object) -> bool:
    """Whether a model's name is that of a function, `FILE.py:FUNCTION` or `package.module:FUNCTION`."""
    return isinstance(name, str) and ":" in name and not name.startswith((TIMM, HUGGING_FACE))


def refuse_unnamed_code(name: object, asked: str | None, source: str, flag: str = "model") -> None:
    """Refuse code as the model `name` of an earlier run, which `source` names, unless the user's own flag asks for it.
    """
    if is_code(name):
        refuse_unnamed(flag, name, asked, source)


def weights_of_folder(name: str) -> str | None:
    """The weights in the folder of `hf:FOLDER`; None for other models, and where there are none."""
    if not name.startswith(HUGGING_FACE):
        return None
    folder = Path(name.removeprefix(HUGGING_FACE))
    found = (folder / file for file in ("model.safetensors", "pytorch_model.bin"))
    return next((str(path) for path in found if path.is_file()), None)


def with_options(name: str) -> tuple[str, dict[str, object]]:
    """`NAME,KEY=VALUE,…` as the name and its options, plain YAML values."""
    name, *pairs = name.split(",")
    options = {}
    for pair in pairs:
        key, given, value = pair.partition("=")
        try:
            options[key] = load_plain(value)
        except ValueError:
            given = ""
        if not given or not key.isidentifier():
            raise UserError(f"--model {name}: {pair!r} is no option; write it as KEY=VALUE, with a plain value")
    return name, options


def build(name: str, num_classes: int, in_channels: int, image_size: Size | None) -> nn.Module:
    """The model called `timm:NAME`, `hf:FOLDER`, `FILE.py:FUNCTION` or `package.module:FUNCTION`, with random weights.

    Nothing is downloaded. Raises UserError where it cannot be built.
    """
    if name.startswith(HUGGING_FACE):
        model = _from_folder(name.removeprefix(HUGGING_FACE), num_classes)
    elif name.startswith(TIMM):
        model = _from_timm(*with_options(name.removeprefix(TIMM)), num_classes, in_channels, image_size)
    else:
        model = _from_code(*with_options(name), num_classes)
    # Models of transformers return an object around the logits.
    model.register_forward_hook(_logits)
    return model


def _logits(module: nn.Module, inputs: tuple, output: object) -> object:
    return getattr(output, "logits", output)


def _from_timm(name: str, options: dict, num_classes: int, in_channels: int, image_size: Size | None) -> nn.Module:
    timm = library("timm")
    if not timm.is_model(name):
        raise UserError(f"--model timm:{name}: timm has no such model{did_you_mean(name, timm.list_models(), TIMM)}")
    ships = timm.models.get_pretrained_cfg(name)
    if ships is not None and ships.fixed_input_size and image_size not in (None, tuple(ships.input_size[1:])):
        options = {"img_size": image_size, **options}
    options = {"num_classes": num_classes, "in_chans": in_channels, **options}
    return made(f"timm:{name}", lambda: timm.create_model(name, **NO_FILES, **options))


def _from_folder(folder: str, num_classes: int) -> nn.Module:
    transformers, name = library("transformers"), f"{HUGGING_FACE}{folder}"
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"--model {name}: there is no config.json in it; name a folder that save_pretrained wrote")

    def make() -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if config.model_type == "timm_wrapper":
            # timm would read, or download, whatever the configuration names.
            raise UserError(f"--model {name}: it holds a model of timm; give timm:NAME, and the file by --weight_path")
        config.num_labels, config.return_dict = num_classes, True
        return transformers.AutoModelForImageClassification.from_config(config, trust_remote_code=False).float()

    return made(name, make)


def _from_code(name: str, options: dict, num_classes: int) -> nn.Module:
    found = made(name, lambda: load_named(name, "model"))
    if not callable(found):
        raise UserError(f"--model {name}: it is a {type(found).__name__}; name a function or a class")
    model = made(name, lambda: found(**{"num_classes": num_classes, **options}))
    if not isinstance(model, nn.Module):
        raise UserError(f"--model {name}: it returned a {type(model).__name__}; return a torch.nn.Module")
    return model


def made(name: str, make: Callable[[], object]) -> object:
    """What `make` gives; an exception of somebody else's code becomes a UserError that names the model."""

    def found() -> object:
        try:
            return make()
        except ModuleNotFoundError as error:
            forms = "FILE.py:FUNCTION, package.module:FUNCTION, timm:NAME, hf:FOLDER or a name of torchvision"
            raise UserError(f"--model {name}: {error}; give {forms}") from None

    return called(f"--model {name}", found)


def saved_names(model: nn.Module) -> dict[str, str]:
    """The model's own name of each tensor by its name in a file of `save_pretrained`, for models of transformers.

    transformers keeps old names in files where it has renamed its layers. Empty for other models.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return {}
    from safetensors.torch import load_file

    own = list(model.state_dict())
    numbers = {name: torch.tensor([float(number)]) for number, name in enumerate(own)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, state_dict=numbers)
            saved = load_file(Path(folder) / "model.safetensors")
    except Exception:  # its weights are not only renamed but put together otherwise
        return {}
    return {name: own[int(number)] for name, number in saved.items()}
