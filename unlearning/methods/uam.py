"""UAM: descend the retain loss where the forget loss is highest nearby."""

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from helper_functions.training.batch_norm import no_running_stats_update
from optimizer.problems import Batch
from optimizer.schedules import cosine
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import RETAIN_EPOCHS, Log, published


def spec(context: MethodContext) -> BaselineSpec:
    """CE(D_r) at θ + ρ·∇CE(D_f) / ‖∇CE(D_f)‖, ρ falling to 0 along a cosine. Source: Kim et al. 2025 (their library).

    An epoch is one pass over D_r.
    """
    model, args, stream = context.model, context.args, context.pairs("retain")
    total = args.num_epochs * len(stream)

    def loss(retain: Batch, forget: Batch) -> dict[str, Tensor]:
        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        with no_running_stats_update(model):
            climbed = F.cross_entropy(context.logits(forget[0], model), forget[1])
        upwards = torch.autograd.grad(climbed, list(weights.values()), materialize_grads=True)
        length = torch.stack(torch._foreach_norm(upwards)).norm().clamp(min=1e-16)
        scale = args.ascent_radius * cosine(context.cost.gradient_steps, 0, total) / length
        shifted = {name: weight + scale * up for (name, weight), up in zip(weights.items(), upwards, strict=True)}
        kept = F.cross_entropy(context.logits(retain[0], lambda inputs: functional_call(model, shifted, (inputs,))),
                               retain[1])  # fmt: skip
        return {"loss": kept, "forget_loss": climbed}

    part = LossPass("uam", stream, loss)
    return BaselineSpec(lambda epoch: [part])


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-3, 1e-1), "num_epochs": RETAIN_EPOCHS, "ascent_radius": Log(0.01, 1.0)},
    num_epochs=5, learning_rate=0.01, ascent_radius=0.1,
)
