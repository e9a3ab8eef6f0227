"""What a method is: its trainer, and its own values of the flags that it follows."""

import dataclasses
from collections.abc import Callable, Mapping

from unlearning.arguments import BATCH_SIZE, DISCRIMINATING, MethodArgs, PublishedArgs, UnlearnArgs
from unlearning.constrained.targets import Target
from unlearning.constrained.trainer import ConstrainedTrainer
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, BaselineTrainer

# What a user states or compares by, whatever the method; the second line is of methods that take gradient steps.
STATED = ("retain_budget", "forget_target", "chance_margin", "retain_loss", "rewind", "batch_size")
STEPPING = (
    "num_epochs", "retain_batch_size", "learning_rate", "optimizer", "momentum", "weight_decay", "decay_norm_and_bias",
    "schedule", "use_sam", "adaptive_sam", "rho", "max_grad_norm", "bn",
)  # fmt: skip
# Published code trains on with batch norm in training mode, weight decay, and gradients as they are.
PUBLISHED = {
    "batch_size": BATCH_SIZE, "bn": "train", "weight_decay": 5e-4, "max_grad_norm": None, "schedule": "constant",
    "num_epochs": 5,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Method:
    """One entry of `METHODS`.

    Args:
        build: gives the forget target of a constrained method, or the specification of a published one.
        defaults: the method's own values of flags, where they differ from ours.
        follows: flags that mean something to it.
        constrained: whether the budget rules the run, and the choice of its epoch.
        augmented: whether it learns from augmented images, as the original did.
        discriminates: whether it needs pairs of images for a discriminator.
    """

    build: Callable[[MethodContext], Target | BaselineSpec]
    defaults: Mapping[str, object]
    follows: frozenset[str]
    constrained: bool = False
    augmented: bool = True
    discriminates: bool = False

    def trainer(self, context: MethodContext) -> ConstrainedTrainer | BaselineTrainer:
        """What runs the method's epochs."""
        return (ConstrainedTrainer if self.constrained else BaselineTrainer)(context, self.build)


def constrained(build_target: Callable[[MethodContext], Target], *, discriminates: bool = False) -> Method:
    """One of ours: the constrained problem with a forget target of its own."""
    return Method(
        build_target, DISCRIMINATING if discriminates else {},
        frozenset(field.name for field in dataclasses.fields(UnlearnArgs)),
        constrained=True, augmented=False, discriminates=discriminates,
    )  # fmt: skip


def published(build_spec: Callable[[MethodContext], BaselineSpec], **defaults: object) -> Method:
    """A method of passes: with the flags of `defaults`, and those of every gradient method."""
    values = {**PUBLISHED, **defaults}
    return Method(build_spec, values, frozenset({*STATED, *STEPPING, *values}))


def one_shot(build_spec: Callable[[MethodContext], BaselineSpec], **defaults: object) -> Method:
    """A method that changes the weights once, without an epoch."""
    return Method(build_spec, defaults, frozenset({*STATED, *defaults}))


def unheeded(method: Method, args: MethodArgs) -> list[str]:
    """Flags whose values were changed and that mean nothing to a method."""
    # Fields of base classes come in the order of the classes.
    fields = {field.name: field.default for cls in (UnlearnArgs, PublishedArgs) for field in dataclasses.fields(cls)}
    return [name for name, default in fields.items() if name not in method.follows and getattr(args, name) != default]
