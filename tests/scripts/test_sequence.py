"""Several requests in a row: their splits, the rest of the budget, and that no forgotten image is trained on."""

import dataclasses
import hashlib
import json
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.processes import SMALL, Ran, assert_refused, contents, fork, only, signal_at
from helpers.run_folders import report_of, status_of
from helpers.toy_splits import held_out, sets, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import train_constrained_unlearning as script
from data.exclusion import HASHES
from data.random_streams import random_state
from data.split_record import TENSORS, Splits
from data.splits import make_splits
from helper_functions.errors import UserError
from helper_functions.run_folder import result_weights
from helper_functions.training.inference import predict
from unlearning.experiment import Experiment
from unlearning.sequence import SAME, Previous, Sequence

UNLEARN = "train_constrained_unlearning.py"
# A short run that may cost what it likes.
SHORT = ("--num_epochs", 2, "--finetune_num_epochs", 0, "--judge", "validation", "--figures", "False")
SHORT += ("--retain_budget", 60)
# As in splits files of before there were sequences.
ARCHIVE = {*TENSORS, "forget_request", "dataset", "final_test", "sha256", "seed"}


def digest_by_hand(splits: Splits, names: tuple[str, ...]) -> str:
    text = splits.dataset.encode()
    for name in names:
        values = getattr(splits, name).tolist()
        text += f"|{name}:{len(values)}|".encode() + b"".join(value.to_bytes(8, "little") for value in values)
    return hashlib.sha256(text).hexdigest()


def check_sequence(chain: list[Splits]) -> None:
    first, gone = chain[0], set()
    for before, splits in zip([None, *chain], chain, strict=False):
        parts = sets(splits) | {"forgotten": set(splits.forgotten.tolist())}
        assert parts["forgotten"] == gone
        gone = gone | parts["forget"]
        assert parts["forget"] and parts["forget"] | parts["retain"] == parts["train"]
        # In one part each, but for train, which two others make up.
        apart = [parts[name] for name in ("forget", "retain", "forgotten", "validation", "unseen", "test")]
        assert sum(map(len, apart)) == len(set().union(*apart)) == len(first.labels)
        assert held_out(splits) == held_out(first) and torch.equal(splits.test, first.test)
        assert torch.equal(splits.labels, first.labels) and splits.final_test == first.final_test
        if before is not None:
            assert torch.equal(splits.train, before.retain)


@settings(max_examples=40)
@given(
    requests=st.lists(st.sampled_from(["random:12", "random:0.1", "class:0", "class:3", "superclass:few"]), max_size=4),
    first=st.sampled_from(["random:0.1", "class:1", "mislabelled:0.2", "random:30"]),
    test=st.sampled_from([0, 60]),
    with_copies=st.booleans(),
)
def test_every_part_of_a_sequence(tmp_path_factory, requests, first, test, with_copies):
    dataset = toy(test=test, copies=20)
    chain = [make_splits(dataset, first)]
    for request in requests:
        try:
            following = make_splits(dataset, request, previous=chain[-1].following(), with_copies=with_copies)
        except UserError as error:  # the class is gone, or it is all that is left
            assert "empty: earlier requests" in str(error) or "whole training set" in str(error)
            continue
        again = make_splits(dataset, request, previous=chain[-1].following(), with_copies=with_copies)
        assert following.sha256 == again.sha256 and following.forget_request == request
        chain.append(following)
    check_sequence(chain)
    path = tmp_path_factory.mktemp("splits") / "splits.npz"
    chain[-1].save(path)
    loaded = Splits.load(path, dataset)
    assert loaded.sha256 == chain[-1].sha256 and torch.equal(loaded.forgotten, chain[-1].forgotten)


def test_a_first_request_is_stored_as_ever(tmp_path):
    splits = make_splits(toy(), "random:0.1")
    splits.save(tmp_path / "splits.npz")
    with np.load(tmp_path / "splits.npz") as archive:
        assert set(archive.files) == ARCHIVE
    assert splits.sha256 == digest_by_hand(splits, TENSORS)
    following = make_splits(toy(), "random:0.1", previous=splits.following())
    following.save(tmp_path / "following.npz")
    with np.load(tmp_path / "following.npz") as archive:
        assert set(archive.files) == {*ARCHIVE, "forgotten"}
    assert following.sha256 == digest_by_hand(following, (*TENSORS, "forgotten"))


