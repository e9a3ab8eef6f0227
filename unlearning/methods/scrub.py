"""SCRUB: a student that disobeys its teacher, the original, on forget images and obeys it on retain images."""

from torch import Tensor
from torch.nn import functional as F

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import BATCH_SIZES, RETAIN_EPOCHS, Log, Span, published


def divergence(teacher_logits: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Mean KL(teacher ‖ student) of softmaxes at a temperature, times its square, in nats, 0-d.

    The square keeps the size of the gradient (Hinton et al. 2015, section 2). Logits `[B, K]`.
    """
    teacher, student = (logits / temperature for logits in (teacher_logits, logits))
    mean = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
    return mean * temperature**2


def spec(context: MethodContext) -> BaselineSpec:
    """Max pass: raise KL(M_o ‖ θ) on D_f; min pass: α·KL + γ·CE on D_r; after `msteps` epochs min passes alone.

    Source: Kurmanji et al. 2023, equation 3 (their large-scale notebook).
    """
    teacher, args = context.original(), context.args

    def answered(name: str):
        return lambda batch: {name: (*batch[name], teacher(batch[name][0]))}

    def disobey(forget: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, _, taught = forget
        return -divergence(taught, context.logits(inputs), args.temperature)

    def obey(retain: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, labels, taught = retain
        logits = context.logits(inputs)
        away = divergence(taught, logits, args.temperature)
        return args.divergence_weight * away + args.retain_weight * F.cross_entropy(logits, labels)

    rising = LossPass("max", context.stream("forget"), disobey, answered("forget"))
    falling = LossPass("min", context.stream("retain"), obey, answered("retain"))
    return BaselineSpec(lambda epoch: [rising, falling] if epoch < args.msteps else [falling])


METHOD = published(
    spec,
    search={
        "learning_rate": Log(1e-4, 3e-2), "num_epochs": RETAIN_EPOCHS, "msteps": Span(1, 4),
        "divergence_weight": Log(1e-3, 1.0), "retain_batch_size": BATCH_SIZES,
    },
    num_epochs=3, learning_rate=5e-4, decay_epochs=[3, 5, 9], batch_size=512, retain_batch_size=256, msteps=2,
    divergence_weight=0.001, retain_weight=0.99, temperature=4.0,
)  # fmt: skip
