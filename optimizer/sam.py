"""Sharpness-aware minimisation: descend by the gradient taken at the worst point nearby."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Keeps the adaptive neighbourhood of a weight of 0 from vanishing (Kwon et al. 2021).
ETA = 0.01


class SAM(Optimizer):
    """Sharpness-aware minimisation around any optimizer class (Foret et al. 2021, equation 2 and algorithm 1).

    The gradient g at w moves the weights to w + e, e = rho g / ||g||, norm over all groups; the gradient there is what
    `base_optimizer` steps with, from w. With `adaptive`, e = rho T^2 g / ||T g||, T = |w| + `ETA` (Kwon et al. 2021,
    equation 10). `rho` and `adaptive` may differ by group; `kwargs` go to `base_optimizer`. All parameters lie on one
    device. Groups and state are the base optimizer's own, so schedulers and `state_dict` work as ever.

    A step is backward, `first_step`, backward, `second_step`. Batch-norm statistics belong to the first pass: the
    second forward pass runs within `no_running_stats_update(model)`.
    """

    def __init__(
        self, params: Iterable[Any], base_optimizer: type[Optimizer], rho: float = 0.05, adaptive: bool = False,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, {"rho": rho, "adaptive": adaptive})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.defaults |= self.base_optimizer.defaults
        self._share_with_base()
        self._kept: dict[Tensor, Tensor] = {}  # one buffer a parameter, allocated once
        self._moved: list[Tensor] = []

    @torch.no_grad()
    def first_step(self) -> None:
        """Keep the weights, move them to the worst point nearby, drop the gradients; parameters without one stay."""
        norm = self._grad_norm()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if p not in self._kept:
                    self._kept[p] = torch.empty_like(p)
            torch._foreach_copy_([self._kept[p] for p in params], params)
            self._moved += params
            ascent = _scaled_grads(params, group, power=2)
            # In place, even in the gradients: fresh memory for all weights costs more than the product.
            torch._foreach_mul_(ascent, group["rho"] / (norm + 1e-12))
            torch._foreach_add_(params, ascent)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        """Return to the weights that `first_step` kept, bit for bit, and step there with the gradients of now."""
        if self._moved:
            torch._foreach_copy_(self._moved, [self._kept[p] for p in self._moved])
        self._moved = []
        self.base_optimizer.step()
        self._opt_called = True  # tells a scheduler that a step was made, though not by `step`

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the run then continues identically."""
        self.base_optimizer.load_state_dict(state_dict)
        self._share_with_base()

    def _share_with_base(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state

    def _grad_norm(self) -> Tensor:
        """||T g|| over all groups, a scalar that stays on the device."""
        grads = [
            grad
            for group in self.param_groups
            for grad in _scaled_grads([p for p in group["params"] if p.grad is not None], group, power=1)
        ]
        if not grads:
            return torch.zeros(())
        # bfloat16 has 8 bits of mantissa: the norm is taken in float32 at least.
        dtype = torch.float64 if grads[0].dtype == torch.float64 else torch.float32
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads, dtype=dtype)))


def _scaled_grads(params: list[Tensor], group: dict[str, Any], power: int) -> list[Tensor]:
    """T^power g for each parameter of a group; T = 1 unless the group is adaptive."""
    grads = [p.grad for p in params]
    if not group["adaptive"] or not params:
        return grads
    scale = torch._foreach_add(torch._foreach_abs(params), ETA)
    for _ in range(power):
        grads = torch._foreach_mul(grads, scale)
    return list(grads)
