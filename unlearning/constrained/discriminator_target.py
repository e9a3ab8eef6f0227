"""Forget outputs that pass for the teacher's on unseen images: the targets of untrain and untrain_contrastive.

The teacher is the original. The constraint, the loop, the safeguard and the verdict are those of every other target.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.games import CHANCE_LOSS, AdversarialGame, BatchAveragedGame
from contrastive_discrimination.held_out import Auc, held_out_auc
from contrastive_discrimination.reference import Reference, View
from helper_functions.errors import UserError
from helper_functions.training.devices import Precision
from models.features import FeatureTap, predict_features
from unlearning.constrained.targets import Target, own_target
from unlearning.context import MethodContext
from unlearning.evaluator import Evaluator

# How far from 0.5 an AUC may be and still count as chance.
AUC_TOLERANCE = 0.05


class Outputs:
    """What a discriminator sees of a model on the images of a loader, or of the latest forward pass of the student.

    Args:
        view: what is seen.
        precision: device and dtype.
    """

    def __init__(self, view: View, precision: Precision) -> None:
        self.view, self.precision = view, precision
        self.tap: FeatureTap | None = None

    def attach(self, model: nn.Module) -> None:
        """Follow the student's forward passes, until `detach`."""
        self.tap = FeatureTap(model) if self.view.name == "features" else None

    def of_batch(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`[B, D]` of forget images that stood at the beginning of the latest pass; with its gradient."""
        features = None if self.tap is None else self.tap.features[: len(logits)]
        return self.view(logits, features, self.view.to_go(labels))

    def features(self, model: nn.Module, loader: Iterable) -> Tensor | None:
        """`[N, F]` of everything in a loader, where they are seen."""
        return predict_features(model, loader, self.precision)[0] if self.view.name == "features" else None

    def detach(self) -> None:
        """Remove the hook from the student."""
        if self.tap is not None:
            self.tap.close()


class DiscriminatorTarget(Target):
    """A discriminator cannot separate the student on forget images from the teacher on unseen ones.

    Its distance is how far the AUC on held-out pairs, of a discriminator that is fitted anew, is from chance, beyond a
    tolerance for noise. Held out are the validation images, of which the game sees nothing.

    Args:
        own: the forget set's own target, on which the verdict rests.
        game: gives the objective.
        outputs: what is seen of the student.
        held_out: the teacher on validation images.
        examination: its view of the forget images.
        fresh: builds a discriminator.
        seed: of the held-out pairs and the fresh discriminators.
    """

    floor = CHANCE_LOSS

    def __init__(
        self,
        own: Target,
        game: AdversarialGame | BatchAveragedGame,
        outputs: Outputs,
        held_out: Reference,
        evaluator: Evaluator,
        fresh: Callable[[], Critic],
        seed: int,
    ) -> None:
        self.own, self.game, self.outputs, self.held_out = own, game, outputs, held_out
        self.forget_view, self.fresh, self.seed = evaluator.views["forget"], fresh, seed
        self.name = own.name

    @property
    def tolerances(self) -> tuple[float, float]:
        return self.tolerance, self.own.tolerance

    def refresh(self, unseen_losses: Tensor) -> None:
        self.own.refresh(unseen_losses)

    def objective(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The student's loss against the discriminator, in nats, and the share that passes for unseen."""
        return self.game.loss(self.outputs.of_batch(logits, labels), labels)

    def commit(self) -> dict[str, Tensor]:
        """The discriminator's turn: `classifier/loss` in nats and `classifier/accuracy` in percent."""
        return self.game.commit()

    def distance(self, logits: Tensor, labels: Tensor, reference_losses: Tensor, reference_weights: Tensor) -> float:
        return self.own.distance(logits, labels, reference_losses, reference_weights)

    def examine(self, model: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """`discriminator/auc` on held-out pairs with its 95 % interval, and the distance that follows from it."""
        auc = self._auc(model, logits, labels)
        return {
            "discriminator/auc": auc.value,
            "discriminator/auc_low": auc.low,
            "discriminator/auc_high": auc.high,
            "forget/distance": 2 * max(abs(auc.value - 0.5) - AUC_TOLERANCE, 0.0),
        }

    def _auc(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Auc:
        # The same pairs each time, so that epochs differ by the student alone.
        generator = torch.Generator(labels.device).manual_seed(self.seed)
        view = self.outputs.view
        forget = view(logits, self.outputs.features(model, self.forget_view), view.to_go(labels))
        first, second = self.held_out.draw(labels, generator)
        _, beside = self.held_out.draw(labels, generator)
        pairs = [self.held_out.outputs(rows, generator) for rows in (first, second, beside)]
        images = first, len(self.held_out.labels) + torch.arange(len(labels))
        return held_out_auc(self.fresh, (pairs[0], pairs[1]), (forget, pairs[2]), groups=images, seed=self.seed)

    def attach(self, model: nn.Module) -> None:
        self.outputs.attach(model)

    def detach(self) -> None:
        self.outputs.detach()

    def state_dict(self) -> dict:
        return self.game.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.game.load_state_dict(state)


# What a label is worth as a partner: nothing where it is wrong, or where all of its class has to go.
OWN_MATCH = {"unseen": "given", "zero": "none", "chance": "none"}


class Parts:
    """What both games are made of: views of the student and of the teacher."""

    def __init__(self, context: MethodContext) -> None:
        self.context, evaluator = context, context.evaluator
        # Elsewhere a set may hold the whole of some class beside parts of others: each image's own label goes.
        whole = evaluator.forgotten_classes() if context.target == "zero" else torch.zeros(0, dtype=torch.int64)
        view = View(context.args.discriminate, evaluator.num_classes, whole)
        if view.set_apart == view.num_classes:
            raise UserError("every class is to be forgotten: there is nothing that its images could pass for")
        self.outputs = Outputs(view, context.precision)
        self.match = OWN_MATCH[context.target] if context.args.match == "auto" else context.args.match
        logits, labels = evaluator.original_outputs["forget"]
        features = self.outputs.features(context.model, evaluator.views["forget"])
        self.forget = view(logits, features, view.to_go(labels))
        self.generator = torch.Generator(labels.device).manual_seed(context.seed)

    def reference(self, name: str) -> Reference:
        """The original's outputs on the unseen or on the validation images."""
        evaluator = self.context.evaluator
        logits, labels = evaluator.original_outputs[name]
        features = self.outputs.features(self.context.model, evaluator.views[name])
        wanted = evaluator.forget_labels
        return Reference(self.outputs.view, self.match, logits, labels, features, name, wanted)

    def target(self, game: AdversarialGame | BatchAveragedGame, fresh: Callable[[], Critic]) -> DiscriminatorTarget:
        """The target that pursues a game."""
        held_out, context = self.reference("validation"), self.context
        return DiscriminatorTarget(
            own_target(context), game, self.outputs, held_out, context.evaluator, fresh, context.seed
        )
