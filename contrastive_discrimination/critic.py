"""A critic: a discriminator together with its optimizer."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from contrastive_discrimination.discriminators import StatisticsRegression
from contrastive_discrimination.pairs import Pairs
from helper_functions.metrics import calculate_binary_accuracy

WEIGHT_DECAY = 1e-4


def _join(same: Pairs, different: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and second outputs of all pairs, targets (1 for same), and weights that sum to a half for each kind."""
    first, second = torch.cat([same[0], different[0]]), torch.cat([same[1], different[1]])
    ones, zeros = torch.ones_like(same[0][:, 0]), torch.zeros_like(different[0][:, 0])
    weights = torch.cat([ones / (2 * len(ones)), (zeros + 1) / (2 * len(zeros))])
    return first.detach(), second.detach(), torch.cat([ones, zeros]), weights


class Critic:
    """A discriminator that learns from pairs of both kinds, and judges pairs without learning from them.

    The discriminator is in eval mode except in a training step. Where `frozen` is set, it is measured and never learns.

    Args:
        discriminator: gives logits `[B]` of the hypothesis *same*, on the device of the pairs.
        learning_rate: of AdamW (Loshchilov and Hutter 2019).
    """

    frozen = False

    def __init__(self, discriminator: nn.Module, learning_rate: float = 1e-3) -> None:
        self.discriminator = discriminator.eval()
        self.optimizer = None
        if parameters := list(discriminator.parameters()):  # none where it is solved exactly
            fused = parameters[0].device.type != "mps"
            self.optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=WEIGHT_DECAY, fused=fused)

    @property
    def is_solved(self) -> bool:
        """Whether the discriminator is fitted exactly in place of gradient steps."""
        return isinstance(self.discriminator, StatisticsRegression)

    def learn(self, same: Pairs, different: Pairs) -> dict[str, Tensor]:
        """One step on the binary cross-entropy, each kind with half of the weight whatever its count.

        All pairs share one forward pass, so that batch-norm statistics do not reveal the kind. No gradient flows into
        the pairs, `[P, D]` and `[Q, D]`. A discriminator that is solved exactly is refitted on these pairs alone.

        Returns:
            `classifier/loss` in nats and `classifier/accuracy` in percent of all pairs, both 0-d, before the step.
        """
        first, second, targets, weights = _join(same, different)
        steps = not (self.frozen or self.optimizer is None)
        self.discriminator.train(steps)
        try:
            with torch.set_grad_enabled(steps):
                logits = self.discriminator(first, second)
                loss = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
            if steps:
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        finally:
            self.discriminator.eval()
        if self.is_solved and not self.frozen:
            self.discriminator.fit(first, second, targets)
        accuracy = calculate_binary_accuracy(logits.detach(), targets)
        return {"classifier/loss": loss.detach(), "classifier/accuracy": accuracy}

    def judge(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits `[B]` of *same*, in eval mode; gradients flow to the outputs `[B, D]`, none to the discriminator."""
        self.discriminator.eval()
        constants = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, constants, (first, second))

    def rescale(self, factor: float) -> None:
        """Multiply the learning rate, where there is one."""
        for group in [] if self.optimizer is None else self.optimizer.param_groups:
            group["lr"] *= factor

    def state_dict(self) -> dict:
        """A copy of the discriminator's and the optimizer's state, which `torch.load` reads with `weights_only`."""
        optimizer = {} if self.optimizer is None else self.optimizer.state_dict()
        return copy.deepcopy({"discriminator": dict(self.discriminator.state_dict()), "optimizer": optimizer})

    def load_state_dict(self, state: dict) -> None:
        """Continue from a copy of a `state_dict`; RuntimeError for that of another discriminator."""
        self.discriminator.load_state_dict(state["discriminator"])
        if self.optimizer is not None:
            # The optimizer keeps the tensors that it is given and updates them in place.
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


class TrainsCritic:
    """Has a critic that takes steps of its own after each of the student's, from the outputs that the latter saw.

    Subclasses set these and give `teach_critic`; SAM calls their loss twice a step, and the critic learns from the
    first outputs.
    """

    critic: Critic
    critic_steps: int
    generator: torch.Generator
    _seen: Pairs | None = None

    def commit(self) -> dict[str, Tensor]:
        """Train the critic; its loss in nats and its accuracy in percent, before its steps."""
        seen, self._seen = self._seen, None
        return [self.teach_critic(*seen) for _ in range(self.critic_steps)][0]

    def state_dict(self) -> dict:
        """The critic's state and the generator's."""
        return {"critic": self.critic.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.critic.load_state_dict(state["critic"])
        self.generator.set_state(state["generator"].cpu())
