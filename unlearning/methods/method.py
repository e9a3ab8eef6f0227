"""What a method is: how it goes about a case, and its own values of the flags that it follows."""

import dataclasses
from collections.abc import Callable, Mapping

from unlearning.arguments import BATCH_SIZE, DISCRIMINATING, MethodArgs, PublishedArgs, UnlearnArgs
from unlearning.constrained.targets import Target, own_target
from unlearning.constrained.two_stages import TwoStages
from unlearning.context import Case
from unlearning.methods.plan import Plan
from unlearning.methods.planned import Planned

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
        procedure: builds what runs the method's epochs on a case: `TwoStages` or `Planned`.
        defaults: the method's own values of flags, where they differ from ours.
        follows: flags that mean something to it.
        constrained: whether the budget rules the run, and the choice of its epoch.
        augmented: whether it learns from augmented images, as the original did.
        discriminates: whether it needs pairs of images for a discriminator.
    """

    procedure: Callable[[Case], TwoStages | Planned]
    defaults: Mapping[str, object]
    follows: frozenset[str]
    constrained: bool = False
    augmented: bool = True
    discriminates: bool = False


def constrained(build_target: Callable[[Case], Target], *, discriminates: bool = False) -> Method:
    """One of ours: the constrained problem with a forget target of its own."""
    fields = {field.name for field in dataclasses.fields(UnlearnArgs)}
    return Method(
        lambda case: TwoStages(case, build_target), DISCRIMINATING if discriminates else {}, frozenset(fields),
        constrained=True, augmented=False, discriminates=discriminates,
    )  # fmt: skip


def published(build_plan: Callable[[Case], Plan], **defaults: object) -> Method:
    """A method of passes: with the flags of `defaults`, and those of every gradient method."""
    values = {**PUBLISHED, **defaults}
    return Method(
        lambda case: Planned(case, build_plan, own_target(case), case.args.num_epochs), values,
        frozenset({*STATED, *STEPPING, *values}),
    )  # fmt: skip


def one_shot(build_plan: Callable[[Case], Plan], **defaults: object) -> Method:
    """A method that changes the weights once, without an epoch."""
    return Method(
        lambda case: Planned(case, build_plan, own_target(case), 0), defaults, frozenset({*STATED, *defaults})
    )


def unheeded(method: Method, args: MethodArgs) -> list[str]:
    """Flags whose values were changed and that mean nothing to a method."""
    # Fields of base classes come in the order of the classes.
    fields = {field.name: field.default for cls in (UnlearnArgs, PublishedArgs) for field in dataclasses.fields(cls)}
    return [name for name, default in fields.items() if name not in method.follows and getattr(args, name) != default]
