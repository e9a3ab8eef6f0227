"""The primal step: backward, clip, step; with SAM, its two passes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helper_functions.metrics import _grad_norm
from helper_functions.training.batch_norm import no_running_stats_update
from optimizer.sam import SAM


class Descent:
    """Gradient steps of one optimizer on one model, whatever the loss.

    Args:
        optimizer: of the model's weights; a SAM optimizer takes its two passes.
        model: whose gradients are measured and clipped.
        max_grad_norm: gradients longer than this are scaled down to it; None leaves them.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, max_grad_norm: float | None = None) -> None:
        self.optimizer, self.model, self.max_grad_norm = optimizer, model, max_grad_norm
        self.optimizer.zero_grad()  # a model from elsewhere may still hold gradients

    def step(self, loss: Tensor, loss_again: Callable[[], Tensor]) -> Tensor:
        """Descend along the gradient of `loss`; gives the gradient's norm before it is clipped, 0-d.

        Args:
            loss: 0-d.
            loss_again: the same loss from another forward pass, for SAM.
        """
        loss.backward()
        norm = _grad_norm(self.model)
        self._clip(norm)
        if isinstance(self.optimizer, SAM):
            self.optimizer.first_step(zero_grad=True)
            with no_running_stats_update(self.model):
                loss_again().backward()
            self._clip()
            self.optimizer.second_step()
        else:
            self.optimizer.step()
        # Dropped now, so that they take no memory during the next forward pass.
        self.optimizer.zero_grad()
        return norm

    def _clip(self, norm: Tensor | None = None) -> None:
        if self.max_grad_norm is not None:
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            norm = _grad_norm(self.model) if norm is None else norm
            nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
