"""Distillation: a student learns a teacher's outputs through a discriminator, without labels."""

import dataclasses

import torch
from torch import Tensor, nn

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.held_out import FOLDS
from contrastive_discrimination.teaching import CriticSteps, PassForTeacher, Scale, student_teacher_auc
from data.views import evaluation_view
from helper_functions.config import PositiveFloat
from helper_functions.errors import UserError
from helper_functions.files import check_file, load_tensors
from helper_functions.metrics import summarise
from helper_functions.training.devices import seed_everything, seeded
from helper_functions.training.inference import predict
from models.features import classifier_head, predict_features
from models.weights import reinitialised
from optimizer.training import Fit, GradientSteps
from unlearning.arguments import BATCH_SIZE
from unlearning.evaluator import RETAIN_SAMPLE
from unlearning.experiment import Experiment
from unlearning.setup import PreparedRun, check_features

# Own defaults of mode train: the student is trained as the original is, at half of its rate.
STUDENT = {
    "num_epochs": 30, "batch_size": BATCH_SIZE, "learning_rate": 0.05, "schedule": "one_cycle", "weight_decay": 5e-4,
    "max_grad_norm": 5.0,
}  # fmt: skip
COLUMNS = (
    "train/loss", "classifier/loss", "classifier/accuracy", "discriminator/auc", "retain/top1", "validation/top1",
)  # fmt: skip


@dataclasses.dataclass
class DistillationArgs:
    """Mode train: student, discriminator, and who of them learns."""

    noise: PositiveFloat = 0.5
    """Mode train: noise on outputs, in standard deviations of the teacher's; smaller differences go unnoticed."""
    student_model: str | None = None
    """Mode train: architecture of the student, as for --model; the teacher's by default."""
    weight_path_student: str | None = None
    """Mode train: first weights of the student; random ones by default."""
    weight_path_classifier: str | None = None
    """Mode train: first weights of the discriminator, a classifier.pt of an earlier run."""
    freeze_student: bool = False
    """Mode train: only the discriminator learns."""
    freeze_classifier: bool = False
    """Mode train: only the student learns."""

    def check(self) -> None:
        """Refuse flags of one mode in another, and flags that leave nothing to do, by a UserError that names them."""
        for flag in ("weight_path_student", "weight_path_classifier"):
            path = getattr(self, flag)
            if path is not None:
                check_file(flag, path)
        if self.mode != "train":
            own = ("student_model", "weight_path_student", "weight_path_classifier")
            for flag in (*own, "freeze_student", "freeze_classifier"):
                if getattr(self, flag):
                    raise UserError(f"--{flag}: it is for --mode train; the student of {self.mode} is the original")
        elif self.retrain or self.retrained_weight_path:
            raise UserError("--retrain --retrained_weight_path: --mode train forgets nothing to compare with")
        elif self.num_epochs == 0:
            raise UserError("--num_epochs 0: a student needs at least one pass; --freeze_student alone measures")
        elif self.discriminate == "losses":
            raise UserError("--discriminate losses: a student learns without labels; give logits or features")
        elif self.freeze_student and self.freeze_classifier:
            raise UserError("--freeze_student --freeze_classifier: nothing is left to learn; give one of them")
        elif self.freeze_classifier and self.weight_path_classifier is None:
            raise UserError("--freeze_classifier: it has learned nothing yet; give --weight_path_classifier")