def test_forgotten_images_are_vouched_for(tmp_path):
    following = make_splits(toy(), "random:0.1", previous=make_splits(toy(), "random:0.1").following())
    moved = dataclasses.replace(following, forgotten=following.forgotten[1:])
    assert moved.sha256 != following.sha256
    dataclasses.replace(following, forgotten=torch.tensor([3, 9999])).save(tmp_path / "outside.npz")
    with pytest.raises(UserError, match="forgotten has an index outside"):
        Splits.load(tmp_path / "outside.npz", toy())
    following.save(tmp_path / "splits.npz")
    with np.load(tmp_path / "splits.npz") as archive:
        arrays = dict(archive) | {"forgotten": np.array([1, 2])}
    np.savez(tmp_path / "altered.npz", **arrays)
    with pytest.raises(UserError, match="damaged"):
        Splits.load(tmp_path / "altered.npz", toy())


def test_random_requests_have_streams_of_their_own():
    dataset, chain = toy(), [make_splits(toy(), "random:15")]
    for _ in range(3):
        chain.append(make_splits(dataset, "random:15", previous=chain[-1].following()))
        train = chain[-1].train.numpy()
        assert set(chain[-1].forget.tolist()) != set(random_state(0, "forget").permutation(train)[:15].tolist())
    drawn = [frozenset(splits.forget.tolist()) for splits in chain]
    assert len(frozenset().union(*drawn)) == 4 * 15


class TestOverlap:
    @pytest.fixture
    def before(self, tmp_path) -> Splits:
        return make_splits(toy(), "random:20").following()

    @pytest.fixture
    def ask(self, tmp_path, before):
        def request(images) -> Splits:
            (tmp_path / "list.txt").write_text("\n".join(map(str, images)))
            return make_splits(toy(), f"file:{tmp_path / 'list.txt'}", previous=before)

        return request

    def test_what_was_forgotten_before_is_named_and_passed_over(self, ask, before, capsys):
        old, new = before.forgotten[:7].tolist(), before.train[:3].tolist()
        splits = ask(old + new)
        assert splits.forget.tolist() == new and splits.forgotten.tolist() == before.forgotten.tolist()
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("skipped 7 images of ") and "list.txt" in line
        assert line.endswith(", ".join(map(str, old[:5])) + " and 2 more")

    def test_a_request_for_nothing_else_is_refused(self, ask, before, capsys):
        with pytest.raises(UserError, match="only images that earlier requests forgot: ") as error:
            ask(before.forgotten[:2].tolist())
        assert str(before.forgotten[1].item()) in str(error.value) and capsys.readouterr().out == ""

    def test_held_out_images_are_still_refused(self, ask, before):
        with pytest.raises(UserError, match=rf"{before.validation[0]} \(validation\)"):
            ask([*before.forgotten[:2].tolist(), before.validation[0].item()])

    def test_labels_cannot_be_corrupted_in_a_sequence(self, before):
        with pytest.raises(UserError, match="corrupts labels before training"):
            make_splits(toy(), "mislabelled:0.1", previous=before)


@pytest.fixture(scope="module")
def lists(original, tmp_path_factory) -> list[Path]:
    """Two lists of images that the original was trained on; the second begins with the last two of the first."""
    folder = tmp_path_factory.mktemp("lists")
    with np.load(original.folder / "splits.npz") as archive:
        trained_on = archive["train"].tolist()
    paths = [folder / "first.txt", folder / "second.txt"]
    for path, images in zip(paths, (trained_on[:40], trained_on[38:70]), strict=True):
        path.write_text("\n".join(map(str, images)))
    return paths


def unlearn(log_dir: Path, *flags: object, **options) -> Ran:
    return Ran(fork(UNLEARN, *flags, "--log_dir", log_dir, **options), log_dir)


@pytest.fixture(scope="module")
def first(original, lists, tmp_path_factory) -> Ran:
    """A first request on the original's weights."""
    log_dir = tmp_path_factory.mktemp("first")
    weights = original.folder / "model.pt"
    ran = unlearn(log_dir, *SMALL, "--weight_path", weights, "--forget", f"file:{lists[0]}", *SHORT)
    assert ran.done.status == 0, ran.done.err
    return Ran(ran.done, only(log_dir))


