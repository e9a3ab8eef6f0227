"""What the tests of methods share: a small case of forgetting, one run of a method on it, and a step by hand."""

import copy
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from data.loaders import TensorLoader
from helper_functions.record import RunRecord
from helper_functions.training.devices import Precision
from unlearning.arguments import MethodArgs
from unlearning.methods import METHODS, arguments_of, defaults_of, get_method
from unlearning.run import Unlearned, UnlearningRun

CPU = Precision(torch.device("cpu"), torch.float32)
CLASSES = 4
SIZES = {"retain": 24, "forget": 12, "unseen": 16, "validation": 20}
OURS = [name for name, method in METHODS.items() if method.constrained]
PUBLISHED = [name for name in METHODS if name not in OURS]
STEPPING = [name for name in METHODS if "learning_rate" in METHODS[name].follows]
ONE_SHOT = [name for name in METHODS if name not in STEPPING]
# Plain gradient descent: the next weights are the present ones less the rate times the gradient.
RATE = 0.1
PLAIN = {
    "optimizer": "sgd", "learning_rate": RATE, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant",
    "max_grad_norm": None,
}  # fmt: skip

State = dict[str, Tensor]


class QuietRecord(RunRecord):
    """A run folder without TensorBoard."""

    writer = MagicMock()


def pictures(name: str, batch_size: int, num_classes: int = CLASSES, kind: type = TensorLoader) -> TensorLoader:
    """Random pictures of 8 x 8 pixels, a little brighter with each class."""
    size, seed = SIZES[name], list(SIZES).index(name)
    labels = torch.arange(size) % num_classes
    noise = torch.randint(0, 150, (size, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    images = (noise + 100 * labels[:, None, None, None] // num_classes).byte()
    shuffle = name in ("retain", "forget")
    return kind(images, labels, torch.arange(size), batch_size, mean=(0.5,), std=(0.3,), shuffle=shuffle, seed=seed)


def streams(whole: bool = False, num_classes: int = CLASSES) -> dict[str, TensorLoader]:
    """Loaders by name; `whole` makes one batch of each."""
    sizes = SIZES if whole else {"retain": 8, "forget": 6, "unseen": 16, "validation": 20}
    return {name: pictures(name, size, num_classes) for name, size in sizes.items()}


def fitting(method: str, loaders: dict[str, TensorLoader]) -> dict[str, TensorLoader]:
    """The loaders; for a method of whole classes, the forget images of one class, and the retain images of others."""
    labels = {name: loaders[name].labels[loaders[name].indices] for name in ("forget", "retain")}
    if method != "pour" or not torch.isin(labels["forget"], labels["retain"]).any():
        return loaders
    found = {**loaders, **{name: copy.copy(loaders[name]) for name in ("forget", "retain")}}
    for name, loader in found.items():
        if name in ("forget", "retain"):
            loader.indices = loader.indices[(loader.labels[loader.indices] == 0) == (name == "forget")]
    return found


def network(num_classes: int = CLASSES) -> nn.Sequential:
    """Two convolutions with batch norm, none of whose values is what a fresh layer has."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, padding=1),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, num_classes),
    )  # fmt: skip
    for layer in (model[1], model[4]):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -0.5, 0.5)
    with torch.no_grad():
        model(torch.randn(64, 1, 8, 8))
    return model.eval()


def state_of(model: nn.Module) -> State:
    """A copy of everything that a model holds."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: State, after: State) -> set[str]:
    """Names of what is not the same, bit for bit."""
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def weights_of(model: nn.Module) -> State:
    """A copy of the parameters."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def settings_of(method: str, **settings) -> MethodArgs:
    """A method's own values and others in their place; without those that mean nothing to it."""
    known = {name: value for name, value in settings.items() if name in get_method(method).follows}
    return arguments_of(method, MethodArgs)(**{**defaults_of(method), **known})


def begin(
    method: str, folder: Path, model: nn.Module | None = None, loaders: dict | None = None, *, seed: int = 0,
    target: str = "unseen", **settings,
) -> UnlearningRun:  # fmt: skip
    """A run that is set up; nothing has been learned yet."""
    return UnlearningRun(
        model or network(), fitting(method, loaders or streams()), settings_of(method, **settings), target, method, CPU,
        QuietRecord(folder), seed, log_interval=2,
    )  # fmt: skip


def run(method: str, folder: Path, **options) -> tuple[nn.Module, Unlearned]:
    """The model that a whole run ends with, and what it gave."""
    unlearning = begin(method, folder, **options)
    outcome = unlearning.run()
    return unlearning.model, outcome


def everything(loader: TensorLoader) -> tuple[Tensor, Tensor]:
    """All images of a loader, and their labels, in one batch."""
    inputs, labels = zip(*loader.in_order(loader.indices, loader.num_images), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def descend(model: nn.Module, loss: Callable[[nn.Module], Tensor], rate: float = RATE) -> None:
    """One step of plain gradient descent, written out."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(model), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= rate * gradient


def assert_same_weights(found: nn.Module, expected: nn.Module, atol: float = 2e-6) -> None:
    """Parameters are the same up to rounding."""
    for (name, value), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
