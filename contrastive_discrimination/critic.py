"""A discriminator together with what trains it."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from contrastive_discrimination.discriminators import StatisticsRegression
from contrastive_discrimination.pairs import Pairs
from helper_functions.metrics import calculate_binary_accuracy


def _join(same: Pairs, different: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and second outputs of all pairs, targets (1 for same) and weights, by which each kind sums to a half."""
    for first, second in (same, different):
        if first.ndim != 2 or first.shape != second.shape or len(first) == 0:
            raise ValueError(f"pairs [B, D], B at least 1, wanted, got {list(first.shape)} and {list(second.shape)}")
    first, second = torch.cat([same[0], different[0]]), torch.cat([same[1], different[1]])
    ones, zeros = torch.ones_like(same[0][:, 0]), torch.zeros_like(different[0][:, 0])
    weights = torch.cat([ones / (2 * len(ones)), (zeros + 1) / (2 * len(zeros))])
    return first.detach(), second.detach(), torch.cat([ones, zeros]), weights


class Critic:
    """A discriminator that learns from pairs of both kinds, and judges pairs without learning from them.

    Outside a training step, the discriminator is in eval mode.

    Args:
        discriminator: gives logits `[B]` of the hypothesis *same*, on the device of the pairs.
        learning_rate: of AdamW (Loshchilov and Hutter 2019).
        weight_decay: of AdamW.
        frozen: only ever measure.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        frozen: bool = False,
    ) -> None:
        self.discriminator = discriminator.eval()
        self.frozen = frozen
        parameters = list(discriminator.parameters())
        # A discriminator that is solved exactly leaves nothing to an optimizer, which refuses an empty list.
        self.optimizer = None
        if parameters:
            self.optimizer = torch.optim.AdamW(
                parameters, learning_rate, weight_decay=weight_decay, fused=parameters[0].device.type != "mps"
            )

    @property
    def is_solved(self) -> bool:
        """Whether the discriminator is fitted exactly, in one go, in place of gradient steps."""
        return isinstance(self.discriminator, StatisticsRegression)

    def learn(self, same: Pairs, different: Pairs) -> dict[str, Tensor]:
        """One step on the binary cross-entropy, in which each kind weighs half whatever its count.

        One forward pass sees all pairs, so that batch norm cannot tell the kinds by their statistics. No gradient
        flows into the pairs. A discriminator that is solved exactly is refitted on these pairs alone.

        Args:
            same: first and second outputs, `[P, D]` each.
            different: the same, `[Q, D]` each.

        Returns:
            `classifier/loss` in nats and `classifier/accuracy` in percent of all pairs, both 0-d, of the logits before
            the step; from a frozen critic, in eval mode.

        Raises:
            ValueError: a kind without pairs, or shapes that do not fit.
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
                # Dropped, so that outside a step a parameter has no gradient.
                self.optimizer.zero_grad(set_to_none=True)
        finally:
            self.discriminator.eval()
        if self.is_solved and not self.frozen:
            self.discriminator.fit(first, second, targets)
        accuracy = calculate_binary_accuracy(logits.detach(), targets)
        return {"classifier/loss": loss.detach(), "classifier/accuracy": accuracy}

    def judge(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits `[B]` of *same*, in eval mode: each pair's is its own, whatever else is in the batch.

        Gradients flow to the outputs, and none to the discriminator's parameters.

        Args:
            first: `[B, D]`.
            second: `[B, D]`.
        """
        self.discriminator.eval()
        constants = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, constants, (first, second))

    def rescale(self, factor: float) -> None:
        """Multiply the learning rate, where there is one."""
        for group in [] if self.optimizer is None else self.optimizer.param_groups:
            group["lr"] *= factor

    def state_dict(self) -> dict:
        """A copy of the discriminator's and the optimizer's state, in dicts that `torch.load` reads as weights only."""
        optimizer = {} if self.optimizer is None else self.optimizer.state_dict()
        return copy.deepcopy({"discriminator": dict(self.discriminator.state_dict()), "optimizer": optimizer})

    def load_state_dict(self, state: dict) -> None:
        """Continue from a `state_dict` of a critic with the same discriminator; `state` itself does not change later.

        Raises:
            RuntimeError: the state of another discriminator.
        """
        self.discriminator.load_state_dict(state["discriminator"])
        if self.optimizer is not None:
            # The optimizer would step on in the very tensors that it is given.
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
