"""`untrain_constrained` with a user's own module and loaders: what it reaches, what it visits, how it resumes."""

import copy
import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.digits import RIGHT, TEST, TRAIN, WRONG
from helpers.method_cases import CPU, QuietRecord
from helpers.numbered_images import images_read
from helpers.processes import SMALL
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import train
import train_constrained_unlearning
from data.loaders import TensorLoader
from evaluation.outcome import Outcome
from helper_functions.errors import UserError
from helper_functions.files import load_tensors
from helper_functions.run_folder import CHECKPOINT
from helper_functions.training.batch_norm import batch_norm_layers
from helper_functions.training.inference import predict
from optimizer.solver import SOLVERS
from train_constrained_unlearning import untrain_constrained


def folder_holds(outcome: Outcome, parent: Path, model: nn.Module) -> bool:
    """Whether the one folder in `parent` has the outcome's report, and the model's weights by the verdict's name."""
    (folder,) = parent.iterdir()
    weights = load_tensors(folder / outcome.verdict.weights, "")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert json.loads((folder / "report.json").read_text()) == outcome.report
    assert (folder / CHECKPOINT).exists() != (outcome.feasible and outcome.forgotten)
    return folder == outcome.folder and (folder / "metrics.jsonl").exists()


class TestOutcome:
    def forget(self, digits, **settings) -> Outcome:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        loaders = digits.loaders(slice(0, 20), slice(20, 60), digits.true)
        return untrain_constrained(model, **loaders, device="cpu", num_epochs=1, finetune_num_epochs=0, **settings)

    def test_nothing_is_saved_unless_a_folder_is_named(self, digits, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        outcome = self.forget(digits, forget_target="unseen", rewind=True)
        assert outcome.folder is None and not any(tmp_path.iterdir())
        assert outcome.forgotten and "the original met this already" in repr(outcome)

    def test_it_warns_where_the_passes_did_not_suffice_and_says_what_to_set(self, digits):
        with pytest.warns(UserWarning, match="NOT forgotten, .*num_epochs=2 or a larger retain_budget"):
            outcome = self.forget(digits, learning_rate=1e-8)
        assert outcome.feasible and not outcome.forgotten and "--" not in repr(outcome)
        assert "verdict  NOT forgotten" in repr(outcome) and len(repr(outcome).splitlines()) < 12

    def test_no_warning_where_it_has_forgotten(self, digits, recwarn):
        assert self.forget(digits, forget_target="unseen").forgotten and not recwarn.list


class TestForgetting:
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_wrong_labels_go_and_the_budget_is_kept(self, digits, mislabelled, solver, tmp_path):
        torch.manual_seed(0)
        model = copy.deepcopy(mislabelled)
        memory = model[1].weight.data_ptr()
        outcome = untrain_constrained(
            model, **digits.loaders(WRONG, RIGHT, digits.given), num_epochs=5, learning_rate=0.01,
            log_dir=str(tmp_path), device="cpu", name_prefix="mine", solver=solver, retain_budget=1.0, precision="fp32",
        )  # fmt: skip
        before, after = digits.accuracy(mislabelled, WRONG, digits.given), digits.accuracy(model, WRONG, digits.given)
        assert before > 80 and after < before / 2
        assert digits.accuracy(model, WRONG) > digits.accuracy(mislabelled, WRONG) + 30
        assert digits.accuracy(model, TEST) > digits.accuracy(mislabelled, TEST)
        assert model[1].weight.data_ptr() == memory, "the caller's model is changed in place"
        (ends_at,) = (point for point in outcome.dial if point["share"] == outcome.share)
        fall = digits.accuracy(mislabelled, RIGHT) - digits.accuracy(model, RIGHT)
        assert fall <= 1 and outcome.epochs[outcome.chosen - 1]["constraint/feasible"] == 1
        assert ends_at["retain_fall"] == pytest.approx(fall, abs=1e-3)
        assert ends_at["forget_top1"] == pytest.approx(after, abs=1e-3)
        assert outcome.target == "chance" and len(outcome.epochs) == 5 + 3
        # Four batches of 32 and less of forget images, then 29 of retain images; as many of the others beside them.
        assert outcome.cost.gradient_steps == 5 * 4 + 3 * 29
        assert 5 * 100 + 3 * 900 < outcome.cost.images <= 5 * (100 + 4 * 32) + 3 * (900 + 29 * 32)
        assert folder_holds(outcome, tmp_path, model) and outcome.folder.name.startswith("mine-")
        assert outcome.feasible and outcome.report["models"]["unlearned"]["forget_top1"] == pytest.approx(after)
        assert outcome.report["models"]["original"]["retain_top1"] == digits.accuracy(mislabelled, RIGHT)

    def test_forgetting_what_was_never_learned_changes_next_to_nothing(self, digits, tmp_path):
        """A negative control: held-out images already lie where unseen images do."""
        torch.manual_seed(0)
        original = digits.fit(digits.true)
        model, held_out, test = copy.deepcopy(original), slice(1400, 1500), slice(1500, None)
        outcome = untrain_constrained(
            model, **digits.loaders(held_out, TRAIN, digits.true), num_epochs=5, learning_rate=0.01,
            log_dir=str(tmp_path), device="cpu", forget_target="unseen",
        )  # fmt: skip
        assert outcome.chosen is not None
        assert abs(digits.accuracy(model, TRAIN) - digits.accuracy(original, TRAIN)) <= 0.5
        assert abs(digits.accuracy(model, held_out) - digits.accuracy(original, held_out)) <= 3
        assert abs(digits.accuracy(model, test) - digits.accuracy(original, test)) <= 1
        with torch.no_grad():
            changed = model(digits.images[test]).argmax(1) != original(digits.images[test]).argmax(1)
        assert changed.float().mean() < 0.03

    @pytest.mark.parametrize("finetune", [0, 1])
    @pytest.mark.parametrize("use_sam", [False, True])
    @pytest.mark.parametrize("batch_norm", ["frozen", "train"])
    def test_batch_norm_statistics_move_in_training_mode_only(self, digits, batch_norm, use_sam, finetune, tmp_path):
        """Once a step, of two; while fine-tuning, of five, in any case."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        model(digits.images[TRAIN])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        outcome = untrain_constrained(
            model, **digits.loaders(slice(0, 40), slice(40, 200), digits.true), num_epochs=1 - finetune,
            learning_rate=0.01, log_dir=str(tmp_path), device="cpu", bn=batch_norm, use_sam=use_sam,
            finetune_num_epochs=finetune,
        )  # fmt: skip
        assert outcome.chosen == 1
        steps = 5 if finetune else 2 * (batch_norm == "train")
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(model.state_dict()[name], before[name]) == (steps == 0)
        assert model[1].num_batches_tracked == before["1.num_batches_tracked"] + steps
        assert not torch.equal(model[0].weight, before["0.weight"])


class Numbered(nn.Module):
    """Writes down the numbers that its inputs carry in their first pixel, pass by pass, where gradients are wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.seen, self.looked_at = nn.Linear(4, 3), [], Counter()

    def forward(self, inputs):
        numbers = inputs[:, 0, 0, 0].round().long().tolist()
        if torch.is_grad_enabled():
            self.seen.append(numbers)
        else:
            self.looked_at.update(numbers)
        return self.head(inputs.flatten(1) / 1000)


class TestVisits:
    def loader(self, numbers, batch_size, shuffle=True):
        images = torch.zeros(len(numbers), 1, 2, 2)
        images[:, 0, 0, 0] = torch.tensor(numbers, dtype=torch.float32)
        return DataLoader(TensorDataset(images, torch.tensor(numbers) % 3), batch_size, shuffle=shuffle)

    @pytest.mark.parametrize(
        ("forget", "retain", "sizes"),
        [(10, 30, (4, 6)), (9, 5, (3, 2)), (3, 50, (1, 8)), (12, 7, (12, 7)), (8, 9, (3, 5))],
    )
    def test_every_forget_image_once_an_epoch_and_the_retain_stream_evenly(self, forget, retain, sizes, tmp_path):
        torch.manual_seed(0)
        forget_numbers, retain_numbers = list(range(forget)), list(range(100, 100 + retain))
        model, epochs = Numbered(), 5
        forget_loader = self.loader(forget_numbers, sizes[0])
        record = QuietRecord(tmp_path)
        untrain_constrained(
            model, self.loader(retain_numbers, sizes[1]), forget_loader, self.loader([200, 201, 202], 2),
            self.loader([300, 301, 302], 2), epochs, 0.001, device="cpu", record=record, finetune_num_epochs=0,
        )  # fmt: skip
        assert len(model.seen) == epochs * len(forget_loader)
        retained = Counter(dict.fromkeys(retain_numbers, 0))
        for epoch in range(epochs):
            passes = model.seen[epoch * len(forget_loader) : (epoch + 1) * len(forget_loader)]
            visited = [number for numbers in passes for number in numbers]
            assert sorted(number for number in visited if number < 100) == forget_numbers
            for numbers in passes:
                retained.update(number for number in numbers if number >= 100)
                assert max(retained.values()) - min(retained.values()) <= 1
        assert set(retained) == set(retain_numbers), "neither unseen nor validation images may be trained on"
        assert set(model.looked_at) >= {200, 201, 202, 300, 301, 302}


@pytest.fixture
def spied(monkeypatch) -> dict[str, set]:
    """Image numbers that loaders assembled for training, and for evaluation."""
    indices = {"training": set(), "evaluation": set()}
    assemble = TensorLoader.assemble

    def spy(self, batch, plan):
        kind = "evaluation" if torch.is_inference_mode_enabled() else "training"
        indices[kind].update(batch.tolist())
        return assemble(self, batch, plan)

    monkeypatch.setattr(TensorLoader, "assemble", spy)
    return indices


class TestRetainOnly:
    @pytest.mark.parametrize("retain_only", [True, False])
    @pytest.mark.parametrize("forget", ["class:3", "mislabelled:0.1"])
    def test_forget_images_never_reach_training(self, forget, retain_only, spied, tmp_path, monkeypatch):
        splits = []
        experiment = train.Experiment

        def remember(*args, **options):
            splits.append(experiment(*args, **options))
            return splits[-1]

        monkeypatch.setattr(train, "Experiment", remember)
        train.main(
            train.Args(
                dataset="digits",
                model="resnet8",
                width=2,
                num_epochs=1,
                batch_size=256,
                forget=forget,
                retain_only=retain_only,
                log_dir=str(tmp_path),
                device="cpu",
                precision="fp32",
            )  # fmt: skip
        )
        parts = splits[0].splits
        trained = {*parts.retain.tolist()} if retain_only else {*parts.train.tolist()}
        assert spied["training"] == trained
        assert spied["training"].isdisjoint(parts.forget.tolist()) == retain_only
        assert spied["training"].isdisjoint(parts.test.tolist() + parts.validation.tolist() + parts.unseen.tolist())
        assert spied["evaluation"] >= {*parts.forget.tolist()}, "the spy sees forget images where they are evaluated"


class TestRequests:
    @pytest.mark.parametrize(
        "request_",
        [
            {"forget_target": "unseeen"}, {"solver": "newton"}, {"retain_budget": -1.0},
            {"learning_rate": float("nan")}, {"stop_criterion": "never"}, {"num_epochs": 0, "finetune_num_epochs": 0},
            {"num_epochs": 0, "method": "finetune"},
        ],
    )  # fmt: skip
    def test_one_that_cannot_be_met_is_refused(self, request_, digits, tmp_path):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(UserError):
            untrain_constrained(
                model, **digits.loaders(slice(0, 20), slice(20, 60), digits.true), log_dir=str(tmp_path), device="cpu",
                **{"num_epochs": 1, **request_},
            )  # fmt: skip
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(tmp_path.iterdir())

    def test_a_setting_that_does_not_exist_is_an_error(self, digits, tmp_path):
        with pytest.raises(TypeError, match="retian_budget"):
            untrain_constrained(
                nn.Linear(1, 1), **digits.loaders(WRONG, RIGHT, digits.true), log_dir=str(tmp_path), retian_budget=1.0
            )


class TestPredict:
    def test_in_order_in_eval_mode_without_side_effects(self, digits):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 10))
        twin = copy.deepcopy(model).eval()
        model.train()
        before = copy.deepcopy(model.state_dict())
        loader = DataLoader(TensorDataset(digits.images[:50], digits.true[:50]), 7)
        logits, labels = predict(model, loader, CPU)
        torch.testing.assert_close(logits, twin(digits.images[:50]).detach())
        assert torch.equal(labels, digits.true[:50]) and not logits.is_inference() and not logits.requires_grad
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(layer.training for layer in batch_norm_layers(model)) and model.training

    def test_bfloat16_gives_float32_logits(self, digits):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        loader = DataLoader(TensorDataset(digits.images[:9], digits.true[:9]), 4)
        logits, _ = predict(model, loader, dataclasses.replace(CPU, dtype=torch.bfloat16))
        assert logits.dtype == torch.float32 and logits.shape == (9, 10)


def test_solver_and_selection_see_no_test_image(tmp_path, monkeypatch):
    """All of a run up to its final report: budget, target, rewinding."""
    read = images_read(monkeypatch)

    def stop(run, outcome, script):
        splits = run.experiment.splits
        parts = ("retain", "forget", "unseen", "validation", "test")
        seen = {part: set(getattr(splits, part).tolist()) for part in parts}
        assert read.isdisjoint(seen["test"]) and len(seen["test"])
        assert read == seen["retain"] | seen["forget"] | seen["unseen"] | seen["validation"]
        run.record.close()
        return {"done": True}

    monkeypatch.setattr(train_constrained_unlearning, "write_report", stop)
    flags = [*SMALL, "--forget", "random:40", "--train_num_epochs", 1, "--num_epochs", 1, "--log_dir", tmp_path]
    args = train_constrained_unlearning.get_parser().parse(list(map(str, flags)))
    assert train_constrained_unlearning.main(args) == {"done": True}
