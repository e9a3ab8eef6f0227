"""What a method is: its trainer, and its own values of the flags that it follows."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from unlearning.arguments import BATCH_SIZE, UnlearnArgs
from unlearning.constrained.targets import Target
from unlearning.constrained.trainer import ConstrainedTrainer
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, BaselineTrainer

# What a user states or compares by, whatever the method; the second line is of methods that take gradient steps.
STATED = ("retain_budget", "forget_target", "retain_loss", "rewind", "batch_size", "trainable")
STEPPING = (
    "num_epochs", "retain_batch_size", "learning_rate", "optimizer", "momentum", "weight_decay", "decay_norm_and_bias",
    "schedule", "use_sam", "adaptive_sam", "rho", "max_grad_norm", "bn",
)  # fmt: skip
# Published code trains on with batch norm in training mode, weight decay, and gradients as they are.
PUBLISHED = {
    "batch_size": BATCH_SIZE, "bn": "train", "weight_decay": 5e-4, "max_grad_norm": None, "schedule": "constant",
    "num_epochs": 5,
}  # fmt: skip


class Span(NamedTuple):
    """A flag is searched between two bounds; whole numbers where both are."""

    low: float
    high: float


class Log(Span):
    """Likewise, evenly over the orders of magnitude."""


class ClassCounts(NamedTuple):
    """Images of each class, int64 `[K]`; of the retain set, 1 may stand for any number."""

    forget: Tensor
    retain: Tensor
    unseen: Tensor


# Why a method does not apply to a forget target and to images of these classes; None where it does.
Refusal = Callable[[str, ClassCounts], str | None]
# What a search tries of a flag: numbers between bounds, or one of several values.
Search = Mapping[str, Span | tuple[object, ...]]
# Passes over the retain set, which `benchmarks.leaderboard.tune` can cap; those over the forget set cost a fraction.
RETAIN_EPOCHS = Span(2, 10)
# One minus these are spread evenly over the orders of magnitude.
RETAIN_WEIGHTS = (0.6, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999)
# Of every published method that is searched, beside its own values.
BATCH_SIZES = (32, 64, 128, 256, 512)
TRIED = {"batch_size": BATCH_SIZES, "schedule": ("constant", "linear", "cosine", "one_cycle")}

# Of ours: forgetting's step, fine-tuning's, and its passes.
TRIED_OF_OURS = {
    "learning_rate": Log(3e-3, 1e-1), "batch_size": (None, 32, 64, 128), "finetune_learning_rate": Log(1e-2, 1e-1),
    "finetune_num_epochs": RETAIN_EPOCHS,
}  # fmt: skip


def applies_to_all(target: str, counts: ClassCounts) -> None:
    """No reason to refuse."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One entry of `METHODS`.

    Args:
        build: gives the forget target of a constrained method, or the specification of a published one.
        defaults: the method's own values of flags, where they differ from ours.
        follows: flags that mean something to it.
        search: what `benchmarks.leaderboard.tune` tries of its flags: bounds of published code, with room on either
            side; empty for a method that is not tuned.
        constrained: whether the budget rules the run, and the choice of its epoch.
        augmented: whether it learns from augmented images, as the original did.
        discriminates: whether it needs pairs of images for a discriminator.
        refuses: why it does not apply.
    """

    build: Callable[[MethodContext], Target | BaselineSpec]
    defaults: Mapping[str, object]
    follows: frozenset[str]
    search: Search
    constrained: bool = False
    augmented: bool = True
    discriminates: bool = False
    refuses: Refusal = applies_to_all

    def trainer(self, context: MethodContext) -> ConstrainedTrainer | BaselineTrainer:
        """What runs the method's epochs."""
        return (ConstrainedTrainer if self.constrained else BaselineTrainer)(context, self.build)


def constrained(build_target: Callable[[MethodContext], Target], *, discriminates: bool = False) -> Method:
    """One of ours: the constrained problem with a forget target of its own."""
    return Method(
        build_target, {}, frozenset(field.name for field in dataclasses.fields(UnlearnArgs)), TRIED_OF_OURS,
        constrained=True, augmented=False, discriminates=discriminates,
    )  # fmt: skip


def published(
    build_spec: Callable[[MethodContext], BaselineSpec], *, search: Search = MappingProxyType({}),
    refuses: Refusal = applies_to_all, **defaults: object,
) -> Method:  # fmt: skip
    """A method of passes: with the flags of `defaults`, and those of every gradient method."""
    values = {**PUBLISHED, **defaults}
    if search:
        common = {name: tuple(dict.fromkeys((values[name], *tried))) for name, tried in TRIED.items()}
        search = {**common, **search}
    return Method(build_spec, values, frozenset({*STATED, *STEPPING, *values}), search, refuses=refuses)


def one_shot(
    build_spec: Callable[[MethodContext], BaselineSpec], *, search: Search = MappingProxyType({}),
    refuses: Refusal = applies_to_all, **defaults: object,
) -> Method:  # fmt: skip
    """A method that changes the weights once, without an epoch."""
    return Method(build_spec, defaults, frozenset({*STATED, *defaults}), search, refuses=refuses)


def method_row(name: str, method: Method) -> str:
    """A row of the table in docs/methods.md: name, update, own values, source; from docstring and defaults."""
    update, _, source = inspect.getdoc(method.build).partition("Source:")
    first = (" ".join(part.split("\n\n")[0].split()).rstrip(".") for part in (update, source))
    update, source = (part.replace("|", "\\|") for part in first)
    own = ", ".join(f"`{flag}` {value}" for flag, value in method.defaults.items() if PUBLISHED.get(flag) != value)
    return f"| `{name}` | {update} | {own} | {source} |"
