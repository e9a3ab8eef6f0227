"""When to stop, which epoch to go back to, and the measurements that both rest on."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.method_cases import CPU, QuietRecord
from helpers.solving import own_labels
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearning.arguments import MethodArgs
from unlearning.choice import is_better
from unlearning.constrained.difficulty import Difficulty
from unlearning.constrained.stopping import STOP_CRITERIA
from unlearning.constrained.targets import Target, log_odds, own_target, weighted_quantiles
from unlearning.evaluator import Evaluator, matching_weights, paired_fall
from unlearning.run import UnlearningRun
from unlearning.streams import RETAIN_LOSSES


def stops_at(name, curves, original=None) -> int | None:
    """The first epoch, from 1, at which a criterion ends curves given by name, None for never."""
    length = len(next(iter(curves.values())))
    epochs = [{key: values[i] for key, values in curves.items()} for i in range(length)]
    for number in range(1, length + 1):
        if STOP_CRITERIA[name](epochs[:number], original or {}):
            return number
    return None


class TestStopCriteria:
    def test_unlearning_ends_when_forget_loss_reaches_validation_loss(self):
        for losses, epoch in (([0.1, 0.5, 1.0, 2.0], 3), ([0.1, 0.5, 0.8, 0.9], None)):
            assert stops_at("unlearning", {"forget/loss": losses, "validation/loss": [0.9, 0.9, 1.0, 1.0]}) == epoch

    @pytest.mark.parametrize(
        ("losses", "feasible", "epoch"),
        [
            ([1.0, 1.1, 1.2], [1, 1, 1], 3),
            ([1.0, 1.1, 1.2], [0, 0, 1], 3),
            ([1.0, 1.1, 1.2, 1.3], [1, 1, 0, 1], 4),
            ([1.0, 1.1, 1.05, 1.1, 1.2], [1] * 5, 5),
            ([1.0, 1.1, 1.1, 1.2], [1] * 4, None),
            ([1.0, 1.1], [1, 1], None),
            ([1.2, 1.1, 1.0], [1] * 3, None),
        ],
    )
    def test_refining_ends_when_validation_loss_rose_twice_running_within_the_budget(self, losses, feasible, epoch):
        assert stops_at("refining", {"validation/loss": losses, "constraint/feasible": feasible}) == epoch

    def test_forget_forever_ends_at_ninety_per_cent_of_retain_top5(self):
        original = {"retain/top5": 80.0}
        assert stops_at("forget-forever", {"retain/top5": [80, 75, 72.01, 72.0, 60]}, original) == 4
        assert stops_at("forget-forever", {"retain/top5": [80, 72.01]}, original) is None

    def test_confusion_ends_at_the_loss_of_a_reinitialised_network(self):
        original = {"reinitialised/forget_loss": 2.3}
        assert stops_at("confusion", {"forget/loss": [0.1, 2.2, 2.3, 3]}, original) == 3

    @pytest.mark.parametrize(
        ("aucs", "feasible", "epoch"),
        [
            ([0.5, 0.549], [1, 1], 2),
            ([0.5, 0.65, 0.46, 0.54], [1] * 4, 4),
            ([0.5, 0.5, 0.5], [0, 0, 1], 3),
            ([0.5, 0.5], [1, 0], None),
            ([0.5], [1], None),
            ([0.551, 0.449, 0.5], [1] * 3, None),
        ],
    )
    def test_discriminator_ends_after_two_epochs_running_at_chance_within_the_budget(self, aucs, feasible, epoch):
        """Whatever the intervals: those of few images hold chance, and say little."""
        curves = {"discriminator/auc": aucs, "constraint/feasible": feasible, "forget/distance": [0.0] * len(aucs)}
        assert stops_at("discriminator", curves) == epoch

    def test_none_never_ends(self):
        assert stops_at("none", {"forget/loss": [1.0, math.nan, 1e9]}) is None

    def test_numbers_that_are_none_end_nothing(self):
        curves = {
            "forget/loss": [math.nan] * 3, "validation/loss": [math.nan] * 3, "retain/top5": [math.nan] * 3,
            "constraint/feasible": [1.0] * 3, "discriminator/auc": [math.nan] * 3,
        }  # fmt: skip
        original = {"retain/top5": 80.0, "reinitialised/forget_loss": 2.3}
        assert all(stops_at(name, curves, original) is None for name in STOP_CRITERIA)


def epoch_of(feasible=1.0, bound=0.5, distance=0.3, validation=90.0, own=0.3) -> dict:
    return {
        "constraint/feasible": float(feasible), "constraint/fall_bound": bound, "held_out/fall": 0.0,
        "held_out/fall_bound": 0.0, "forget/distance": distance,
        "forget/own_distance": own, "validation/top1": validation,
    }  # fmt: skip


TOLERANCE = Target.tolerance


def beats(candidate, incumbent) -> bool:
    return is_better(candidate, incumbent, (TOLERANCE, TOLERANCE))


def chosen_of(epochs, tolerance=TOLERANCE) -> int:
    best = 0
    for number in range(1, len(epochs)):
        if is_better(epochs[number], epochs[best], (tolerance, tolerance)):
            best = number
    return best


EPOCHS = st.lists(
    st.builds(
        epoch_of,
        feasible=st.booleans(),
        bound=st.floats(0, 100),
        distance=st.floats(0, 1),
        validation=st.sampled_from([80.0, 90.0]),
    ),
    min_size=1,
    max_size=8,
)


class TestIsBetter:
    def test_feasible_beats_infeasible_however_well_that_forgot(self):
        far, forgotten = epoch_of(distance=0.9, validation=50), epoch_of(feasible=0, distance=0.0, validation=99)
        assert beats(far, forgotten) and not beats(forgotten, far)

    def test_of_two_infeasible_the_smaller_fall(self):
        mild, bad = epoch_of(feasible=0, bound=3.0, distance=0.9), epoch_of(feasible=0, bound=9.0, distance=0.0)
        assert beats(mild, bad) and not beats(bad, mild)

    def test_of_two_feasible_the_nearer(self):
        near, far = epoch_of(distance=0.1, validation=80), epoch_of(distance=0.5, validation=99)
        assert beats(near, far) and not beats(far, near)

    def test_equally_near_are_told_apart_by_validation(self):
        better, worse = epoch_of(distance=0.108, validation=91), epoch_of(distance=0.105, validation=90)
        assert beats(better, worse) and not beats(worse, better)

    def test_equally_near_a_discriminators_target_are_told_apart_by_their_own(self):
        """Own distances count in steps of the tolerance, too, and before validation accuracy."""
        near, far = epoch_of(distance=0.0, own=0.2, validation=80), epoch_of(distance=0.01, own=0.4, validation=99)
        assert beats(near, far) and not beats(far, near)
        nearer = epoch_of(distance=0.05, own=9.0)
        assert beats(nearer, epoch_of(distance=0.1, own=0.0)) and not beats(epoch_of(distance=0.1), nearer)
        better = epoch_of(distance=0.0, own=0.21, validation=81)
        assert beats(better, near) and not beats(near, better)

    @given(EPOCHS)
    def test_a_run_keeps_a_feasible_epoch_or_the_one_nearest_to_feasible(self, epochs):
        chosen = epochs[chosen_of(epochs)]
        assert chosen["constraint/feasible"] == max(epoch["constraint/feasible"] for epoch in epochs)
        if not chosen["constraint/feasible"]:
            assert chosen["constraint/fall_bound"] == min(epoch["constraint/fall_bound"] for epoch in epochs)

    @given(EPOCHS)
    def test_more_than_the_tolerance_apart_the_nearest_wins(self, epochs):
        step = 1.5 * TOLERANCE
        epochs = [epoch | {"forget/distance": step * round(epoch["forget/distance"] / step)} for epoch in epochs]
        feasible = [epoch for epoch in epochs if epoch["constraint/feasible"]]
        if feasible:
            nearest = min(epoch["forget/distance"] for epoch in feasible)
            chosen = epochs[chosen_of(epochs)]
            assert chosen["forget/distance"] == nearest
            equals = [epoch for epoch in feasible if epoch["forget/distance"] == nearest]
            assert chosen["validation/top1"] == max(epoch["validation/top1"] for epoch in equals)

    def test_many_small_steps_away_are_no_draw(self):
        epochs = [epoch_of(distance=0.75 * TOLERANCE * number) for number in range(10)]
        assert epochs[chosen_of(epochs)]["forget/distance"] <= TOLERANCE

    def test_an_image_of_a_class_that_is_still_named_is_no_noise(self):
        """One of a hundred images is, where the distance is a share of images below a bound or a sum of losses."""
        epochs = [epoch_of(distance=0.01, own=0.01, validation=91), epoch_of(distance=0.0, own=0.0, validation=90)]
        assert chosen_of(epochs) == 0 and chosen_of(epochs, own_labels(0.0).tolerance) == 1


class TestRewind:
    """A whole run with scripted figures: only the choice is under test."""

    def run(self, script, tmp_path, finetune=0, target="chance", on_checkpoint=lambda unlearning: None):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        images, labels = torch.randn(12, 1, 4, 4, generator=generator), torch.arange(12) % 3
        loaders = {
            name: DataLoader(TensorDataset(images, labels), 6) for name in ("retain", "forget", "unseen", "validation")
        }
        args = MethodArgs(num_epochs=len(script) - finetune, finetune_num_epochs=finetune, learning_rate=0.01)
        record = QuietRecord(tmp_path)
        record.save_checkpoint = lambda content: on_checkpoint(unlearning)
        unlearning = UnlearningRun(model, loaders, args, target, "constrained", CPU, record)
        self.start = {name: value.clone() for name, value in model.state_dict().items()}
        self.taken, measure, take = [], unlearning.measure, unlearning.take

        def measured():
            # Once all epochs have been taken, points of the line: all worse than the chosen epoch.
            number, found = len(unlearning.epochs), measure()
            found.figures |= script[number] if number < len(script) else epoch_of(feasible=0, bound=99.0)
            return found

        def taken(evaluation):
            self.taken.append({name: value.clone() for name, value in model.state_dict().items()})
            take(evaluation)

        unlearning.measure, unlearning.take = measured, taken
        outcome = unlearning.run()
        self.model = model
        return outcome

    def is_at(self, number: int) -> bool:
        """Whether the model has the weights that epoch `number`, from 1, ended with."""
        state = self.model.state_dict()
        return all(torch.equal(state[name], value) for name, value in self.taken[number - 1].items())

    @pytest.mark.parametrize("finetune", [0, 2])
    @pytest.mark.parametrize(
        ("script", "chosen"),
        [
            ([epoch_of(distance=0.5), epoch_of(distance=0.1), epoch_of(distance=0.4)], 2),
            ([epoch_of(distance=0.5), epoch_of(feasible=0, distance=0.0), epoch_of(distance=0.4)], 3),
            ([epoch_of(feasible=0), epoch_of(distance=0.9), epoch_of(feasible=0)], 2),
            # Every epoch is farther from the target than the original was: still none of them is epoch 0.
            ([epoch_of(distance=5.0), epoch_of(distance=4.0), epoch_of(distance=6.0)], 2),
        ],
    )
    def test_goes_to_the_feasible_epoch_nearest_its_target(self, script, chosen, finetune, tmp_path):
        outcome = self.run(script, tmp_path, finetune)
        assert outcome.chosen == chosen and self.is_at(chosen) and len(outcome.epochs) == 3
        assert [epoch["forget/distance"] for epoch in outcome.epochs] == [e["forget/distance"] for e in script]
        assert not all(torch.equal(value, self.start[name]) for name, value in self.model.state_dict().items())
        assert not self.model.training

    def test_without_a_feasible_epoch_the_nearest_to_feasible_is_kept_and_none_chosen(self, tmp_path):
        """Within the budget on retain images, so that passes are gone along; not on held-out ones."""
        outcome = self.run([epoch_of(feasible=0, bound=bound) for bound in (0.9, 0.2, 0.5)], tmp_path)
        assert outcome.chosen is None and self.is_at(2)

    def test_goals_are_those_of_the_weights_gone_back_to(self, tmp_path):
        goals = []

        def on_checkpoint(unlearning):
            target, losses = unlearning.target, unlearning.evaluator.losses
            goals.append([(target.reference, losses(unlearning.model, "unseen"))])
            goals[-1].append((target.window, losses(unlearning.model, "forget")))

        self.run([epoch_of(feasible=0, bound=92.0)], tmp_path, target="unseen", on_checkpoint=on_checkpoint)
        for found, losses in goals[0]:
            torch.testing.assert_close(found, log_odds(losses))
        assert self.is_at(1) and all(torch.equal(value, self.start[name]) for name, value in self.taken[0].items())


class TestPairedFall:
    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.integers(0, 1000))
    def test_closed_form(self, answers, more):
        """Mean of paired differences and 1.645 standard errors, corrected for a finite population."""
        before, after = np.array(answers, dtype=float).T
        change, n = before - after, len(answers)
        fall, margin = paired_fall(torch.tensor(before).bool(), torch.tensor(after).bool(), n + more)
        error = change.std(ddof=1) / math.sqrt(n) * math.sqrt(1 - n / (n + more))
        assert fall == pytest.approx(100 * change.mean(), abs=1e-4)
        assert margin == pytest.approx(100 * 1.645 * error, abs=1e-3)

    def test_is_exact_when_the_sample_is_the_population(self):
        before, after = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 0, 0, 1]).bool()
        assert paired_fall(before, after, 4) == (25.0, 0.0)
        assert paired_fall(before[:1], after[:1], 1) == (0.0, 0.0)

    def test_without_images_nothing_has_fallen(self):
        assert paired_fall(torch.ones(0).bool(), torch.ones(0).bool()) == (0.0, 0.0)

    def test_pairing_sees_what_two_accuracies_do_not(self):
        """As many won as lost is no fall, but not as sure as nothing moved."""
        before, moved = torch.tensor([1, 0]).bool().repeat(50), torch.tensor([0, 1]).bool().repeat(50)
        assert paired_fall(before, before, 1000) == (0.0, 0.0)
        fall, margin = paired_fall(before, moved, 1000)
        assert fall == 0 and margin > 10

    def test_covers_the_truth_in_nineteen_of_twenty_samples(self):
        generator = np.random.default_rng(0)
        population = 2000
        before = generator.random(population) < 0.9
        after = np.where(generator.random(population) < 0.1, ~before, before)
        truth = 100 * (before.mean() - after.mean())
        covered = 0
        for _ in range(400):
            sample = generator.permutation(population)[:500]
            fall = paired_fall(torch.from_numpy(before[sample]), torch.from_numpy(after[sample]), population)
            covered += sum(fall) >= truth
        assert 0.92 <= covered / 400 <= 0.98


class TestMatchingWeights:
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.lists(st.integers(0, 4), min_size=1, max_size=30))
    def test_classes_weigh_as_wanted(self, labels, wanted):
        weights = matching_weights(torch.tensor(labels), torch.tensor(wanted))
        shared = set(labels) & set(wanted)
        total = sum(wanted.count(label) for label in shared)
        for label in set(labels):
            here = [weight for weight, other in zip(weights.tolist(), labels, strict=True) if other == label]
            assert max(here) - min(here) < 1e-6
            if shared:
                expected = wanted.count(label) / total if label in shared else 0
            else:
                expected = labels.count(label) / len(labels)
            assert sum(here) == pytest.approx(expected, abs=1e-5)


def examination_of(model, loaders, loss="labels") -> Evaluator:
    return Evaluator(model, loaders, CPU, seed=0, retain_loss_gap=RETAIN_LOSSES[loss])


class TestExamination:
    IMAGES = torch.eye(12).reshape(12, 1, 3, 4)
    LABELS = torch.arange(12) % 3

    def model(self, logits) -> nn.Module:
        """Gives image i the i-th logits."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
        model[1].weight.data = logits.T.contiguous()
        return model

    def loader(self, indices, shuffle=False, batch_size=2):
        dataset = TensorDataset(self.IMAGES[indices], self.LABELS[indices])
        return DataLoader(dataset, batch_size, shuffle=shuffle, generator=torch.Generator().manual_seed(1))

    def loaders(self, **options):
        parts = {"retain": range(6), "forget": [6, 7, 9], "unseen": [8, 10, 11], "validation": [8, 10, 11]}
        return {name: self.loader(list(indices), **options) for name, indices in parts.items()}

    @pytest.mark.parametrize("loss", ["labels", "original"])
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_figures_by_hand(self, shuffle, loss):
        """Of six retain images the model loses two and wins one that the original had wrong."""
        generator = torch.Generator().manual_seed(0)
        original = 6 * torch.nn.functional.one_hot(self.LABELS, 3) + torch.randn(12, 3, generator=generator)
        original[5] = torch.tensor([9.0, 0, 0])
        now = original.clone()
        now[[0, 1]], now[5] = torch.tensor([0.0, 0, 5]), torch.tensor([0.0, 0, 1])
        now[[6, 7]] = torch.tensor([0.0, 0, 3])
        target = own_labels(1 / 3)
        evaluator = examination_of(self.model(original), self.loaders(shuffle=shuffle), loss)
        figures = evaluator(self.model(now), target, budget=20.0).figures
        assert figures["constraint/fall"] == pytest.approx(100 / 6, abs=1e-4)
        assert figures["constraint/fall_bound"] == pytest.approx(100 / 6, abs=1e-4)
        assert figures["constraint/feasible"] == 1
        assert evaluator(self.model(now), target, budget=16.0).figures["constraint/feasible"] == 0
        assert figures["retain/top1"] == pytest.approx(100 * 4 / 6, abs=1e-4)
        assert figures["forget/top1"] == pytest.approx(100 / 3, abs=1e-4)
        assert figures["retain/loss"] == pytest.approx(nn.CrossEntropyLoss()(now[:6], self.LABELS[:6]).item(), rel=1e-5)
        p, q = original[:6].softmax(1), now[:6].softmax(1)
        retain_loss_gap = (p / q).log()[range(6), self.LABELS[:6]] if loss == "labels" else (p * (p / q).log()).sum(1)
        assert figures["retain/loss_gap"] == pytest.approx(retain_loss_gap.mean().item(), rel=1e-4)
        assert figures["forget/distance"] == pytest.approx(1 / 3)
        assert evaluator.of_outputs(evaluator.original_outputs, target, 0.0).figures["constraint/fall"] == 0

    @pytest.mark.parametrize("part", ["easy", "hard", "even"])
    def test_the_distance_is_to_images_as_hard_as_the_forget_set(self, part):
        """Of 300 images that were learned a third is forgotten; 200 were never seen, and are 100 times as hard."""
        generator = torch.Generator().manual_seed(0)
        losses = torch.cat([torch.rand(300, generator=generator) / 100, torch.rand(200, generator=generator)])
        order = losses[:300].argsort(descending=part == "hard")
        chosen = torch.zeros(300, dtype=torch.bool)
        # Every third of all, or two of three of the first half.
        chosen[order[::3] if part == "even" else order[:150][torch.arange(150) % 3 > 0]] = True
        forget, retain = torch.nonzero(chosen).flatten(), torch.nonzero(~chosen).flatten()
        parts = {"forget": forget, "retain": retain, "unseen": range(300, 400), "validation": range(400, 500)}
        # Two classes; the loss on class 0 is log(1 + e^-x), and a pixel of each image is that x.
        pixels = -losses.expm1().log()
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
        model[1].weight.data = torch.tensor([[1.0], [0.0]])
        loaders = {
            name: DataLoader(TensorDataset(pixels[list(where), None], torch.zeros(100, dtype=torch.int64)), 50)
            for name, where in parts.items() if name != "retain"
        }  # fmt: skip
        kept = TensorDataset(pixels[parts["retain"], None], torch.zeros(200, dtype=torch.int64))
        loaders["retain"] = DataLoader(kept, 50)
        evaluator = examination_of(model, loaders)
        case = SimpleNamespace(target="unseen", evaluator=evaluator, seed=0)
        target = own_target(case)
        assert torch.equal(target.weights, evaluator.difficulty_weights["unseen"])

        expected = torch.full((100,), 0.01)
        if part != "even":
            difficulty = Difficulty.of(losses[forget], losses[retain], torch.ones(200))
            expected = difficulty.weigh(losses[400:], expected)
            assert (difficulty.first < difficulty.second) == (part == "easy")
        torch.testing.assert_close(evaluator.difficulty_weights["validation"], expected, rtol=1e-3, atol=1e-5)
        goals = weighted_quantiles(losses[400:], expected, (torch.arange(100) + 0.5) / 100)
        odds = goals.expm1().log() - losses[forget].sort().values.expm1().log()
        found = evaluator.of_outputs(evaluator.original_outputs, target, 1.0).figures["forget/distance"]
        assert found == pytest.approx(odds.abs().mean().item(), rel=1e-3)

    def test_right_by_chance_with_numbers_that_are_none_is_not_feasible(self):
        logits = 6.0 * torch.nn.functional.one_hot(self.LABELS, 3)
        evaluator = examination_of(self.model(logits), self.loaders())
        broken = self.model(logits)
        nn.init.constant_(broken[1].weight, math.nan)
        assert evaluator(broken, own_labels(1 / 3), budget=100.0).figures["constraint/feasible"] == 0

    def test_leaves_batch_norm_and_modes_alone(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
        model.train()
        model[2].eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        evaluator = examination_of(model, self.loaders())
        evaluator(model, own_labels(1 / 3), 1.0)
        evaluator.losses(model, "unseen")
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert modes == [module.training for module in model.modules()]

    def test_classes_that_no_retain_image_has_are_the_forgotten_ones(self):
        loaders = self.loaders() | {"retain": self.loader([0, 3, 6]), "forget": self.loader([1, 4, 9])}
        logits = torch.nn.functional.one_hot(self.LABELS, 3).float()
        evaluator = examination_of(self.model(logits), loaders)
        assert evaluator.forgotten_classes().tolist() == [1]
        # Forget, retain and unseen: of the retain images, whether there are some.
        assert [each.tolist() for each in evaluator.class_counts()] == [[1, 2, 0], [1, 0, 0], [0, 1, 2]]

    def test_a_class_outside_of_the_retain_sample_is_not_forgotten(self, monkeypatch):
        monkeypatch.setattr("unlearning.evaluator.RETAIN_SAMPLE", 2)
        loaders = self.loaders() | {"retain": self.loader([0, 3, 1]), "forget": self.loader([2, 4])}
        logits = torch.nn.functional.one_hot(self.LABELS, 3).float()
        assert examination_of(self.model(logits), loaders).forgotten_classes().tolist() == [2]

    def test_a_sampler_over_part_of_a_data_set_is_the_population(self):
        """With every one of the six measured, the bound is the fall itself."""
        generator = torch.Generator().manual_seed(0)
        original = torch.randn(12, 3, generator=generator)
        dataset = TensorDataset(self.IMAGES, self.LABELS)
        sampler = torch.utils.data.SubsetRandomSampler(range(6), generator)
        loaders = self.loaders() | {"retain": DataLoader(dataset, 2, sampler=sampler)}
        figures = examination_of(self.model(original), loaders)(
            self.model(original.roll(1, dims=1)), own_labels(1 / 3), 1.0
        ).figures
        assert figures["constraint/fall_bound"] == figures["constraint/fall"]

    def test_a_shuffled_loader_is_measured_like_one_that_is_not(self):
        """Validation images of class 2 alone weigh; a later pass must not give their weight to others."""
        generator = torch.Generator().manual_seed(5)
        logits = 4 * torch.randn(12, 3, generator=generator)
        model = self.model(logits)
        distances = []
        for shuffle in (False, True):
            validation = self.loader(list(range(12)), shuffle)
            loaders = self.loaders() | {"forget": self.loader([2, 5, 8]), "validation": validation}
            evaluator = examination_of(model, loaders)
            target = Weighted()
            distances += [evaluator(model, target, 1.0).figures["forget/distance"] for _ in range(3)]
        assert distances == pytest.approx(distances[:1] * 6, abs=1e-4)


class Weighted:
    """Distance: the weighted mean of the validation losses."""

    name = "weighted"

    def distance(self, logits, labels, reference_losses, reference_weights) -> float:
        return (reference_losses * reference_weights).sum().item()
