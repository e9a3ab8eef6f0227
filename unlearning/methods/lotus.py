"""LoTUS: soften the answers on forget images until they are no surer than on unseen ones."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.metrics import class_mask
from helper_functions.training.inference import predict
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import Log, Span, published


def tempered(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Gumbel-softmax samples `[B, K]` of the distributions that logits `[B, K]` stand for; 0 draws one class.

    Source: Jang et al. 2017, equation 2.
    """
    exponential = torch.empty_like(logits).exponential_(generator=generator)
    # A draw may be 0, whose logarithm would be infinite.
    exponential.clamp_(min=torch.finfo(logits.dtype).tiny)
    noisy = logits.log_softmax(1) - exponential.log()
    if temperature == 0:
        return class_mask(noisy.argmax(1), logits.shape[1]).float()
    return (noisy / temperature).softmax(1)


def spec(context: MethodContext) -> BaselineSpec:
    """CE to the original's softened answers on D_f and sampled ones on D_r. Source: Spartalis et al. 2025, section 3.

    The temperature is set anew before each epoch.
    """
    original, evaluator = context.original(), context.evaluator

    def begin() -> dict[str, float]:
        logits, labels = predict(context.model, evaluator.views["forget"], context.precision)
        forget = 100 * (logits.argmax(1) == labels).float().mean().item()
        # exp(α·(forget accuracy now − the original's unseen accuracy)), accuracies as shares.
        return {"temperature": math.exp(context.args.tempering * (forget - evaluator.unseen_top1) / 100)}

    def answers(batch: dict) -> dict:
        forget, retain = batch["forget"][0], batch["retain"][0]
        return {
            "forget": (forget, tempered(original(forget), part.found["temperature"], context.generator)),
            "retain": (retain, tempered(original(retain), 0, context.generator)),
        }

    def loss(forget: tuple[Tensor, Tensor], retain: tuple[Tensor, Tensor]) -> Tensor:
        forget_logits, retain_logits = context.streams(forget[0], retain[0])
        both, wanted = torch.cat([forget_logits, retain_logits]), torch.cat([forget[1], retain[1]])
        return F.cross_entropy(both, wanted)

    part = LossPass("lotus", context.pairs("forget"), loss, answers, begin)
    return BaselineSpec(lambda epoch: [part])


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-4, 5e-2), "num_epochs": Span(1, 10), "tempering": Span(1.0, 8.0)},
    num_epochs=10, learning_rate=1e-3, tempering=2.0,
)
