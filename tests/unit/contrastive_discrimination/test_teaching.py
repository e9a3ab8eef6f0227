"""A student that learns through a discriminator: who moves, who stays as he is by a bit, and what is told apart."""

import copy
import types

import pytest
import torch
from helpers.method_cases import CPU
from torch import nn
from torch.nn import functional as F

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.teaching import CriticSteps, PassForTeacher, Scale, student_teacher_auc
from data.datasets import Dataset
from data.image_sets import ImageSets
from data.splits import make_splits
from models.features import classifier_head
from optimizer.sam import SAM
from optimizer.schedules import get_schedule
from optimizer.training import GradientSteps, Recipe
from unlearning.distillation import Distillation, DistillationArgs

INPUTS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
BATCH = {"train": (INPUTS, torch.zeros(48, dtype=torch.int64))}


def network(seed) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    model.train()
    with torch.no_grad():
        model(2 * INPUTS + 1)
    return model


def bits(model) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def critic_of(size, seed=0, name="mlp") -> Critic:
    torch.manual_seed(seed)
    return Critic(DISCRIMINATORS[name](size), learning_rate=3e-3)


def problem_of(see_features=False, steps=2, noise=0.3, name="mlp") -> PassForTeacher:
    """Teacher and student of other seeds, the student training."""
    teacher, student = network(1).eval().requires_grad_(False), network(2)
    features = teacher[:3](INPUTS)
    outputs = features if see_features else teacher[3](features)
    critic = critic_of(outputs.shape[1], name=name)
    generator = torch.Generator().manual_seed(3)
    return PassForTeacher(student, teacher, see_features, Scale.of(outputs), critic, steps, noise, CPU, generator)


def stepping(problem, sam=False, optimizer=None):
    """Steps on batches, as `GradientSteps` takes them, by an optimizer of the test's own."""
    parameters = [parameter for parameter in problem.student.parameters() if parameter.requires_grad]
    if sam:
        optimizer = SAM(parameters, torch.optim.SGD, rho=0.5, lr=0.05)
    steps = GradientSteps(problem, problem.student, Recipe(schedule="constant"), 1)
    steps.descent.optimizer = optimizer or torch.optim.SGD(parameters, lr=0.05)
    steps.schedule = get_schedule("constant", steps.descent.optimizer, 1000)
    return steps


