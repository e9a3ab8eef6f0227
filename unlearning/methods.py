"""Methods by name: what each one pursues on the forget data, subject to the retain budget."""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import StatisticsRegression, build_discriminator
from contrastive_discrimination.games import AdversarialGame, BatchAveragedGame
from contrastive_discrimination.held_out import FOLDS
from contrastive_discrimination.pairs import ClassMates
from contrastive_discrimination.reference import Reference, View
from contrastive_discrimination.statistics import output_statistics
from data.split_record import Splits
from helper_functions.devices import Precision, seeded
from helper_functions.errors import UserError
from unlearning.arguments import UnlearnArgs
from unlearning.contrastive import DiscriminatorTarget, Outputs
from unlearning.examination import Examination
from unlearning.targets import ChanceTarget, Target, UnseenTarget, ZeroTarget

# What a label is worth as a partner: nothing where it is wrong, or where all of its class has to go.
OWN_MATCH = {"unseen": "given", "zero": "none", "chance": "none"}


@dataclasses.dataclass
class Case:
    """What is to be forgotten, and by which means.

    `target` is the name of the forget target, `model` the original, whose weights are still to move.
    """

    target: str
    model: nn.Module
    examination: Examination
    args: UnlearnArgs
    precision: Precision
    seed: int


def constrained(case: Case) -> Target:
    """Push each forget image until it has reached its target."""
    if case.target == "unseen":
        return UnseenTarget(case.examination.unseen_weights)
    if case.target == "zero":
        return ZeroTarget(case.examination.forgotten_classes())
    return ChanceTarget(case.examination.num_classes, case.args.chance_margin)


def untrain(case: Case) -> Target:
    """Pass for unseen before a discriminator that learns along."""
    args, parts = case.args, _Parts(case)
    name = "mlp" if args.discriminator == "auto" else args.discriminator
    size = parts.forget.shape[1]

    def critic() -> Critic:
        return Critic(build_discriminator(name, size).to(parts.forget.device), args.discriminator_learning_rate)

    with seeded(case.seed, parts.forget.device):
        game = AdversarialGame(critic(), parts.reference("unseen"), args.discriminator_steps, parts.generator)
        game.warm_up(parts.forget, case.examination.forget_labels, args.batch_size)
    return parts.target(game, critic)


def untrain_contrastive(case: Case) -> Target:
    """Pass for unseen, in the means over groups, before a logistic regression that is refitted at each step."""
    parts = _Parts(case)
    # Features are many as they are; of the others, one mean alone can be met by a wrong distribution.
    statistics = (lambda outputs: outputs) if case.args.discriminate == "features" else output_statistics

    def critic() -> Critic:
        regression = StatisticsRegression(parts.forget.shape[1], lambda first, second: statistics(first))
        return Critic(regression.to(parts.forget.device))

    game = BatchAveragedGame(statistics, parts.reference("unseen"), case.args.group_size, parts.generator)
    return parts.target(game, critic)


class _Parts:
    """What both games are made of: views of the student and of the teacher."""

    def __init__(self, case: Case) -> None:
        self.case, examination = case, case.examination
        # Elsewhere a set may hold the whole of some class beside parts of others: each image's own label goes.
        whole = examination.forgotten_classes() if case.target == "zero" else torch.zeros(0, dtype=torch.int64)
        view = View(case.args.discriminate, examination.num_classes, whole)
        if view.set_apart == view.num_classes:
            raise UserError("every class is to be forgotten: there is nothing that its images could pass for")
        self.outputs = Outputs(view, case.precision)
        self.match = OWN_MATCH[case.target] if case.args.match == "auto" else case.args.match
        logits, labels = examination.original_outputs["forget"]
        features = self.outputs.features(case.model, examination.views["forget"])
        self.forget = view(logits, features, view.to_go(labels))
        self.generator = torch.Generator(labels.device).manual_seed(case.seed)

    def reference(self, name: str) -> Reference:
        """The original's outputs on the unseen or on the validation images."""
        examination = self.case.examination
        logits, labels = examination.original_outputs[name]
        features = self.outputs.features(self.case.model, examination.views[name])
        wanted = examination.forget_labels
        return Reference(self.outputs.view, self.match, logits, labels, features, name, wanted)

    def target(self, game: AdversarialGame | BatchAveragedGame, fresh: Callable[[], Critic]) -> Target:
        """The target that pursues a game."""
        held_out, case = self.reference("validation"), self.case
        return DiscriminatorTarget(
            constrained(case), game, self.outputs, held_out, case.examination, fresh, case.seed
        )


METHODS: dict[str, Callable[[Case], Target]] = {
    "constrained": constrained,
    "untrain": untrain,
    "untrain_contrastive": untrain_contrastive,
}


def check_images(method: str, args: UnlearnArgs, target: str, splits: Splits, num_classes: int) -> None:
    """Refuse a method that has a discriminator where there are too few images for its pairs.

    Raises:
        UserError: saying how many there are.
    """
    if method == "constrained":
        return
    for name in ("forget", "validation"):
        if (count := len(getattr(splits, name))) < FOLDS:
            raise UserError(f"{count} {name} images: the held-out pairs of {method} want {FOLDS} or more")
    if (OWN_MATCH[target] if args.match == "auto" else args.match) == "given":
        for name in ("unseen", "validation"):
            mates = ClassMates(splits.labels[getattr(splits, name)], num_classes)
            mates.require(splits.labels[splits.forget], name)


def check_method(method: str, args: UnlearnArgs) -> None:
    """Refuse a method that does not exist, and flags that it cannot follow.

    Raises:
        UserError: naming the flag.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r}: one of {', '.join(METHODS)}")
    if method == "constrained" and args.stop_criterion == "discriminator":
        raise UserError("--stop_criterion discriminator: method constrained has none; use another criterion")
    if method == "untrain_contrastive" and args.discriminator not in ("auto", "logistic"):
        raise UserError(f"--discriminator {args.discriminator}: untrain_contrastive has the logistic one alone")
    if method == "untrain" and (args.discriminator, args.discriminate) == ("jensen_shannon", "losses"):
        raise UserError("--discriminator jensen_shannon --discriminate losses: one loss has no distribution")
