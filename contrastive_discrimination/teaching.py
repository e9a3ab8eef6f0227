"""A student learns a teacher's outputs through a discriminator, without labels.

The discriminator sees pairs of outputs with noise on both. *Same* are two noisy copies of the teacher's output on one
image; *different* are the student's and the teacher's on one image, and the teacher's on two images, which are an
example of a difference before the student comes close. The student minimises −log P(same). Without noise, outputs that
are not exactly equal could always be told apart (instance noise: Sønderby et al. 2017, section 4).
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive_discrimination.critic import Critic, TrainsCritic
from contrastive_discrimination.held_out import Auc, held_out_auc
from contrastive_discrimination.pairs import shuffled
from helper_functions.training.devices import Precision
from helper_functions.training.spread import spread
from models.features import FeatureTap
from optimizer.problems import Batch, Objective


@dataclasses.dataclass
class Scale:
    """Mean and standard deviation of each of the teacher's outputs, `[D]` both, by which outputs are standardised."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, outputs: Tensor) -> "Scale":
        """Of the teacher's outputs on training images, `[N, D]`."""
        std, mean = torch.std_mean(outputs, dim=0)
        # The bound keeps a nearly constant feature from outweighing all others.
        return cls(mean, std.clamp(min=0.01 * std.mean().item() + 1e-6))

    def __call__(self, outputs: Tensor) -> Tensor:
        return (outputs - self.mean) / self.std


class PassForTeacher(TrainsCritic, Objective):
    """The student's loss −log P(same) of its outputs beside the teacher's on the same images.

    Args:
        student: the model that learns.
        teacher: frozen.
        see_features: compare the inputs of the last linear layer in place of the logits.
        scale: of the teacher's outputs.
        critic: the discriminator and its optimizer.
        critic_steps: of the critic, after each step of the student.
        noise: standard deviation of the noise, in those of the teacher's outputs.
        precision: device and dtype.
        generator: of noise and shuffles, on the device.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, see_features: bool, scale: Scale, critic: Critic,
        critic_steps: int, noise: float, precision: Precision, generator: torch.Generator,
    ) -> None:  # fmt: skip
        self.student, self.teacher, self.scale, self.critic = student, teacher.eval(), scale, critic
        self.critic_steps, self.noise, self.precision, self.generator = critic_steps, noise, precision, generator
        # A compiled pass does not run the tap's hook.
        mode = None if see_features else precision.compile_mode
        self.passes = {model: spread(model, mode) for model in (student, teacher)}
        self.taps = {model: FeatureTap(model) for model in (student, teacher)} if see_features else {}

    def __call__(self, train: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch, without its labels; its figure is `train/loss`, in nats."""
        student = self._outputs(self.student, train[0])
        with torch.no_grad():
            teacher = self._outputs(self.teacher, train[0])
        logits = self.critic.judge(self._noisy(student), self._noisy(teacher))
        loss = F.softplus(-logits).mean()
        self._seen = self._seen or (student.detach(), teacher)
        return loss, {"train/loss": loss.detach()}

    def rescale(self, factor: float) -> None:
        """Multiply the critic's learning rate."""
        self.critic.rescale(factor)

    def teach_critic(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """One step of the critic on standardised outputs on the same images, `[B, D]` each."""
        pairs = [(self._noisy(student), self._noisy(teacher))]
        if len(teacher) > 1:
            pairs.append(shuffled(self._noisy(teacher), self._noisy(teacher), self.generator))
        different = tuple(torch.cat(side) for side in zip(*pairs, strict=True))
        return self.critic.learn((self._noisy(teacher), self._noisy(teacher)), different)

    def _outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        with self.precision.autocast():
            outputs = self.passes[model](inputs)
        return self.scale((self.taps[model].features if self.taps else outputs).float())

    def _noisy(self, outputs: Tensor) -> Tensor:
        return outputs + self.noise * torch.randn(outputs.shape, generator=self.generator, device=outputs.device)

    def close(self) -> None:
        """Remove the hooks from both models."""
        for tap in self.taps.values():
            tap.close()


class CriticSteps:
    """Steps of the loop in which the critic of an objective alone learns."""

    def __init__(self, objective: PassForTeacher) -> None:
        self.objective = objective
        self.rescale, self.state_dict = objective.rescale, objective.state_dict
        self.load_state_dict = objective.load_state_dict

    def __call__(self, batch: dict) -> dict[str, Tensor]:
        self.objective.student.eval()
        with torch.no_grad():
            _, figures = self.objective(**batch)
        return figures | self.objective.commit()

    def figures(self) -> dict[str, float]:
        """Nothing beside an epoch's means."""
        return {}


def student_teacher_auc(student: Tensor, teacher: Tensor, noise: float, fresh, seed: int) -> Auc:
    """Held-out AUC of a critic from `fresh()` on (teacher, teacher) against (student, teacher), on the same images.

    Outputs are standardised, `[N, D]` each; `noise` is as in `PassForTeacher`, `seed` that of noise, folds and critics.
    """
    generator = torch.Generator(student.device).manual_seed(seed)
    looks = [teacher, teacher, student, teacher]
    noisy = [look + noise * torch.randn(look.shape, generator=generator, device=look.device) for look in looks]
    images = torch.arange(len(student))
    return held_out_auc(fresh, tuple(noisy[:2]), tuple(noisy[2:]), groups=(images, images), seed=seed)
