"""l1-sparse: fine-tuning under a penalty on the size of the weights, since sparse models forget more easily."""

from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch
from unlearning.context import Case
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan


def plan(case: Case) -> Plan:
    """CE(D_r) + γ_t·‖θ‖₁, γ_t falling linearly to 0 over the epochs. Source: Jia et al. 2023, equation 3."""
    epochs, retain = case.args.num_epochs, case.stream("retain")

    def at(penalty: float) -> Pass:
        def loss(retain: Batch) -> dict[str, Tensor]:
            kept = F.cross_entropy(case.logits(retain[0]), retain[1])
            norm = sum(parameter.abs().sum() for parameter in case.model.parameters())
            return {"loss": kept + penalty * norm, "l1_norm": norm}

        return Pass("l1_sparse", retain, loss)

    parts = [at(case.args.l1_penalty * (1 - epoch / epochs)) for epoch in range(epochs)]
    return Plan(lambda epoch: [parts[epoch]])


METHOD = published(plan, num_epochs=10, learning_rate=0.01, l1_penalty=5e-4)
