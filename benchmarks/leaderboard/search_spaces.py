"""What is tuned of each method, and between which bounds: those of published code, with room on either side."""

import dataclasses

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from unlearning.arguments import MethodArgs
from unlearning.methods import defaults_of


def _log(low: float, high: float) -> FloatDistribution:
    return FloatDistribution(low, high, log=True)


# Passes over the retain set, which can be capped; those over the forget set cost a fraction.
EPOCHS = IntDistribution(2, 10)
# One minus these are spread evenly over the orders of magnitude.
WEIGHTS = CategoricalDistribution((0.6, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999))
SCRUB = {
    "learning_rate": _log(1e-4, 3e-2), "num_epochs": EPOCHS, "msteps": IntDistribution(1, 4),
    "divergence_weight": _log(1e-3, 1.0),
}  # fmt: skip
FORGET_BATCH = CategoricalDistribution((32, 64, 128))
# None: as large as it follows from the forget set.
OWN_BATCH = CategoricalDistribution((None, *FORGET_BATCH.choices))
RELABELLED = {"learning_rate": _log(1e-4, 1e-1), "num_epochs": EPOCHS}
LAST_LAYERS = {"learning_rate": _log(1e-3, 1e-1), "num_epochs": EPOCHS, "last_layers": IntDistribution(1, 8)}


@dataclasses.dataclass(frozen=True)
class Space:
    """Flags of a row that are fixed, and those that are searched, by name."""

    fixed: dict[str, object]
    searched: dict[str, BaseDistribution]


def _space(method: str, searched: dict[str, BaseDistribution], **fixed: object) -> Space:
    return Space({"method": method, **fixed}, searched)


SPACES: dict[str, Space] = {
    "constrained": _space(
        "constrained",
        {"learning_rate": _log(3e-3, 1e-1), "num_epochs": IntDistribution(4, 20), "batch_size": OWN_BATCH},
    ),
    # Their own criterion ends at an AUC of 0.55; the epoch that is nearest to unseen images often comes later.
    "untrain": _space(
        "untrain",
        {"learning_rate": _log(3e-3, 1e-1), "num_epochs": IntDistribution(4, 12), "batch_size": FORGET_BATCH},
        stop_criterion="none",
    ),
    "untrain_contrastive": _space(
        "untrain_contrastive",
        {"learning_rate": _log(3e-3, 1e-1), "num_epochs": IntDistribution(4, 20), "batch_size": FORGET_BATCH},
        stop_criterion="none",
    ),
    "finetune": _space("finetune", {"learning_rate": _log(1e-3, 2e-1), "num_epochs": EPOCHS}),
    "gradient_ascent": _space(
        "gradient_ascent", {"learning_rate": _log(1e-5, 1e-2), "num_epochs": IntDistribution(1, 10)}
    ),
    "neggrad_plus": _space(
        "neggrad_plus", {"learning_rate": _log(1e-3, 5e-2), "num_epochs": EPOCHS, "retain_weight": WEIGHTS}
    ),
    "random_labels": _space("random_labels", RELABELLED),
    "scrub": _space("scrub", SCRUB),
    "scrub_r": _space("scrub", SCRUB, rewind=True),
    "cf_k": _space("cf_k", LAST_LAYERS),
    "eu_k": _space("eu_k", LAST_LAYERS),
    "bad_teacher": _space(
        "bad_teacher",
        {
            "learning_rate": _log(5e-5, 3e-3), "num_epochs": IntDistribution(1, 10),
            "temperature": CategoricalDistribution((1.0, 2.0, 4.0)),
        },
    ),
    "salun": _space("salun", {**RELABELLED, "mask_share": FloatDistribution(0.1, 0.9)}),
    "l1_sparse": _space(
        "l1_sparse", {"learning_rate": _log(1e-3, 1e-1), "num_epochs": EPOCHS, "l1_penalty": _log(1e-5, 1e-3)}
    ),
    "ssd": _space("ssd", {"ssd_threshold": _log(1.0, 50.0), "ssd_dampening": _log(0.01, 1.0)}),
    "unsir": _space(
        "unsir",
        {"learning_rate": _log(1e-3, 1e-1), "num_epochs": EPOCHS, "noise_steps": IntDistribution(10, 100)},
    ),
    "boundary_shrink": _space(
        "boundary_shrink",
        {
            "learning_rate": _log(1e-5, 1e-2), "num_epochs": IntDistribution(1, 10),
            "fgsm_step": FloatDistribution(0.1, 1.0),
        },
    ),
    "influence": _space("influence", {"newton_step": _log(1e-3, 10.0), "damping": _log(1e-3, 1.0)}),
    "fisher": _space("fisher", {"noise_scale": _log(1e-9, 1e-4)}),
    "delete": _space("delete", {"learning_rate": _log(1e-5, 1e-2), "num_epochs": IntDistribution(1, 20)}),
    "lotus": _space(
        "lotus",
        {
            "learning_rate": _log(1e-4, 5e-2), "num_epochs": IntDistribution(1, 10),
            "tempering": FloatDistribution(1.0, 8.0),
        },
    ),
    "msg": _space(
        "msg", {"learning_rate": _log(1e-3, 1e-1), "num_epochs": EPOCHS, "reset_share": FloatDistribution(0.05, 0.5)}
    ),
    "ct": _space("ct", {"learning_rate": _log(1e-3, 1e-1), "num_epochs": EPOCHS}),
    "ugradsl_plus": _space(
        "ugradsl_plus",
        {
            "learning_rate": _log(1e-3, 5e-2), "num_epochs": EPOCHS, "retain_weight": WEIGHTS,
            "smoothing": FloatDistribution(0.05, 1.0),
        },
    ),
}  # fmt: skip


def within(space: Space, most_retain_epochs: int) -> Space:
    """The same space with at most so many passes over the retain set."""
    if space.searched.get("num_epochs") is not EPOCHS:
        return space
    capped = IntDistribution(min(EPOCHS.low, most_retain_epochs), min(EPOCHS.high, most_retain_epochs))
    return Space(space.fixed, {**space.searched, "num_epochs": capped})


def start(space: Space) -> dict[str, object]:
    """The method's own defaults, moved into the bounds where they lie outside: the first trial of every search."""
    fields = {field.name: field.default for field in dataclasses.fields(MethodArgs)}
    own = {**fields, **defaults_of(space.fixed["method"])}
    return {name: _nearest(own[name], distribution) for name, distribution in space.searched.items()}


def _nearest(value: object, distribution: BaseDistribution) -> object:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return value if value in choices else min(choices, key=lambda choice: abs(choice - value))
    return min(max(value, distribution.low), distribution.high)


def rounded(values: dict[str, object], space: Space) -> dict[str, object]:
    """Drawn real values to two digits, so that a file can hold them as they were tried."""
    drawn = {name for name, distribution in space.searched.items() if isinstance(distribution, FloatDistribution)}
    return {name: float(f"{value:.2g}") if name in drawn else value for name, value in values.items()}
