"""MSG and CT: disturb the convolutions, then fine-tune; the strongest of the NeurIPS 2023 challenge."""

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError
from unlearning.context import Case
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.gradients import mean_gradient
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan


def convolutions(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of all convolutions that may move, by parameter name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    return {f"{name}.weight": module.weight for name, module in layers.items() if module.weight.requires_grad}


def require_convolutions(case: Case, method: str) -> None:
    """Refuse a model that a method would not disturb.

    Raises:
        UserError: it has no convolution.
    """
    if not convolutions(case.model):
        raise UserError(f"method {method} disturbs convolutions, and this model has none that may move; take another")


def smallest(values: Tensor, share: float) -> Tensor:
    """Bool mask of the smallest magnitudes, as many as `share` of the elements."""
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.abs().flatten().topk(round(share * values.numel()), largest=False).indices] = True
    return mask.view(values.shape)


def _finetuned(case: Case, begin) -> Plan:
    part = Pass("repair", case.stream("retain"), cross_entropy(case, "retain"))
    return Plan(lambda epoch: [part], begin=begin)


def plan_msg(case: Case) -> Plan:
    """Draw anew, in each convolution, the weights with the smallest |∇(CE(D_r) − CE(D_f))|, then CE(D_r).

    Those are the weights on which the two sets agree or which neither holds. Source: Cadet et al. 2024, section 3
    (Masked Small Gradients).
    """

    require_convolutions(case, "msg")

    def begin() -> None:
        retain = mean_gradient(case, "retain", case.args.importance_images)
        forget = mean_gradient(case, "forget", case.args.importance_images)
        fresh = convolutions(case.fresh())
        with torch.no_grad():
            for name, weight in convolutions(case.model).items():
                drawn = smallest(retain[name] - forget[name], case.args.reset_share)
                weight.copy_(torch.where(drawn, fresh[name], weight))

    return _finetuned(case, begin)


def plan_ct(case: Case) -> Plan:
    """Transpose every kernel, then CE(D_r). Source: Cadet et al. 2024, section 3 (Convolution Transpose).

    Kernels that are not square stay as they are: transposed, they would not fit.
    """
    require_convolutions(case, "ct")

    def begin() -> None:
        with torch.no_grad():
            for weight in convolutions(case.model).values():
                if weight.shape[2] == weight.shape[3]:
                    weight.copy_(weight.transpose(2, 3).clone())

    return _finetuned(case, begin)


MSG = published(plan_msg, num_epochs=4, learning_rate=1e-3, reset_share=0.3, importance_images=1000)
CT = published(plan_ct, num_epochs=4, learning_rate=1e-3)
