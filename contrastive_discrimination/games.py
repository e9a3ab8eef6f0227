"""Two adversarial games: the student's outputs on forget images approach the teacher's outputs on unseen images.

In fine-tuning, the student's own outputs on unseen images stand in place of the teacher's.

Both give the student a loss on a batch of forget outputs and learn from that batch in `commit`. At the optimum the
discriminator is at chance, where the loss is log 2. The flags of both are `ContrastiveArgs`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive_discrimination.critic import Critic, TrainsCritic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.logistic import solve_logistic
from contrastive_discrimination.pairs import Pairs
from contrastive_discrimination.reference import Reference
from helper_functions.config import PositiveFloat, PositiveInt
from helper_functions.metrics import calculate_binary_accuracy
from models.batch_averaging import BatchAverage

# The student's loss at which the discriminator is at chance.
CHANCE_LOSS = math.log(2)
# Steps of the critic on the teacher's own outputs before the student's first.
WARM_UP_STEPS = 100
# Recent forget images on which the regression is refitted: one batch is too few to estimate differences of means.
MEMORY = 512
# l2 of that regression, on group means in units of one image's standard deviation.
RIDGE = 5.0


@dataclasses.dataclass
class ContrastiveArgs:
    """Flags that only the methods with a discriminator, untrain and untrain_contrastive, have."""

    discriminator: Literal["auto", *DISCRIMINATORS] = "auto"
    """The discriminator. auto of untrain is logistic, or mlp of features; auto of mode train jensen_shannon, or
    difference of features; untrain_contrastive always uses logistic."""
    discriminate: Literal["logits", "features", "losses"] = "logits"
    """Its inputs: sorted log-probabilities with the label set apart, inputs of the last layer, or losses alone."""
    match: Literal["auto", "given", "none"] = "auto"
    """Forget images are paired with unseen images of their given label, or of any label; auto is none where labels or
    classes are forgotten, else given."""
    discriminator_learning_rate: PositiveFloat = 0.003
    """Learning rate of the discriminator."""
    discriminator_steps: PositiveInt = 3
    """Steps of the discriminator for each step of the student."""
    group_size: PositiveInt = 16
    """Images in a group, over which untrain_contrastive averages the inputs of its logistic regression."""


class AdversarialGame(TrainsCritic):
    """A critic tells pairs (student on forget, teacher on unseen) from pairs (teacher on unseen, teacher on unseen).

    The student's loss is −log P(same) (Goodfellow et al. 2014, section 3, the non-saturating one), and the critic takes
    `steps` of its own after each of the student's.

    Args:
        critic: the discriminator and its optimizer.
        reference: the teacher's outputs on unseen images.
        steps: of the critic, beside each of the student's.
        generator: of the partners, on the device of the outputs.
    """

    def __init__(self, critic: Critic, reference: Reference, steps: int, generator: torch.Generator) -> None:
        self.critic, self.reference, self.critic_steps, self.generator = critic, reference, steps, generator

    def warm_up(self, outputs: Tensor, labels: Tensor, batch_size: int) -> None:
        """Train the critic on the teacher's outputs on forget images, `[P, D]`, labels `[P]`, before the game."""
        for _ in range(WARM_UP_STEPS):
            rows = torch.randint(len(labels), (batch_size,), generator=self.generator, device=labels.device)
            self.teach_critic(outputs[rows], labels[rows])

    def loss(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The student's loss in nats and the share of images that are classified as unseen, both 0-d.

        From the student's outputs on forget images, `[B, D]`, and their given labels, int64 `[B]`.
        """
        _, beside = self.reference.draw(labels, self.generator)
        logits = self.critic.judge(outputs, self.reference.outputs(beside, self.generator))
        self._seen = self._seen or (outputs.detach(), labels)
        return F.softplus(-logits).mean(), (logits.detach() > 0).float().mean()

    def teach_critic(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the critic on the student's outputs on forget images, `[B, D]`, and their given labels, `[B]`."""
        first, second = self.reference.draw(labels, self.generator)
        _, beside = self.reference.draw(labels, self.generator)
        first, second, beside = (self.reference.outputs(i, self.generator) for i in (first, second, beside))
        return self.critic.learn((first, second), (outputs, beside))


class BatchAveragedGame:
    """A logistic regression tells group means of the student's forget outputs from those of the teacher's unseen ones.

    It is refitted at each step on groups of recent forget images and of unseen images; then, with its coefficients
    fixed, the gradient of −log P(same) flows through the means of the batch's groups into the student. The mean of a
    group of g varies √g times less than one image, so that smaller shifts can be detected.

    Args:
        statistics: of single outputs, `[B, D]` to `[B, S]`.
        reference: the teacher's outputs on unseen images.
        group_size: g.
        generator: of the partners and the groups, on the device of the outputs.
    """

    def __init__(
        self, statistics: Callable[[Tensor], Tensor], reference: Reference, group_size: int, generator: torch.Generator
    ) -> None:
        self.statistics, self.reference, self.generator = statistics, reference, generator
        self.average = BatchAverage(group_size)
        self.recent: Pairs | None = None  # statistics [M, S] and labels [M] of the last forget images
        self._seen: Pairs | None = None
        self._figures: dict[str, Tensor] = {}

    def loss(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `AdversarialGame.loss`, with the share of groups."""
        statistics = self.statistics(outputs)
        recent = statistics.detach(), labels
        if self.recent is not None:
            recent = tuple(torch.cat(parts) for parts in zip(self.recent, recent, strict=True))
        recent = recent[0][-MEMORY:], recent[1][-MEMORY:]
        unseen = torch.cat([
            self.statistics(self.reference.outputs(rows, self.generator))
            for rows in self.reference.draw(recent[1], self.generator)
        ])  # fmt: skip
        std, mean = torch.std_mean(unseen, dim=0)
        std = std.clamp(min=1e-3)
        coefficients = self._refit((recent[0] - mean) / std, (unseen - mean) / std)
        logits = self.average((statistics - mean) / std) @ coefficients[:-1] + coefficients[-1]
        weights = self.average.counts(len(labels), labels.device) / len(labels)
        self._seen = self._seen or recent
        return (weights * F.softplus(-logits)).sum(), (weights * (logits.detach() > 0)).sum()

    def _refit(self, forget: Tensor, unseen: Tensor) -> Tensor:
        """Coefficients and intercept, `[S + 1]`, from standardised statistics; both kinds have the same weight."""
        means, weights = [], []
        for kind in (forget, unseen):
            means.append(self.average(kind[torch.randperm(len(kind), generator=self.generator, device=kind.device)]))
            weights.append(self.average.counts(len(kind), kind.device) / self.average.group_size)
        weights[1] = weights[1] * (weights[0].sum() / weights[1].sum())
        targets = torch.cat([torch.zeros_like(weights[0]), torch.ones_like(weights[1])])
        means, weights = torch.cat(means), torch.cat(weights)
        coefficients = solve_logistic(means, targets, weights=weights, l2=RIDGE)
        logits = means @ coefficients[:-1] + coefficients[-1]
        self._figures = {
            "classifier/loss": F.binary_cross_entropy_with_logits(logits, targets, weights) / weights.mean(),
            "classifier/accuracy": calculate_binary_accuracy(logits, targets),
        }
        return coefficients

    def commit(self) -> dict[str, Tensor]:
        """Keep the batch; the regression's loss in nats and its accuracy in percent, on the data of its fit."""
        self.recent, self._seen = self._seen, None
        return self._figures

    def state_dict(self) -> dict:
        """The recent forget images' statistics and the generator's state."""
        recent = {} if self.recent is None else {"statistics": self.recent[0], "labels": self.recent[1]}
        return {"recent": recent, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        recent = state["recent"]
        device = self.reference.labels.device
        self.recent = (recent["statistics"].to(device), recent["labels"].to(device)) if recent else None
        self.generator.set_state(state["generator"].cpu())