class TestScale:
    def test_the_teachers_outputs_have_mean_0_and_deviation_1(self):
        outputs = torch.randn(200, 4, dtype=torch.float64) * torch.tensor([1.0, 3.0, 7.0, 50.0]) + 5
        scaled = Scale.of(outputs)(outputs)
        torch.testing.assert_close(scaled.mean(0), torch.zeros(4).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(scaled.std(0), torch.ones(4).double())

    def test_others_are_moved_by_the_same_rule(self):
        scale = Scale(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        assert scale(torch.tensor([[3.0, 0.0]])).tolist() == [[1.0, -0.5]]

    def test_a_constant_output_is_no_division_by_zero(self):
        outputs = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
        assert Scale.of(outputs)(outputs).isfinite().all()

    def test_an_output_that_the_teacher_hardly_uses_is_not_blown_up(self):
        outputs = torch.randn(200, 4) * torch.tensor([0.0, 1e-6, 1.0, 1.0])
        assert (Scale.of(outputs)(torch.full((1, 4), 0.1))[0, :2].abs() < 100).all()


class TestPassForTeacher:
    @pytest.mark.parametrize("see_features", [False, True])
    @pytest.mark.parametrize("sam", [False, True])
    def test_steps_leave_the_teacher_as_it_was_by_a_bit(self, see_features, sam):
        problem = problem_of(see_features)
        teacher, student, critic = bits(problem.teacher), bits(problem.student), bits(problem.critic.discriminator)
        steps = stepping(problem, sam)
        for _ in range(3):
            figures = steps(BATCH)
        assert bits(problem.teacher) == teacher and not problem.teacher.training
        assert all(parameter.grad is None for parameter in problem.teacher.parameters())
        assert bits(problem.student) != student and bits(problem.critic.discriminator) != critic
        assert set(figures) == {"train/loss", "classifier/loss", "classifier/accuracy", "gradient/norm"}
        assert all(value.shape == () and not value.requires_grad for value in figures.values())

    @pytest.mark.parametrize("see_features", [False, True])
    def test_gradients_reach_the_student_alone(self, see_features):
        problem = problem_of(see_features)
        problem.teacher.requires_grad_(True)
        before = bits(problem.critic.discriminator)
        problem(**BATCH)[0].backward()
        head = classifier_head(problem.student)
        for parameter in problem.student.parameters():
            is_compared = not (see_features and any(parameter is own for own in head.parameters()))
            assert (parameter.grad is not None) == is_compared
        assert problem.student[0].weight.grad.abs().max() > 0
        for model in (problem.teacher, problem.critic.discriminator):
            assert all(parameter.grad is None for parameter in model.parameters())
        assert bits(problem.critic.discriminator) == before, "the critic learns after the step"

    def test_loss_is_that_of_its_logits_on_standardised_noisy_outputs(self):
        problem, twin = problem_of(), problem_of()
        loss = problem(**BATCH)[1]["train/loss"]
        student, teacher = twin.student(INPUTS), twin.teacher(INPUTS)
        noisy = [
            (outputs - twin.scale.mean) / twin.scale.std + 0.3 * torch.randn(48, 3, generator=twin.generator)
            for outputs in (student, teacher)
        ]
        assert loss.item() == pytest.approx(F.softplus(-twin.critic.judge(*noisy)).mean().item(), rel=1e-5)

    def test_a_frozen_critic_only_measures_while_the_student_learns(self):
        problem = problem_of()
        problem.critic.frozen = True
        critic, student = bits(problem.critic.discriminator), bits(problem.student)
        steps = stepping(problem)
        for _ in range(3):
            steps(BATCH)
        assert bits(problem.critic.discriminator) == critic and bits(problem.student) != student

    def test_a_frozen_student_stays_by_a_bit_while_the_critic_learns(self):
        problem = problem_of()
        critic, student = bits(problem.critic.discriminator), bits(problem.student)
        steps = CriticSteps(problem)
        for _ in range(3):
            problem.student.train()  # as the loop does at the beginning of an epoch
            figures = steps(BATCH)
        assert bits(problem.student) == student and bits(problem.critic.discriminator) != critic
        assert all(parameter.grad is None for parameter in problem.student.parameters())
        assert set(figures) == {"train/loss", "classifier/loss", "classifier/accuracy"} and steps.figures() == {}

    def test_what_the_critic_learns_from(self):
        """Two looks at the teacher; the student beside him; and the teacher on two images."""
        problem, taught = problem_of(noise=1e-6), []
        problem.critic.learn = lambda same, different: taught.append((same, different)) or {}
        student, teacher = torch.randn(20, 3), 10 * torch.randn(20, 3)
        problem.teach_critic(student, teacher)
        ((same, different),) = taught
        close = {"atol": 1e-4, "rtol": 0}
        for side in same:
            torch.testing.assert_close(side, teacher, **close)
        assert not torch.equal(*same), "two looks have noise of their own"
        torch.testing.assert_close(different[0], torch.cat([student, teacher]), **close)
        torch.testing.assert_close(different[1][:20], teacher, **close)
        nearest = torch.cdist(different[1][20:], teacher).argmin(1)
        assert sorted(nearest.tolist()) == list(range(20)) and not (nearest == torch.arange(20)).any()
        problem.teach_critic(student[:1], teacher[:1])
        assert [len(side) for kind in taught[1] for side in kind] == [1] * 4, "a batch of one has no other image"

    def test_looks_of_one_step_are_learned_from_once_and_by_the_first(self):
        problem, seen = problem_of(steps=1), []
        problem.teach_critic = lambda student, teacher: seen.append(student) or {}
        with torch.no_grad():
            first = problem.scale(copy.deepcopy(problem.student)(INPUTS))
        stepping(problem, sam=True)(BATCH)
        (found,) = seen
        assert not found.requires_grad
        torch.testing.assert_close(found, first)
        stepping(problem)(BATCH)
        assert len(seen) == 2 and not torch.equal(seen[1], found)

    def test_the_student_comes_to_pass_for_the_teacher(self):
        problem = problem_of(steps=2, noise=0.3)
        before = student_teacher_auc(*self.outputs(problem), 0.3, lambda: critic_of(3, name="logistic"), seed=0).value
        optimizer = torch.optim.Adam(problem.student.parameters(), 0.02)
        steps, generator = stepping(problem, optimizer=optimizer), torch.Generator().manual_seed(9)
        for _ in range(150):
            inputs = torch.randn(64, 6, generator=generator)
            steps({"train": (inputs, torch.zeros(64, dtype=torch.int64))})
        after = student_teacher_auc(*self.outputs(problem), 0.3, lambda: critic_of(3, name="logistic"), seed=0).value
        assert before > 0.9 and after < before - 0.2

    def outputs(self, problem) -> tuple[torch.Tensor, torch.Tensor]:
        """Of student and teacher on 300 other images, standardised."""
        inputs = torch.randn(300, 6, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            return tuple(problem.scale(copy.deepcopy(m).eval()(inputs)) for m in (problem.student, problem.teacher))

    @pytest.mark.parametrize("name", ["mlp", "scalar_product"])
    def test_goes_on_from_a_file_bit_for_bit(self, name, tmp_path):
        problem = problem_of(name=name)
        steps = stepping(problem)
        for _ in range(2):
            steps(BATCH)
        torch.save(problem.state_dict(), tmp_path / "problem.pt")
        other = problem_of(name=name)
        other.student.load_state_dict(problem.student.state_dict())
        other.load_state_dict(torch.load(tmp_path / "problem.pt", weights_only=True))
        for each in (problem, other):
            torch.manual_seed(6)
            each_step = stepping(each)
            for _ in range(3):
                each_step(BATCH)
        assert bits(problem.student) == bits(other.student)
        assert bits(problem.critic.discriminator) == bits(other.critic.discriminator)

    def test_close_leaves_no_hook(self):
        problem = problem_of(see_features=True)
        assert any(module._forward_pre_hooks for module in problem.student.modules())
        problem.close()
        for model in (problem.student, problem.teacher):
            assert not any(module._forward_pre_hooks for module in model.modules())


class TestToldApart:
    TEACHER = torch.randn(1200, 4, generator=torch.Generator().manual_seed(1))

    def told(self, student, noise=0.3, name="logistic") -> float:
        found = student_teacher_auc(student, self.TEACHER, noise, lambda: critic_of(4, name=name), 0)
        assert found.low <= found.value <= found.high
        return found.value

    @pytest.mark.parametrize("name", ["mlp", "logistic"])
    def test_equal_outputs_are_at_chance(self, name):
        assert self.told(self.TEACHER, name=name) == pytest.approx(0.5, abs=0.05)

    def test_other_outputs_are_told(self):
        assert self.told(self.TEACHER.roll(1, dims=0)) > 0.95
        assert self.told(self.TEACHER + 3) > 0.99

    def test_differences_below_the_noise_go_unnoticed(self):
        student = self.TEACHER + 0.05 * torch.randn(1200, 4, generator=torch.Generator().manual_seed(2))
        assert self.told(student, noise=1.0) == pytest.approx(0.5, abs=0.05)
        assert self.told(student, noise=0.01) > 0.9

    def test_the_seed_alone_decides_and_global_generators_stay(self):
        student, state = self.TEACHER[:200] + 0.3, torch.get_rng_state()

        def fresh():
            return Critic(DISCRIMINATORS["difference"](4), learning_rate=3e-3)

        found = [student_teacher_auc(student, self.TEACHER[:200], 0.3, fresh, seed) for seed in (1, 1, 2)]
        assert found[0] == found[1] != found[2] and torch.equal(torch.get_rng_state(), state)


class TestLesson:
    """Teacher and student of a whole run, on random pictures."""

    def distillation(self, **changes) -> Distillation:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 255, (200, 1, 4, 4), generator=generator, dtype=torch.uint8)
        dataset = Dataset("toy", images, torch.arange(200) % 3, ("a", "b", "c"), 200, (0.5,), (0.5,))
        splits = make_splits(dataset, "random:20")
        sets = ImageSets(dataset, splits, None, torch.device("cpu"), 0)
        torch.manual_seed(1)
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        own = DistillationArgs()
        args = types.SimpleNamespace(
            **{**vars(own), "mode": "train", "discriminate": "logits", "discriminator": "auto", "seed": 0,
               "discriminator_learning_rate": 3e-3, "discriminator_steps": 1, **changes},
        )  # fmt: skip
        experiment = types.SimpleNamespace(dataset=dataset, splits=splits, sets=sets, precision=CPU)
        run = types.SimpleNamespace(args=args, experiment=experiment, models={"original": teacher}, costs={})
        return Distillation(run)

    def test_of_features_the_students_head_is_the_teachers_and_frozen(self):
        distillation = self.distillation(discriminate="features")
        head, taught = classifier_head(distillation.student), classifier_head(distillation.teacher)
        for ours, theirs in zip(head.parameters(), taught.parameters(), strict=True):
            assert torch.equal(ours, theirs) and ours is not theirs and not ours.requires_grad
        body = [parameter for name, parameter in distillation.student.named_parameters() if not name.startswith("4.")]
        assert all(parameter.requires_grad for parameter in body) and len(body) == 4
        assert not torch.equal(distillation.student[1].weight, distillation.teacher[1].weight)
        assert len(distillation.scale.mean) == 8 and distillation.taught.shape[1] == 8

    def test_of_logits_all_of_the_student_begins_anew_and_learns(self):
        distillation = self.distillation()
        assert all(parameter.requires_grad for parameter in distillation.student.parameters())
        assert not any(parameter.requires_grad for parameter in distillation.teacher.parameters())
        assert not torch.equal(distillation.student[4].weight, distillation.teacher[4].weight)
        assert len(distillation.scale.mean) == 3

    @pytest.mark.parametrize("discriminate", ["logits", "features"])
    def test_taught_are_the_validation_images_in_units_of_the_training_images(self, discriminate):
        distillation = self.distillation(discriminate=discriminate)
        sets, splits = distillation.run.experiment.sets, distillation.run.experiment.splits
        layers = distillation.teacher[:4] if discriminate == "features" else distillation.teacher
        with torch.no_grad():
            train, validation = (
                layers(torch.cat([inputs for inputs, _ in sets.evaluation(part)]))
                for part in (splits.train, splits.validation)
            )
        expected = (validation - train.mean(0)) / train.std(0).clamp(min=1e-6)
        torch.testing.assert_close(distillation.taught, expected, rtol=1e-4, atol=1e-4)

    def test_the_auc_changes_neither_models_nor_generators(self):
        distillation = self.distillation(freeze_classifier=True, discriminator="logistic")
        before, state = [bits(model) for model in (distillation.student, distillation.teacher)], torch.get_rng_state()
        assert distillation.auc() == distillation.auc() and distillation.critic.frozen
        assert [bits(model) for model in (distillation.student, distillation.teacher)] == before
        assert torch.equal(torch.get_rng_state(), state)
