"""Ours, contrastive: pass for unseen before a discriminator that learns along, subject to the retain budget."""

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.games import AdversarialGame
from helper_functions.training.devices import seeded
from unlearning.arguments import forget_batch_size
from unlearning.constrained.discriminator_target import DiscriminatorTarget, Parts
from unlearning.context import MethodContext
from unlearning.methods.method import constrained


def target(context: MethodContext) -> DiscriminatorTarget:
    """As `constrained`, F the student's loss against a discriminator that is trained alongside."""
    args, parts = context.args, Parts(context)
    auto = "mlp" if args.discriminate == "features" else "logistic"
    name = auto if args.discriminator == "auto" else args.discriminator
    size = parts.forget.shape[1]

    def critic() -> Critic:
        return Critic(DISCRIMINATORS[name](size).to(parts.forget.device), args.discriminator_learning_rate)

    with seeded(context.seed, parts.forget.device):
        game = AdversarialGame(critic(), parts.reference("unseen"), args.discriminator_steps, parts.generator)
        batch_size = forget_batch_size(args, context.evaluator.forget_images)
        game.warm_up(parts.forget, context.evaluator.forget_labels, batch_size)
    return DiscriminatorTarget(parts, game, critic)


METHOD = constrained(target, discriminates=True)
