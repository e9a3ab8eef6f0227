"""Bad teacher: learn from a network that knows nothing on forget images, from the original on retain images."""

from torch import Tensor

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import BATCH_SIZES, Log, Span, published
from unlearning.methods.scrub import divergence
from unlearning.streams import OriginalAnswers


def spec(context: MethodContext) -> BaselineSpec:
    """KL(random ‖ θ) on D_f and KL(M_o ‖ θ) on D_r, each image weighing the same. Source: Chundawat et al. 2023, eq. 3.

    The retain images beside each forget batch are a part of D_r: 30 % of it beside a tenth, as in the authors' code.
    """
    good, bad = context.original(), OriginalAnswers(context.fresh(), context.precision, "frozen")
    temperature = context.args.temperature

    def answers(batch: dict) -> dict:
        forget, retain = batch["forget"][0], batch["retain"][0]
        return {"forget": (forget, bad(forget)), "retain": (retain, good(retain))}

    def loss(forget: tuple[Tensor, Tensor], retain: tuple[Tensor, Tensor]) -> Tensor:
        (forget_inputs, forget_taught), (retain_inputs, retain_taught) = forget, retain
        forget_logits, retain_logits = context.streams(forget_inputs, retain_inputs)
        sums = [
            len(taught) * divergence(taught, logits, temperature)
            for taught, logits in ((forget_taught, forget_logits), (retain_taught, retain_logits))
        ]
        return (sums[0] + sums[1]) / (len(forget_inputs) + len(retain_inputs))

    part = LossPass("bad_teacher", context.pairs("forget"), loss, answers)
    return BaselineSpec(lambda epoch: [part])


METHOD = published(
    spec,
    search={
        "learning_rate": Log(5e-5, 3e-3), "num_epochs": Span(1, 10), "temperature": (1.0, 2.0, 4.0),
        "retain_batch_size": (192, *BATCH_SIZES),
    },
    num_epochs=1, batch_size=64, retain_batch_size=192, optimizer="adamw", learning_rate=1e-4, weight_decay=0.0,
    temperature=1.0,
)  # fmt: skip
