"""A loss, a gradient, a constraint or a weight becomes NaN or infinite: where the run stops, or how it rewinds."""

import copy
import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.method_cases import CPU, QuietRecord, begin, changed, network, state_of, streams
from helpers.processes import SMALL, contents, fork, only
from helpers.run_folders import CONTRASTIVE, UNLEARN, figures_of, weights_of
from helpers.steps import SHORT, around_steps, break_steps

from data.loaders import TensorLoader
from data.streams import CyclingLoader, PairedLoader
from helper_functions.errors import NotFinite
from helper_functions.record import RunRecord
from helper_functions.training.passes import all_finite
from optimizer.nan_guard import MOST_REWINDS
from optimizer.training import Recipe, fit_classifier

NON_FINITE = "became NaN or infinite"


class TestScriptsStop:
    """At step 3 of the second epoch; figures are transferred every 6 steps."""

    # Script and flags, steps of an epoch, what breaks, the first figure that shows it.
    FEW = ("--batch_size", 4)
    STOP = ("--on_nan", "stop", *FEW)
    SCRUB = ("--batch_size", 20, "--retain_batch_size", 128)
    CASES = {
        "train": (("train.py",), 11, "loss", "original: train/loss"),
        "train by SAM": (("train.py", "--use_sam"), 11, "gradient", "original: gradient/norm"),
        "published": ((UNLEARN, "--method", "delete", *FEW), 10, "loss", "delete: unlearning/loss"),
        "two passes": ((UNLEARN, "--method", "scrub", *SCRUB), 2 + 10, "gradient", "min: gradient/norm"),
        "constraint": ((UNLEARN, *STOP), 10, "constraint", "forget: constraint/violation"),
        "lesson": ((CONTRASTIVE, "--discriminator_steps", 1), 11, "gradient", "student: gradient/norm"),
        "untrain": ((CONTRASTIVE, "--mode", "untrain", *STOP), 10, "gradient", "forget: gradient/norm"),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_by_one_line_and_keep_the_last_checkpoint(self, case, original, tmp_path):
        (script, *own), length, kind, figure = self.CASES[case]
        flags = (*SMALL, "--log_interval", 6, "--figures", "False", "--num_epochs", 2, *own, "--log_dir", tmp_path)
        flags += ("--forget", "random:40") if script == "train.py" else ("--weight_path", original.folder / "model.pt")
        flags += ("--judge", "validation") if script != "train.py" else ()
        done = fork(script, *flags, before=partial(break_steps, kind, length + 3))
        folder = only(tmp_path)
        assert done.status == 1 and done.err.count("\n") == 1, done
        batch = 1 if case == "two passes" else 3
        where = f"(epoch 2, step {length + 3}, batch {batch} of "
        assert re.match(rf"{script}: error: {figure} {NON_FINITE} {re.escape(where)}", done.err), done.err
        remedy = "lower --learning_rate, or go on from there at half of it: "
        command = f"python {script} --resume {folder} --on_nan rewind\n"
        assert done.err.endswith(f"; the last good checkpoint is of step {length}; {remedy}{command}"), done.err
        assert not (folder / "model.pt").exists() and not (folder / "report.json").exists()
        checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert checkpoint["step"] == length
        assert all(value.isfinite().all() for value in checkpoint["model"].values() if value.is_floating_point())
        fault = json.loads((folder / "nan.json").read_text())
        assert fault["step"] == length + 3 and fault["images"]
        was = contents(folder)
        again = fork(script, "--resume", folder, "--on_nan", "rewind")
        assert again.status in (0, 3, 4) and again.err == ""
        assert all(value.isfinite().all() for value in weights_of(folder).values() if value.is_floating_point())
        assert was["config.yaml"] == contents(folder)["config.yaml"]


class TestScriptsRewind:
    def test_training_at_half_the_rate(self, tmp_path):
        flags = (*SMALL, "--num_epochs", 2, "--figures", "False", "--log_interval", 6, "--schedule", "constant")
        flags += ("--on_nan", "rewind", "--learning_rate", 0.05, "--log_dir", tmp_path)
        done = fork("train.py", *flags, before=partial(break_steps, "loss", 14))
        assert done.status == 0 and done.err == ""
        line = f"step 14: train/loss {NON_FINITE}; back to the last good state, learning rate x 0.5"
        assert re.search(line, done.out)
        rates = [line["original/train/learning_rate"] for line in figures_of(only(tmp_path)) if len(line) > 2]
        assert rates == [0.05, 0.025]
        # Steps that were taken back were taken all the same.
        cost = json.loads((only(tmp_path) / "report.json").read_text())["cost"]["original"]
        assert cost["gradient_steps"] == 11 + 6 + 11

    def test_constrained_methods_by_default(self, original, tmp_path):
        flags = (*SMALL, "--weight_path", original.folder / "model.pt", "--num_epochs", 2, "--figures", "False")
        flags += ("--batch_size", 10, "--log_interval", 2, "--judge", "validation", "--log_dir", tmp_path)
        done = fork(UNLEARN, *flags, before=partial(break_steps, "constraint", 5))
        assert done.status in (0, 3, 4) and done.err == ""
        line = f"step 5: constraint/violation {NON_FINITE}; back to the last good state, learning rate x 0.5"
        assert re.search(line, done.out)
        assert all(value.isfinite().all() for value in weights_of(only(tmp_path)).values() if value.is_floating_point())

    def test_an_original_that_is_trained_first(self, tmp_path):
        flags = (*SMALL, "--train_num_epochs", 1, "--figures", "False", "--log_interval", 6, "--log_dir", tmp_path)
        done = fork(UNLEARN, *flags, before=partial(break_steps, "loss", 2))
        assert done.status == 1
        assert re.search(rf"original: train/loss {NON_FINITE} \(epoch 1, step 2, batch 2 of ", done.err)
        assert done.err.endswith("; there is no checkpoint yet; lower --train_learning_rate\n")


class Fitted:
    """A network that is trained on random pictures, three batches an epoch."""

    def __init__(self, folder: Path, checkpoint: dict | None = None, on_nan: str = "rewind") -> None:
        folder.mkdir(exist_ok=True)
        self.record, self.model, self.loader = QuietRecord(folder), network(), streams()["retain"]
        recipe = Recipe(num_epochs=3, learning_rate=0.02, schedule="cosine", batch_size=8)
        self.cost = fit_classifier(
            self.model, self.loader, recipe, CPU, self.record, name="fit", checkpoint=checkpoint, log_interval=2,
            on_nan=on_nan,
        )  # fmt: skip


@pytest.fixture
def spoil(monkeypatch):
    """`break_steps` until the end of the test."""
    return partial(break_steps, patch=monkeypatch.setattr)


class TestGuard:
    @pytest.mark.parametrize("kind", ["loss", "gradient", "weights"])
    def test_goes_on_as_a_run_that_had_half_the_rate_from_there_on(self, kind, spoil, tmp_path):
        """What the second epoch's checkpoint gives with halved rates, computed without a rewind."""
        Fitted(tmp_path / "expected")
        saved = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(QuietRecord, "save_checkpoint", lambda _, content: saved.append(copy.deepcopy(content)))
            Fitted(tmp_path / "sound")
        checkpoint = saved[1]
        assert checkpoint["epoch"] == 2
        schedule = checkpoint["steps"]["schedule"]
        schedule["base_lrs"] = [rate / 2 for rate in schedule["base_lrs"]]
        for group in checkpoint["steps"]["optimizer"]["param_groups"]:
            group["lr"] /= 2
        expected = Fitted(tmp_path / "expected", checkpoint)
        spoil(kind, 6 + 2)
        found = Fitted(tmp_path / "found")
        assert changed(state_of(expected.model), state_of(found.model)) == set()
        assert found.cost.gradient_steps == expected.cost.gradient_steps + (3 if kind == "weights" else 2)

    def test_a_weight_that_breaks_in_the_last_step_of_an_epoch(self, spoil, tmp_path):
        spoil("weights", 6)
        with pytest.raises(NotFinite, match=rf"fit: weights {NON_FINITE} \(epoch 2, step 6, batch 3 of 3"):
            Fitted(tmp_path, on_nan="stop")
        assert RunRecord(tmp_path).load_checkpoint()["step"] == 3

    def test_gives_up_after_five_rewinds(self, spoil, tmp_path):
        spoil("loss", 5, math.inf)
        with pytest.raises(NotFinite, match="after 5 rewinds") as error:
            Fitted(tmp_path)
        assert not error.value.may_rewind
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        scales = [line["fit/rewound"] for line in lines if "fit/rewound" in line]
        assert scales == [0.5**number for number in range(1, MOST_REWINDS + 1)]

    def test_constrained_methods_give_up_too(self, spoil, tmp_path):
        spoil("constraint", 1, math.inf)
        with pytest.raises(NotFinite, match="after 5 rewinds"):
            begin("constrained", tmp_path, **{**SHORT, "num_epochs": 9}).run()

    def test_a_method_without_steps_that_breaks_the_weights(self, tmp_path):
        unlearning = begin("fisher", tmp_path, noise_scale=math.inf)
        with pytest.raises(NotFinite, match=f"fisher: weights {NON_FINITE} .* give the method milder flags"):
            unlearning.run()
        assert not (tmp_path / "checkpoint.pt").exists()


class TestImages:
    """The images that a fault names are those that were in the batch."""

    @pytest.fixture
    def seen(self, monkeypatch) -> list[list[int]]:
        """The images of each batch that loaders assembled."""
        batches, assemble = [], TensorLoader.assemble

        def spy(loader, indices, plan):
            batches.append(indices.tolist())
            return assemble(loader, indices, plan)

        monkeypatch.setattr(TensorLoader, "assemble", spy)
        return batches

    def test_of_a_loader(self, seen):
        loader = streams()["retain"]
        for epoch in range(3):
            seen.clear()
            list(loader)
            assert [loader.images_of(epoch, number).tolist() for number in range(len(loader))] == seen

    @pytest.mark.parametrize("batch_size", [5, 8, 24, 50])
    def test_of_pairs(self, batch_size, seen):
        parts = streams()
        retain = parts["retain"]
        follower = CyclingLoader(
            TensorLoader(retain.images, retain.labels, retain.indices, batch_size, mean=(0.5,),
                         std=(0.3,), shuffle=True, seed=4)  # fmt: skip
        )
        pairs = PairedLoader(parts["forget"], follower)
        for _ in range(4):
            state = pairs.state_dict()
            seen.clear()
            list(pairs)
            told = [pairs.images_of(state, number) for number in range(len(pairs))]
            assert [images.tolist() for one in told for images in (one["forget"], one["retain"])] == seen

    def test_in_a_run(self, seen, spoil, tmp_path, monkeypatch):
        steps = []

        def noting(trainer, step, batch):
            steps.append(seen[-2:])
            return step(batch)

        around_steps(noting, monkeypatch.setattr)
        spoil("constraint", 3)
        unlearning = begin("constrained", tmp_path, **SHORT)
        unlearning.on_nan = "stop"
        with pytest.raises(NotFinite):
            unlearning.run()
        fault = json.loads((tmp_path / "nan.json").read_text())
        assert [fault["images"]["forget"], fault["images"]["retain"]] == steps[2]
        found = [fault[name] for name in ("figure", "phase", "epoch", "batch")]
        assert found == ["constraint/violation", "forget", 2, 1]

    def test_loaders_that_cannot_tell_name_none(self):
        pairs = PairedLoader([0, 1], CyclingLoader([0, 1]))
        assert pairs.images_of(pairs.state_dict(), 0) == {}


def test_buffers_count_as_weights():
    model = network()
    assert all_finite(model) and all_finite(None)
    model[1].running_var[0] = math.inf
    assert not all_finite(model)