class Distillation:
    """Teacher, the run's model `original`, student and critic of one run; UserError for weights that do not fit."""

    objective = PassForTeacher

    def __init__(self, run: PreparedRun) -> None:
        self.run, self.args, experiment = run, run.args, run.experiment
        self.precision, self.device = experiment.precision, experiment.precision.device
        self.see_features = self.args.discriminate == "features"
        self.student = self._student(experiment)
        self.teacher = run.models["original"].eval().requires_grad_(False)
        if self.see_features and not self.args.freeze_student:
            # What is learned ends at the features; the teacher's head makes classes of them.
            head, taught = classifier_head(self.student), classifier_head(self.teacher)
            head.load_state_dict(taught.state_dict())
            head.requires_grad_(False)
        self.scale = Scale.of(self._outputs(self.teacher, experiment.splits.train))
        self.taught = self.scale(self._outputs(self.teacher, experiment.splits.validation))
        with seeded(self.args.seed, self.device):
            self.critic = self._critic()
        self.critic.frozen = self.args.freeze_classifier
        _load_classifier(self.critic.discriminator, self.args.weight_path_classifier)

    def _student(self, experiment: Experiment) -> nn.Module:
        model = _given_student(self.args, experiment, self.run.models["original"])
        if self.args.weight_path_student is not None:
            return model
        with seeded(self.args.seed + 1, self.device):  # the teacher began from the seed itself
            return reinitialised(model)

    def _critic(self) -> Critic:
        discriminator = _discriminator(self.args, len(self.scale.mean)).to(self.device)
        return Critic(discriminator, self.args.discriminator_learning_rate)

    def _outputs(self, model: nn.Module, indices: Tensor) -> Tensor:
        """What is learned, of a model on some images: logits `[N, K]` or features `[N, F]`."""
        features, logits, _ = predict_features(model, self.run.experiment.sets.evaluation(indices), self.precision)
        return features if self.see_features else logits

    def train(self) -> dict[str, float]:
        """Train; the AUC of a fresh discriminator on held-out pairs `before` and `after`."""
        args, run = self.args, self.run
        before = self.auc()
        loader = run.experiment.sets.training(run.experiment.splits.train, args.batch_size or STUDENT["batch_size"])
        generator = torch.Generator(self.device).manual_seed(args.seed)
        objective = self.objective(
            self.student, self.teacher, self.see_features, self.scale, self.critic, args.discriminator_steps,
            args.noise, self.precision, generator,
        )  # fmt: skip
        if args.freeze_student:
            steps = CriticSteps(objective)
        else:
            steps = GradientSteps(objective, self.student, args, len(loader), args.max_grad_norm)
        run.models["student"] = self.student
        # Whether the teacher was trained just now or read again must not show in what is drawn from here on.
        seed_everything(args.seed)
        run.costs["student"] = Fit(
            steps, self.student, loader, args.num_epochs or STUDENT["num_epochs"], self.precision, run.record,
            name="student",
            checkpoint=run.checkpoint, evaluate=lambda model: {**self.figures(), "discriminator/auc": self.auc()},
            log_interval=args.log_interval, shown=("train/loss", "classifier/accuracy"), columns=COLUMNS,
            on_nan=args.on_nan,
        ).run()  # fmt: skip
        objective.close()
        return {"before": before, "after": self.auc()}

    def auc(self) -> float:
        """AUC of a fresh discriminator between student and teacher on validation images."""
        student = self.scale(self._outputs(self.student, self.run.experiment.splits.validation))
        return student_teacher_auc(student, self.taught, self.args.noise, self._critic, self.args.seed).value

    def figures(self) -> dict[str, float]:
        """Top-1, top-5 and loss of the student on retain, forget, unseen and validation images, at most 5,000 each."""
        experiment, found = self.run.experiment, {}
        for part in ("retain", "forget", "unseen", "validation"):
            indices = getattr(experiment.splits, part)
            if len(indices):
                view = evaluation_view(experiment.sets.evaluation(indices), RETAIN_SAMPLE, self.args.seed)
                summary = summarise(*predict(self.student, view, self.precision))
                found |= {f"{part}/{name}": value for name, value in summary.items()}
        return found


def check_distillation(args: DistillationArgs, experiment: Experiment, teacher: nn.Module) -> None:
    """Refuse weights that do not fit, and too few images to judge by, before any work, by a UserError."""
    count = len(experiment.splits.validation)
    if count < FOLDS:
        raise UserError(f"{count} validation images: held-out pairs need {FOLDS} or more; raise --validation")
    student = _given_student(args, experiment, teacher)
    check_features(args, student)
    size = experiment.dataset.num_classes
    if args.discriminate == "features":
        size, own = (classifier_head(model).in_features for model in (teacher, student))
        if own != size:
            raise UserError(
                f"--discriminate features --student_model {args.student_model}: it has {own} features, and the teacher "
                f"{size}; give --discriminate logits, or a student of as many"
            )
    with seeded(args.seed, experiment.precision.device):
        _load_classifier(_discriminator(args, size), args.weight_path_classifier)


def _given_student(args: DistillationArgs, experiment: Experiment, teacher: nn.Module) -> nn.Module:
    """The model of the flags that name one, else the teacher."""
    path, name = args.weight_path_student, args.student_model
    return teacher if path is None and name is None else experiment.model(path, name)


def _discriminator(args: DistillationArgs, size: int) -> nn.Module:
    auto = "difference" if args.discriminate == "features" else "jensen_shannon"
    return DISCRIMINATORS[auto if args.discriminator == "auto" else args.discriminator](size)


def _load_classifier(discriminator: nn.Module, path: str | None) -> None:
    if path is None:
        return
    remedy = "give the classifier.pt of a run with the same --discriminator and data set"
    try:
        discriminator.load_state_dict(load_tensors(path, remedy))
    except (RuntimeError, AttributeError):  # the latter where names are no text
        raise UserError(f"--weight_path_classifier {path}: it does not fit this discriminator; {remedy}") from None
