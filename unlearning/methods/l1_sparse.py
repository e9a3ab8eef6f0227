"""l1-sparse: fine-tuning under a penalty on the size of the weights, since sparse models forget more easily."""

from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import RETAIN_EPOCHS, Log, published


def spec(context: MethodContext) -> BaselineSpec:
    """CE(D_r) + γ_t·‖θ‖₁, γ_t falling linearly to 0 over the epochs. Source: Jia et al. 2023, equation 3."""
    epochs, retain = context.args.num_epochs, context.stream("retain")

    def at(penalty: float) -> LossPass:
        def loss(retain: Batch) -> dict[str, Tensor]:
            kept = F.cross_entropy(context.logits(retain[0]), retain[1])
            norm = sum(each.abs().sum() for each in context.model.parameters() if each.requires_grad)
            return {"loss": kept + penalty * norm, "l1_norm": norm}

        return LossPass("l1_sparse", retain, loss)

    parts = [at(context.args.l1_penalty * (1 - epoch / epochs)) for epoch in range(epochs)]
    return BaselineSpec(lambda epoch: [parts[epoch]])


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-3, 1e-1), "num_epochs": RETAIN_EPOCHS, "l1_penalty": Log(1e-5, 1e-3)},
    num_epochs=10, batch_size=256, learning_rate=0.01, l1_penalty=5e-4,
)
