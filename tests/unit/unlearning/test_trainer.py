"""A step of the constrained trainer against the two update lines of its docstring, written out."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.method_cases import CPU
from helpers.solving import own_labels
from torch import nn
from torch.nn import functional as F

from unlearning.arguments import MethodArgs
from unlearning.constrained.trainer import ConstrainedTrainer
from unlearning.context import MethodContext
from unlearning.streams import RETAIN_LOSSES

GENERATOR = torch.Generator().manual_seed(3)
FORGET = [(torch.randn(5, 4, generator=GENERATOR), torch.arange(5) % 3)]
RETAIN = [(torch.randn(7, 4, generator=GENERATOR), torch.arange(7) % 3)]
DUAL_RATE, RATE = 0.2, 0.1


def trainer_of(model: nn.Module, **flags) -> ConstrainedTrainer:
    plain = {"momentum": 0.0, "schedule": "constant", "max_grad_norm": None, "learning_rate": RATE}
    args = MethodArgs(**plain | {"dual_learning_rate": DUAL_RATE, "batch_size": 128, "retain_budget": 1.0} | flags)
    evaluator = SimpleNamespace(
        losses=lambda model, name: torch.zeros(1), num_classes=3, retain_loss_gap=RETAIN_LOSSES["labels"]
    )
    context = MethodContext("chance", model, {"forget": FORGET, "retain": RETAIN}, evaluator, args, CPU, 0)
    trainer = ConstrainedTrainer(context, lambda context: own_labels(0.0))
    trainer.listener = SimpleNamespace(measure=None, on_nan="rewind", record=None, log_interval=1)
    trainer.set_up_stage(0, 1)
    return trainer


@pytest.mark.parametrize("multiplier", [0.5, 4.0])
def test_the_multiplier_moves_first_and_the_weights_descend_with_the_moved_one(multiplier):
    """λ ← [λ + η_λ max(λ, 1) h]₊, then θ ← θ − η ∇[F + λ g], with h the fall of accuracy less 0.8 of the budget."""
    torch.manual_seed(0)
    original = nn.Linear(4, 3)
    trainer = trainer_of(original, multiplier=multiplier)
    before = trainer.original_answers(RETAIN[0][0])
    with torch.no_grad():
        original.weight += 0.5 * torch.randn(3, 4)
    start, bias = (value.detach().clone() for value in original.parameters())

    weight = start.clone().requires_grad_()
    forget, retain = (F.linear(inputs, weight, bias) for inputs, _ in (FORGET[0], RETAIN[0]))
    objective = -(1 - forget.softmax(1)[range(5), FORGET[0][1]]).log().mean()
    gap = F.cross_entropy(retain, RETAIN[0][1]) - F.cross_entropy(before, RETAIN[0][1])
    fall = 100 * ((before.argmax(1) == RETAIN[0][1]).float().mean() - (retain.argmax(1) == RETAIN[0][1]).float().mean())
    moved = max(0.0, multiplier + DUAL_RATE * max(multiplier, 1) * (fall.item() - 0.8))
    (slope,) = torch.autograd.grad(objective + moved * gap, weight)

    figures = trainer.step({"forget": FORGET[0], "retain": RETAIN[0]})
    assert fall != 0 and figures["constraint/violation"].item() == pytest.approx(fall.item() - 0.8, abs=1e-4)
    assert trainer.problem.constraint.multiplier.weight.item() == pytest.approx(moved, rel=1e-5)
    torch.testing.assert_close(original.weight.detach(), start - RATE * slope)
    assert math.isfinite(figures["gradient/norm"])