@pytest.fixture(scope="module")
def second(first, lists, tmp_path_factory) -> Ran:
    """A request after it, with a retrained model beside."""
    log_dir = tmp_path_factory.mktemp("second")
    flags = ("--previous_run", first.folder, "--forget", f"file:{lists[1]}", *SHORT[:-2])
    ran = unlearn(log_dir, *flags, "--retrain", "--train_num_epochs", 1)
    assert ran.done.status == status_of(report_of(only(log_dir))["verdict"]) != 3, ran.done.err
    return Ran(ran.done, only(log_dir))


def parse(*flags: object) -> object:
    return script.get_parser().parse([*map(str, flags)])


def resuming(folder: Path) -> object:
    """The arguments of a run, which keeps its own splits."""
    return dataclasses.replace(parse("--config_file", folder / "config.yaml"), resume=str(folder))


def right(experiment: Experiment, path: Path, images: torch.Tensor) -> torch.Tensor:
    logits, labels = predict(experiment.model(str(path)), experiment.sets.evaluation(images), experiment.precision)
    return logits.argmax(1) == labels


class TestTwoRequests:
    def test_splits_and_report_say_what_was_forgotten_before(self, first, second, original):
        experiment = Experiment(resuming(second.folder))
        before = Splits.load(first.folder / "splits.npz", experiment.dataset)
        splits = experiment.splits
        check_sequence([before, splits])
        assert len(before.forget) == 40 and len(splits.forget) == 30 and len(splits.forgotten) == 40
        assert "skipped 2 images" in second.done.out
        assert "sequence request 2; 40 images forgotten before, " in second.done.out
        hashes = [set((folder / HASHES).read_text().split()) for folder in (first.folder, second.folder)]
        assert hashes[0] < hashes[1], "the next training leaves out the images of both"
        told = report_of(second.folder)["sequence"]
        assert told["previous_run"] == str(first.folder) and told["number"] == 2 and told["forgotten_images"] == 40
        assert told["multiplier"] == report_of(first.folder)["forget"]["multiplier"] >= 0
        # From the first original to the model that this request started from, on what it retains.
        points = [
            100 * right(experiment, path, splits.retain).double().mean().item()
            for path in (original.folder / "model.pt", first.folder / "model.pt")
        ]
        assert told["budget_spent"] == pytest.approx(max(0.0, points[0] - points[1]), abs=2e-4)
        verdict = report_of(second.folder)["verdict"]
        assert verdict["retain_budget"] + told["budget_spent"] == pytest.approx(60)
        after = 100 * right(experiment, result_weights(second.folder), splits.retain).double().mean().item()
        assert verdict["slack"] == pytest.approx(verdict["retain_budget"] - (points[1] - after), abs=1e-3)

    def test_what_earlier_requests_forgot_is_watched(self, first, second):
        experiment = Experiment(resuming(second.folder))
        images = experiment.splits.forgotten
        models = {"original": first.folder / "model.pt", "unlearned": result_weights(second.folder)}
        models["retrained"] = second.folder / "retrained.pt"
        figures = report_of(second.folder)["models"]
        for name, path in models.items():
            logits, labels = predict(
                experiment.model(str(path)), experiment.sets.evaluation(images), experiment.precision
            )
            top1 = 100 * (logits.argmax(1) == labels).double().mean().item()
            assert figures[name]["forgotten_top1"] == pytest.approx(top1, abs=1e-3)
            assert figures[name]["forgotten_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
        assert "forgotten before, top-1" in second.done.out
        assert "forgotten_top1" not in report_of(first.folder)["models"]["unlearned"]

    def test_the_retrained_model_has_seen_nothing_of_either(self, second):
        with np.load(second.folder / "splits.npz") as archive:
            retained = len(archive["retain"])
        assert report_of(second.folder)["cost"]["retrained"]["images"] == retained == 1294 - 70

    def test_it_goes_on_to_the_same_end_after_a_kill(self, first, lists, second, tmp_path):
        flags = ("--config_file", second.folder / "config.yaml")
        # One retraining epoch of 10 steps, then epochs of one step.
        done = unlearn(tmp_path, *flags, before=partial(signal_at, 12)).done
        assert done.status == -signal.SIGKILL, done
        done = fork(UNLEARN, "--resume", only(tmp_path))
        assert done.status == second.done.status, done.err
        ours, theirs = (torch.load(result_weights(folder)) for folder in (only(tmp_path), second.folder))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        ours, theirs = report_of(only(tmp_path)), report_of(second.folder)
        for name in ("models", "verdict", "sequence", "forget", "splits_sha256"):
            assert ours[name] == theirs[name], name

    def test_a_third_request_and_its_account(self, first, second, tmp_path):
        done = unlearn(tmp_path, "--previous_run", second.folder, "--forget", "random:20", *SHORT[:-2]).done
        assert done.status in (0, 4), done.err
        told = report_of(only(tmp_path))["sequence"]
        assert told["number"] == 3 and told["forgotten_images"] + told["asked_again"] == 70
        assert Previous.read(str(second.folder)).first_original() == Path(load(first.folder)["weight_path"])


def load(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


# Next to no step.
IDLE = ("--method", "finetune", "--num_epochs", 1, "--learning_rate", 1e-6, "--judge", "validation")
IDLE += ("--retain_budget", 60)


@pytest.fixture(scope="module")
def idle(original, tmp_path_factory) -> Ran:
    """A request that kept its budget and forgot nothing."""
    log_dir, weights = tmp_path_factory.mktemp("idle"), original.folder / "model.pt"
    ran = unlearn(log_dir, *SMALL, "--weight_path", weights, "--forget", "class:3", *IDLE)
    return Ran(ran.done, only(log_dir))


class TestNotForgotten:
    """The budget was kept, but nothing was forgotten: the next request asks for these images again."""

    def test_is_exit_status_4_and_weights_that_say_so(self, idle):
        assert idle.done.status == 4 and idle.done.err == ""
        names = {path.name for path in idle.folder.iterdir()}
        assert "not_forgotten.pt" in names and not names & {"model.pt", "infeasible.pt"}
        said = "NOT forgotten, budget kept"
        for line in (f"verdict  {said}: retain accuracy", "budget kept, but not forgotten"):
            assert line in idle.done.out
        assert report_of(idle.folder)["verdict"]["outcome"] == said
        assert f"✗ {said}" in (idle.folder / "report.html").read_text()
        verified = fork("test.py", "--verify", idle.folder)
        assert verified.status == 0 and "weights: not_forgotten.pt" in verified.out, verified.out

    def test_its_images_join_the_next_request(self, idle, tmp_path):
        done = unlearn(tmp_path, "--previous_run", idle.folder, "--forget", "class:5", *IDLE).done
        assert done.status == 4 and done.err == "", done
        before, after = (np.load(folder / "splits.npz") for folder in (idle.folder, only(tmp_path)))
        images = len(before["forget"])
        assert f"0 images forgotten before, {images} that the request before did not forget are asked for again" in (
            done.out
        )
        assert set(np.unique(after["labels"][after["forget"]])) == {3, 5} and "forgotten" not in after
        assert set(after["forget"]) >= set(before["forget"]) and not set(after["retain"]) & set(before["forget"])
        told = report_of(only(tmp_path))
        assert told["sequence"]["asked_again"] == images < told["request"]["images"] == len(after["forget"])
        assert fork("test.py", "--verify", only(tmp_path)).status == 0

    def test_another_target_is_refused(self, idle, tmp_path):
        flags = ("--previous_run", idle.folder, "--forget", "random:9images", *IDLE, "--log_dir", tmp_path / "none")
        assert_refused(fork(UNLEARN, *flags), UNLEARN, "--forget random:9", "was not forgotten", "--forget_target zero")
        assert not (tmp_path / "none").exists()

    def test_a_random_request_draws_others(self):
        first = make_splits(toy(), "random:15")
        second = make_splits(toy(), "random:15", previous=first.following(again=True))
        assert len(second.forget) == 30 and set(first.forget.tolist()) < set(second.forget.tolist())
        assert second.num_forgotten == 0

    def test_the_whole_training_set_is_refused(self):
        first = make_splits(toy(), "class:0")
        others = ",".join(name for name in toy().classes if name != toy().classes[0])
        with pytest.raises(UserError, match="and those asked for again are the whole training set"):
            make_splits(toy(), f"class:{others}", previous=first.following(again=True))


class TestFlagsTakenOver:
    def test_data_model_budget_and_multiplier_come_from_there(self, first):
        args, before = parse("--previous_run", first.folder, "--forget", "random:9images"), load(first.folder)
        for name in (*SAME, "seed", "retain_budget", "train_num_epochs"):
            assert getattr(args, name) == before[name]
        assert args.model == "resnet8" and args.width == 4 and args.retain_budget == 60
        assert args.weight_path == str(first.folder / "model.pt")
        assert args.multiplier == report_of(first.folder)["forget"]["multiplier"]
        assert args.num_epochs is None, "how to forget is this request's own affair"

    def test_what_is_given_wins(self, first, tmp_path):
        (tmp_path / "file.yaml").write_text("retain_budget: 7\nseed: 3\n")
        flags = ("--config_file", tmp_path / "file.yaml", "--multiplier", 3, "--previous_run", first.folder)
        args = parse(*flags)
        assert (args.retain_budget, args.seed, args.multiplier, args.width) == (7, 3, 3, 4)

    def test_a_multiplier_is_carried_to_its_like_alone(self, first, tmp_path):
        shutil.copytree(first.folder, tmp_path / "run")
        report = report_of(first.folder)
        report["forget"]["multiplier"] = 4.25
        (tmp_path / "run" / "report.json").write_text(json.dumps(report))
        flags = ("--previous_run", tmp_path / "run")
        assert parse(*flags).multiplier == 4.25
        for other in (("--solver", "penalty"), ("--method", "neggrad_plus")):
            assert parse(*flags, *other).multiplier == 10

    def test_without_a_run_before_nothing_changes(self):
        assert parse() == script.Args()


class TestBudget:
    def test_what_is_left(self):
        sequence = Sequence("runs/first", 2, 0.3, 14, None, 0)
        assert sequence.left_of(1.0) == 0.7 and Sequence("runs/first", 2, 0.0, 14, None, 0).left_of(0.0) == 0
        for budget in (0.3, 0.2):
            with pytest.raises(UserError, match="have spent 0.30 points of it, 0.00 are left; raise it, or retrain"):
                sequence.left_of(budget)

    @pytest.fixture
    def worse(self, first, tmp_path) -> Path:
        """A copy of the first run whose model has lost a class that it knew; its report does not know."""
        folder = tmp_path / "runs" / first.folder.name
        shutil.copytree(first.folder, folder)
        weights = torch.load(folder / "model.pt")
        weights["fc.bias"] = weights["fc.bias"].clone()
        weights["fc.bias"][0] -= 100
        torch.save(weights, folder / "model.pt")
        return folder

    def test_it_is_measured_where_the_first_original_is_at_hand(self, worse, tmp_path):
        flags = ("--previous_run", worse, "--forget", "random:9images", "--retain_budget", 1, *self.short(tmp_path))
        done = fork(UNLEARN, *flags)
        assert_refused(done, UNLEARN, "--retain_budget 1: earlier requests have spent ", "0.00 are left", "raise it")
        spent = float(done.err.split("spent ")[1].split()[0])
        assert 1 < spent < 12, "all images of one class of ten"

    @pytest.mark.parametrize("fall, spent_before, margin, spent", [
        (0.25, None, 0.0, 0.25), (0.25, 0.5, 0.125, 0.875), (-2.0, 0.5, 0.0, 0.0),
    ])  # fmt: skip
    def test_it_is_the_account_of_the_run_before_where_it_is_not(self, worse, fall, spent_before, margin, spent):
        report = report_of(worse)
        report["verdict"] |= {"retain_budget": 1.0, "slack": 1.0 - fall, "margin": margin}
        if spent_before is not None:
            report["sequence"] = {"number": 2, "budget_spent": spent_before}
        (worse / "report.json").write_text(json.dumps(report))
        config = load(worse) | {"weight_path": str(worse / "gone.pt")}
        (worse / "config.yaml").write_text(yaml.safe_dump(config))
        previous = Previous.read(str(worse))
        assert previous.first_original() is None and previous.spent == spent

    def test_nothing_is_written_where_nothing_is_left(self, worse, tmp_path):
        (worse / "config.yaml").write_text(yaml.safe_dump(load(worse) | {"weight_path": None}))
        report = report_of(worse)
        report["verdict"] |= {"retain_budget": 60.0, "slack": 0.5}
        (worse / "report.json").write_text(json.dumps(report))
        before = contents(tmp_path)
        flags = ("--previous_run", worse, "--forget", "random:9images", "--retain_budget", 59, *self.short(tmp_path))
        assert_refused(fork(UNLEARN, *flags), UNLEARN, "have spent 59.50 points")
        assert contents(tmp_path) == before

    @staticmethod
    def short(tmp_path: Path) -> tuple:
        return (*SHORT[:-2], "--log_dir", tmp_path / "runs")


class TestRefused:
    @pytest.fixture
    def place(self, first, tmp_path) -> Path:
        """A copy of the first run."""
        shutil.copytree(first.folder, tmp_path / "run")
        return tmp_path / "run"

    def refuse(self, capsys, *flags: object, says: tuple[str, ...]) -> None:
        with pytest.raises(UserError) as error:
            script.main(parse(*flags))
        assert all(str(part) in str(error.value) for part in says) and "\n" not in str(error.value), error.value
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("flags, says", [
        (("--width", 8), "--width 8: it was 4 in"), (("--model", "resnet20"), "--model resnet20: it was resnet8"),
        (("--test", 0.3), "--test 0.3: it was 0.2"), (("--validation", 0.2), "--validation 0.2: it was 0.1"),
        (("--mean", 0.1), "--mean [0.1]: it was [0.305"), (("--weight_path", "a.pt"), "leave one of them out"),
        (("--splits", "a.npz"), "--splits a.npz: --previous_run continues from its own splits"),
    ])  # fmt: skip
    def test_contradictions(self, first, tmp_path, capsys, flags, says):
        flags = ("--previous_run", first.folder, "--forget", "random:9images", "--log_dir", tmp_path / "none", *flags)
        self.refuse(capsys, *flags, says=(says,))
        assert not (tmp_path / "none").exists()

    def test_nothing_to_forget(self, first, capsys):
        self.refuse(capsys, "--previous_run", first.folder, says=("name what is to be forgotten next by --forget",))

    def test_another_forget_set_was_left_out_of_the_retrained_model(self, first, original, capsys):
        weights = original.folder / "model.pt"
        flags = ("--previous_run", first.folder, "--forget", "random:9images", "--retrained_weight_path", weights)
        self.refuse(capsys, *flags, says=("trained without another forget set",))

    @pytest.mark.parametrize("name, says", [
        ("config.yaml", "no run folder"), ("report.json", "has not ended"), ("model.pt", "its model.pt is gone"),
        ("splits.npz", "its splits.npz is gone"),
    ])  # fmt: skip
    def test_files_that_are_not_there(self, place, capsys, name, says):
        (place / name).unlink()
        self.refuse(capsys, "--previous_run", place, "--forget", "random:9images", says=(says, place))

    def test_no_folder_at_all(self, tmp_path, capsys):
        self.refuse(capsys, "--previous_run", tmp_path / "nowhere", says=("no run folder",))

    def test_a_training_is_no_request(self, original, capsys):
        self.refuse(capsys, "--previous_run", original.folder, says=("that run did not unlearn",))

    @pytest.mark.parametrize("change, says", [
        ({"verdict": None}, "forgot nothing"), ({"verdict": {"feasible": False}}, "ended infeasible"),
        ({"forget": {"multiplier": "1"}}, "no sound forget.multiplier"), ({"forget": 3}, "no sound forget.multiplier"),
        ({"sequence": {"number": None}}, "no sound sequence.number"),
    ])  # fmt: skip
    def test_reports_that_do_not_hold(self, place, capsys, change, says):
        (place / "report.json").write_text(json.dumps(report_of(place) | change))
        self.refuse(capsys, "--previous_run", place, "--forget", "random:9images", says=(says,))

    @pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\ud800"])
    def test_reports_that_are_none(self, place, capsys, text):
        (place / "report.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        self.refuse(capsys, "--previous_run", place, "--forget", "random:9images", says=("--previous_run",))
