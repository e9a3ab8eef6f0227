"""Forget outputs that pass for the teacher's on unseen images: the targets of untrain and untrain_contrastive.

The teacher is the original. The constraint, the loop, the line search and the verdict are those of every other target.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.games import CHANCE_LOSS, AdversarialGame, BatchAveragedGame
from contrastive_discrimination.held_out import held_out_auc
from contrastive_discrimination.reference import Reference, View
from helper_functions.errors import UserError
from models.features import FeatureTap, predict_features
from unlearning.constrained.difficulty import Difficulty
from unlearning.constrained.stopping import AUC_TOLERANCE
from unlearning.constrained.targets import Target, own_target
from unlearning.context import MethodContext

# What a label is worth as a partner: nothing where it is wrong, or where all of its class has to go.
OWN_MATCH = {"unseen": "given", "zero": "none", "chance": "none"}


class Parts:
    """What both games are made of: what a discriminator sees of the student and of the teacher."""

    def __init__(self, context: MethodContext) -> None:
        self.context, evaluator = context, context.evaluator
        # Elsewhere a set may hold the whole of some class beside parts of others: each image's own label goes.
        whole = evaluator.forgotten_classes() if context.target == "zero" else torch.zeros(0, dtype=torch.int64)
        self.view = View(context.args.discriminate, evaluator.num_classes, whole)
        if self.view.set_apart == self.view.num_classes:
            raise UserError("every class is to be forgotten: there is nothing that its images could pass for")
        self.match = OWN_MATCH[context.target] if context.args.match == "auto" else context.args.match
        self.forget = self.forget_outputs(context.model, *evaluator.original_outputs["forget"])
        self.generator = torch.Generator(self.forget.device).manual_seed(context.seed)

    def forget_outputs(self, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """`[P, D]` of a model on the forget set, from its logits there."""
        return self.view(logits, self._features(model, "forget"), self.view.to_go(labels))

    def reference(self, name: str) -> Reference:
        """The original's outputs on the unseen or on the validation images, which are drawn as hard as forget images.
        """
        evaluator = self.context.evaluator
        logits, labels = evaluator.original_outputs[name]
        features, rows = self._features(self.context.model, name), self.rows(name)
        features = None if features is None else features[rows]
        weights = None if evaluator.difficulty == Difficulty() else evaluator.difficulty_weights[name][rows]
        return Reference(
            self.view, self.match, logits[rows], labels[rows], features, name, evaluator.forget_labels, weights
        )

    def rows(self, name: str) -> Tensor | slice:
        """Of those images, the ones that may be drawn: of a class that is paired, the forget set's subclasses alone."""
        return self.context.evaluator.class_weights[name] > 0 if self.match == "given" else slice(None)

    def _features(self, model: nn.Module, name: str) -> Tensor | None:
        """`[N, F]` of a stream's images, where features are seen."""
        if self.view.name != "features":
            return None
        return predict_features(model, self.context.evaluator.views[name], self.context.precision)[0]


class DiscriminatorTarget(Target):
    """A discriminator cannot separate the student on forget images from the teacher on unseen ones.

    `own` is the forget set's own target, on which the verdict rests.

    Its distance is how far the AUC on held-out pairs, of a discriminator that is fitted anew, is from chance, beyond a
    tolerance for noise; 0 where its interval holds chance. Held out are the validation images, of which the game sees
    nothing.

    Args:
        parts: what the game is made of.
        game: gives the objective.
        fresh: builds a discriminator.
    """

    floor = CHANCE_LOSS

    def __init__(self, parts: Parts, game: AdversarialGame | BatchAveragedGame, fresh: Callable[[], Critic]) -> None:
        self.parts, self.game, self.fresh = parts, game, fresh
        self.held_out, self.own = parts.reference("validation"), own_target(parts.context)
        self.name, self.seed = self.own.name, parts.context.seed
        self.tap: FeatureTap | None = None
        # On unseen images, in fine-tuning.
        self.own_outputs: Tensor | None = None

    @property
    def tolerances(self) -> tuple[float, float]:
        return self.tolerance, self.own.tolerance

    def objective(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The student's loss against the discriminator, in nats, and the share that passes for unseen."""
        # Forget images stand at the beginning of the latest pass.
        features = None if self.tap is None else self.tap.features[: len(logits)]
        view = self.parts.view
        return self.game.loss(view(logits, features, view.to_go(labels)), labels)

    def commit(self) -> dict[str, Tensor]:
        """The discriminator's turn: `classifier/loss` in nats and `classifier/accuracy` in percent."""
        return self.game.commit()

    def refresh_beside(self, measure: Callable[[Callable[[Tensor, Tensor], Tensor]], Tensor]) -> None:
        """The student's outputs on unseen images, as forget images pass, take the place of the teacher's."""
        seen = measure(lambda logits, labels: logits if self.tap is None else self.tap.features.float())
        self._put(seen[self.parts.rows("unseen")])

    def _put(self, own: Tensor) -> None:
        self.own_outputs = own
        setattr(self.game.reference, "features" if self.parts.view.name == "features" else "logits", own)

    def distance(self, logits: Tensor, labels: Tensor, reference_losses: Tensor, reference_weights: Tensor) -> float:
        return self.own.distance(logits, labels, reference_losses, reference_weights)

    def examine(self, model: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """`discriminator/auc` on held-out pairs with its 95 % interval, and the distance that follows from it."""
        # The same pairs each time, so that epochs differ by the student alone.
        generator = torch.Generator(labels.device).manual_seed(self.seed)
        forget = self.parts.forget_outputs(model, logits, labels)
        first, second = self.held_out.draw(labels, generator)
        _, beside = self.held_out.draw(labels, generator)
        pairs = [self.held_out.outputs(rows, generator) for rows in (first, second, beside)]
        images = first, len(self.held_out.labels) + torch.arange(len(labels))
        auc = held_out_auc(self.fresh, (pairs[0], pairs[1]), (forget, pairs[2]), groups=images, seed=self.seed)
        beyond = 0.0 if auc.low <= 0.5 <= auc.high else max(abs(auc.value - 0.5) - AUC_TOLERANCE, 0.0)
        return {
            "discriminator/auc": auc.value,
            "discriminator/auc_low": auc.low,
            "discriminator/auc_high": auc.high,
            "forget/distance": 2 * beyond,
        }

    def attach(self, model: nn.Module) -> None:
        if self.parts.view.name == "features":
            self.tap = FeatureTap(model)

    def detach(self) -> None:
        if self.tap is not None:
            self.tap.close()

    def state_dict(self) -> dict:
        """The game's state, and the student's outputs on unseen images where they stand in place of the teacher's."""
        return {"game": self.game.state_dict(), "own_outputs": self.own_outputs}

    def load_state_dict(self, state: dict) -> None:
        self.game.load_state_dict(state["game"])
        if state["own_outputs"] is not None:
            self._put(state["own_outputs"].to(self.game.reference.labels.device))
