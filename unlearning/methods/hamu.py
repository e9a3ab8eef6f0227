"""HAMU: the step that lowers the retain loss most, of those that raise the forget loss by a set amount."""

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.training.batch_norm import no_running_stats_update
from optimizer.problems import Batch
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import Log, Span, published

SMALLEST_SQUARE = 1e-12


def direction(retain: Tensor, forget: Tensor, gain: Tensor) -> Tensor:
    """−Δ of: min g_r·Δ subject to g_f·Δ ≥ Q and ‖Δ‖ ≤ ‖g_r‖; where no Δ is that short, the shortest with g_f·Δ = Q.

    `retain` is g_r and `forget` g_f, of one shape; `gain` is Q ≥ 0, 0-d.
    """
    inner, square = (retain * forget).sum(), forget.square().sum().clamp(min=SMALLEST_SQUARE)
    across = retain - inner / square * forget
    left = (retain.square().sum() - gain.square() / square).clamp(min=0).sqrt()
    turned = left * across / across.norm().clamp(min=SMALLEST_SQUARE) - gain / square * forget
    # Where descent of the retain loss raises the forget loss enough, nothing needs to turn.
    return torch.where((inner <= -gain) | (square <= SMALLEST_SQUARE), retain, turned)


def spec(context: MethodContext) -> BaselineSpec:
    """Each step min g_r·Δ subject to g_f·Δ ≥ Q and ‖Δ‖ ≤ η·‖g_r‖, by tensor. Source: Chen et al. 2026 (their command).

    Q is `forget_gain`·η, shared out in proportion to ‖g_r‖·‖g_f‖. An epoch is one pass over D_f. `hardness` in the
    record is g_r·g_f; `unavoidable` is 1 where every such step raises the retain loss.
    """
    model = context.model

    def loss(retain: Batch, forget: Batch) -> dict[str, Tensor]:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kept = F.cross_entropy(context.logits(retain[0], model), retain[1])
        with no_running_stats_update(model):
            climbed = F.cross_entropy(context.logits(forget[0], model), forget[1])
        down, up = (torch.autograd.grad(each, parameters, materialize_grads=True) for each in (kept, climbed))
        lengths = torch.stack(torch._foreach_norm(down)) * torch.stack(torch._foreach_norm(up))
        inner = torch.stack([(a * b).sum() for a, b in zip(down, up, strict=True)])
        gains = context.args.forget_gain * lengths / lengths.sum().clamp(min=SMALLEST_SQUARE)
        # Its gradient is the direction; its value plays no part.
        steered = sum((direction(*each) * p).sum() for *each, p in zip(down, up, gains, parameters, strict=True))
        most = (lengths.square() - inner.square()).clamp(min=0).sqrt().sum()
        return {
            "loss": steered - steered.detach() + kept.detach(), "retain_loss": kept, "forget_loss": climbed,
            "hardness": inner.sum(), "unavoidable": (most < context.args.forget_gain).float(),
        }  # fmt: skip

    part = LossPass("hamu", context.pairs("forget"), loss)
    return BaselineSpec(lambda epoch: [part])


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-5, 1e-1), "num_epochs": Span(1, 25), "forget_gain": Log(0.05, 1.0)},
    num_epochs=25, batch_size=5000, learning_rate=1e-4, momentum=0.0, weight_decay=0.0, max_grad_norm=1.0, bn="frozen",
    forget_gain=0.5,
)  # fmt: skip
