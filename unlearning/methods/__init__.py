"""Methods by name, and what each of them can work on."""

import dataclasses

import torch

from contrastive_discrimination.held_out import FOLDS
from contrastive_discrimination.pairs import ClassMates
from data.split_record import Splits
from helper_functions.errors import UserError
from helper_functions.wording import did_you_mean
from unlearning.arguments import MethodArgs, PublishedArgs, UnlearnArgs, stage_epochs
from unlearning.constrained.discriminator_target import OWN_MATCH
from unlearning.constrained.targets import own_target, require_other_labels
from unlearning.methods import (
    bad_teacher,
    boundary_shrink,
    delete,
    falw,
    finetune,
    fisher,
    gradient_ascent,
    hamu,
    influence,
    l1_sparse,
    last_layers,
    lotus,
    mu_mis,
    neggrad_plus,
    pour,
    random_labels,
    reload,
    reset,
    retrain,
    salun,
    scrub,
    ssd,
    uam,
    ugradsl_plus,
    unsir,
    untrain,
    untrain_contrastive,
)
from unlearning.methods.method import ClassCounts, Method, constrained
from unlearning.methods.own import is_own, load_own, own_flags, with_flags

METHODS: dict[str, Method] = {
    "constrained": constrained(own_target),
    "untrain": untrain.METHOD,
    "untrain_contrastive": untrain_contrastive.METHOD,
    "retrain": retrain.METHOD,
    "finetune": finetune.METHOD,
    "gradient_ascent": gradient_ascent.METHOD,
    "neggrad_plus": neggrad_plus.METHOD,
    "random_labels": random_labels.METHOD,
    "scrub": scrub.METHOD,
    "cf_k": last_layers.CF_K,
    "eu_k": last_layers.EU_K,
    "bad_teacher": bad_teacher.METHOD,
    "salun": salun.METHOD,
    "l1_sparse": l1_sparse.METHOD,
    "ssd": ssd.METHOD,
    "unsir": unsir.METHOD,
    "boundary_shrink": boundary_shrink.METHOD,
    "influence": influence.METHOD,
    "fisher": fisher.METHOD,
    "delete": delete.METHOD,
    "lotus": lotus.METHOD,
    "msg": reset.MSG,
    "ct": reset.CT,
    "ugradsl_plus": ugradsl_plus.METHOD,
    "reload": reload.METHOD,
    "mu_mis": mu_mis.METHOD,
    "hamu": hamu.METHOD,
    "falw": falw.METHOD,
    "uam": uam.METHOD,
    "pour": pour.METHOD,
}


def get_method(name: str) -> Method:
    """One of `METHODS`, or the user's own, `FILE.py:METHOD`; UserError where there is none."""
    if is_own(name):
        return load_own(name)
    if name not in METHODS:
        known = f"; give one of {', '.join(METHODS)}, or FILE.py:METHOD"
        raise UserError(f"--method {name}: unknown{did_you_mean(name, METHODS) or known}")
    return METHODS[name]


def defaults_of(method: str) -> dict[str, object]:
    """A method's own values of flags; those that are not there have the values that `--help` shows."""
    return dict(get_method(method).defaults)


def arguments_of(method: object, base: type) -> type:
    """A dataclass of arguments, with the flags of the user's own method where `method` is one."""
    return with_flags(base, method, own_flags(defaults_of(method))) if is_own(method) else base


def check_images(method: str, args: MethodArgs, target: str, splits: Splits, num_classes: int) -> None:
    """Refuse a method that does not apply to the forget set, or has too few images for its pairs, by a UserError."""
    counted = (splits.labels[getattr(splits, name)] for name in ClassCounts._fields)
    check_classes(method, target, ClassCounts(*(torch.bincount(each, minlength=num_classes) for each in counted)))
    if target == "chance":
        for name in ("unseen", "validation"):
            require_other_labels(splits.labels[getattr(splits, name)], splits.labels[splits.forget])
    if not get_method(method).discriminates:
        return
    for name in ("forget", "validation"):
        if (count := len(getattr(splits, name))) < FOLDS:
            raise UserError(f"{count} {name} images: the held-out pairs of {method} need {FOLDS} or more")
    if (OWN_MATCH[target] if args.match == "auto" else args.match) == "given":
        for name in ("unseen", "validation"):
            mates = ClassMates(splits.labels[getattr(splits, name)], num_classes)
            mates.require(splits.labels[splits.forget], name)


def check_classes(method: str, target: str, counts: ClassCounts) -> None:
    """Refuse a method that does not apply to a forget target, or to images of these classes, by a UserError."""
    if why := get_method(method).refuses(target, counts):
        raise UserError(f"--method {method}: {why}")


def check_method(method: str, args: MethodArgs, target: str) -> None:
    """Refuse flags that a method cannot follow for a forget target, by a UserError that names them."""
    if get_method(method).constrained:
        if not any(stage_epochs(args, target)):
            raise UserError("--num_epochs 0 --finetune_num_epochs 0: nothing is left to do; give one of them passes")
    elif "num_epochs" in get_method(method).follows and not args.num_epochs:
        raise UserError(f"--num_epochs {args.num_epochs}: method {method} needs at least one pass")
    if method == "constrained" and args.stop_criterion == "discriminator":
        raise UserError("--stop_criterion discriminator: method constrained has none; use another criterion")
    if method == "untrain_contrastive" and args.discriminator not in ("auto", "logistic"):
        raise UserError(f"--discriminator {args.discriminator}: untrain_contrastive has the logistic one alone")
    if method == "untrain" and (args.discriminator, args.discriminate) == ("jensen_shannon", "losses"):
        raise UserError("--discriminator jensen_shannon --discriminate losses: one loss has no distribution")
    # Fields of base classes come in the order of the classes.
    for field in (*dataclasses.fields(UnlearnArgs), *dataclasses.fields(PublishedArgs)):
        value = getattr(args, field.name)
        if field.name not in get_method(method).follows and value != field.default:
            raise UserError(f"--{field.name} {value}: method {method} has no such thing; leave it out")
