"""Classifiers from elsewhere: timm, a folder of transformers, and the user's own code, which the user has named."""

import difflib
import importlib
import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from helper_functions.errors import UserError
from helper_functions.safe_files.plain_yaml import load_plain

TIMM, HUGGING_FACE = "timm:", "hf:"
# Options of timm that would read or download other files.
NO_FILES = {"pretrained": False, "pretrained_cfg": None, "pretrained_cfg_overlay": None, "checkpoint_path": ""}
Size = tuple[int, int]


def is_code(name: object) -> bool:
    """Whether a model's name is that of a function, `FILE.py:FUNCTION` or `package.module:FUNCTION`."""
    return isinstance(name, str) and ":" in name and not name.startswith((TIMM, HUGGING_FACE))


def refuse_unnamed_code(name: object, asked: str, flag: str) -> None:
    """Refuse to run code that an earlier run names and the user does not, since its folder may be a stranger's.

    Args:
        name: the earlier run's model.
        asked: the user's own --model.
        flag: which names the run, for the error.
    """
    if is_code(name) and name != asked:
        raise UserError(f"{flag}: the model of that run is code, {name}; if you trust it, add --model {name}")


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
    place, _, function = name.rpartition(":")
    module = made(name, lambda: _module(place))
    found = getattr(module, function, None)
    if not callable(found):
        names = [each for each, value in vars(module).items() if callable(value)]
        raise UserError(f"--model {name}: {place} has no function {function!r}{did_you_mean(function, names)}")
    model = made(name, lambda: found(**{"num_classes": num_classes, **options}))
    if not isinstance(model, nn.Module):
        raise UserError(f"--model {name}: it returned a {type(model).__name__}; return a torch.nn.Module")
    return model


def _module(place: str) -> ModuleType:
    """The module of a file or of a dotted name, imported once; its neighbours can be imported from it."""
    if not place.endswith(".py"):
        _look_in(os.getcwd())
        return importlib.import_module(place)
    path = Path(place).resolve()
    if not path.is_file():
        raise UserError(f"--model {place}: there is no such file")
    name = f"code of {path}"
    if name not in sys.modules:
        _look_in(str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _look_in(folder: str) -> None:
    # Last, so that no file in it stands for one of ours or of a library.
    if folder not in sys.path:
        sys.path.append(folder)


def library(name: str) -> ModuleType:
    """timm or transformers, without its messages and progress bars; UserError where it is not installed."""
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed ({error}): pip install -r requirements-models.txt") from None
    if name == "transformers":
        found.utils.logging.set_verbosity_error()
        found.utils.logging.disable_progress_bar()
    return found


def made(name: str, make: Callable[[], object]) -> object:
    """What `make` gives; an exception of somebody else's code becomes a UserError that says where it was raised."""
    try:
        return make()
    except UserError:
        raise
    except ModuleNotFoundError as error:
        forms = "FILE.py:FUNCTION, package.module:FUNCTION, timm:NAME, hf:FOLDER or a name of torchvision"
        raise UserError(f"--model {name}: {error}; give {forms}") from None
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--model {name}: {reason} ({Path(where.filename).name}, line {where.lineno})") from error


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean NAME?` for the names that begin so, or are closest; empty where none is close."""
    known = list(known)
    close = [each for each in known if name and each.startswith(name)][:3] or difflib.get_close_matches(name, known, 3)
    return f"; did you mean {' or '.join(prefix + each for each in close)}?" if close else ""


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
