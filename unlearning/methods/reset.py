"""MSG and CT: disturb the convolutions, then fine-tune; the strongest of the NeurIPS 2023 challenge."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.gradients import mean_gradient
from unlearning.methods.method import RETAIN_EPOCHS, Log, Span, published


def convolutions(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of all convolutions that may move, by parameter name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    return {f"{name}.weight": module.weight for name, module in layers.items() if module.weight.requires_grad}


def smallest(values: Tensor, share: float) -> Tensor:
    """Bool mask of the smallest magnitudes, as many as `share` of the elements."""
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.abs().flatten().topk(round(share * values.numel()), largest=False).indices] = True
    return mask.view(values.shape)


def _finetuned(context: MethodContext, method: str, begin: Callable[[], None]) -> BaselineSpec:
    if not convolutions(context.model):
        raise UserError(f"method {method} disturbs convolutions, and this model has none that may move; take another")
    part = LossPass("repair", context.stream("retain"), cross_entropy(context, "retain"))
    return BaselineSpec(lambda epoch: [part], begin=begin)


def spec_msg(context: MethodContext) -> BaselineSpec:
    """Draw anew, in each convolution, the weights with the smallest |∇(CE(D_r) − CE(D_f))|, then CE(D_r).

    Those are the weights on which the two sets agree or which neither holds. Source: Cadet et al. 2024, section 3
    (Masked Small Gradients).
    """

    def begin() -> None:
        retain = mean_gradient(context, "retain", context.args.importance_images)
        forget = mean_gradient(context, "forget", context.args.importance_images)
        fresh = convolutions(context.fresh())
        with torch.no_grad():
            for name, weight in convolutions(context.model).items():
                drawn = smallest(retain[name] - forget[name], context.args.reset_share)
                weight.copy_(torch.where(drawn, fresh[name], weight))

    return _finetuned(context, "msg", begin)


def spec_ct(context: MethodContext) -> BaselineSpec:
    """Transpose every kernel, then CE(D_r). Source: Cadet et al. 2024, section 3 (Convolution Transpose).

    Kernels that are not square stay as they are: transposed, they would not fit.
    """

    def begin() -> None:
        with torch.no_grad():
            for weight in convolutions(context.model).values():
                if weight.shape[2] == weight.shape[3]:
                    weight.copy_(weight.transpose(2, 3).clone())

    return _finetuned(context, "ct", begin)


SEARCH = {"learning_rate": Log(1e-3, 1e-1), "num_epochs": RETAIN_EPOCHS}
MSG = published(
    spec_msg,
    search={**SEARCH, "reset_share": Span(0.05, 0.5)},
    num_epochs=4, learning_rate=1e-3, reset_share=0.3, importance_images=1000,
)  # fmt: skip
CT = published(spec_ct, search=SEARCH, num_epochs=4, learning_rate=1e-3)
