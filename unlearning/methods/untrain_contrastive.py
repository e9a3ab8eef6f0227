"""Ours, contrastive: pass for unseen, in the means over groups, before a logistic regression that is refitted at each
step, subject to the retain budget.
"""

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import StatisticsRegression
from contrastive_discrimination.games import BatchAveragedGame
from contrastive_discrimination.reference import output_statistics
from unlearning.constrained.discriminator_target import DiscriminatorTarget, Parts
from unlearning.context import MethodContext
from unlearning.methods.method import constrained


def target(context: MethodContext) -> DiscriminatorTarget:
    """As `constrained`, F the student's loss against a logistic regression on group means, solved anew at each step."""
    parts = Parts(context)
    # Features are many as they are; of the others, one mean alone can be met by a wrong distribution.
    statistics = (lambda outputs: outputs) if context.args.discriminate == "features" else output_statistics

    def critic() -> Critic:
        regression = StatisticsRegression(parts.forget.shape[1], lambda first, second: statistics(first))
        return Critic(regression.to(parts.forget.device))

    game = BatchAveragedGame(statistics, parts.reference("unseen"), context.args.group_size, parts.generator)
    return DiscriminatorTarget(parts, game, critic)


METHOD = constrained(target, discriminates=True)
