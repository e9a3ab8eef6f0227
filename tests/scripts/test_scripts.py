"""Every script as a process on a tiny input: what it prints and writes, and how it resumes after a kill."""

import dataclasses
import json
import os
import re
import signal
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from helpers.processes import SMALL, assert_refused, contents, fork, only, print_into, signal_at
from helpers.run_folders import (
    CONTRASTIVE,
    EXPOSURE,
    FIGURES,
    UNLEARN,
    VERDICT,
    assert_same_weights,
    events_of,
    figures_of,
    hparams_of,
    recorded_scalars,
    report_of,
    scalars_of,
    status_of,
    unexplained_tags,
    weights_of,
)
from PIL import Image
from torch.nn import functional as F

import test
import train
import train_constrained_unlearning
import train_contrastive
from data.datasets import load_dataset
from data.splits import make_splits
from helper_functions.run_folder import result_weights
from helper_functions.training.inference import predict
from unlearning.experiment import Experiment

SCRIPTS = {"train.py": train, UNLEARN: train_constrained_unlearning, CONTRASTIVE: train_contrastive, "test.py": test}
PARSERS = {name: script.get_parser for name, script in SCRIPTS.items()}
# Further figures of a model that has a retrained one beside it.
AGAINST_RETRAINED = {
    "activation_distance", "js_divergence", "rmia_auc", "rmia_auc_low", "rmia_auc_high", "rmia_tpr",
    "rmia_worst_tenth", "rmia_worst_tenth_low", "rmia_worst_tenth_high", "residual_knowledge",
}  # fmt: skip
# The issue's own words, but for the device: this machine may have no CUDA.
CIFAR_COMMAND = (
    "--num_epochs", "10", "--batch_size", "32", "--learning_rate", "0.001", "--data_dir", "./data/cifar100",
    "--log_dir", "runs", "--model", "resnet18", "--device", "auto", "--untrain", "True",
    "--weight_path", "path_to_weights.pth",
)  # fmt: skip


def parse(script: str, *flags: object) -> object:
    return PARSERS[script]().parse([str(flag) for flag in flags])


class TestCommandLine:
    @pytest.mark.parametrize("script", PARSERS)
    def test_help_shows_the_commands_and_every_flag(self, script):
        done = fork(script, "--help")
        assert done.status == 0 and done.err == ""
        assert f"python {script} --" in done.out
        for field in dataclasses.fields(PARSERS[script]().args_class):
            assert f"--{field.name} " in done.out

    def test_lists_take_words_and_yaml(self):
        assert parse("test.py", "--weight_path", "a.pt", "b.pt", "--seed", 1).weight_path == ["a.pt", "b.pt"]
        assert parse("train.py", "--mean", 0.5, 0.4, 0.3).mean == parse("train.py", "--mean=[.5,.4,.3]").mean

    def test_a_share_in_a_file_is_text(self, tmp_path):
        (tmp_path / "config.yaml").write_text("validation: 0.2\n")
        assert parse(UNLEARN, "--config_file", tmp_path / "config.yaml").validation == "0.2"

    def test_the_command_on_cifar100_means_what_it_says(self):
        args = parse(UNLEARN, *CIFAR_COMMAND)
        assert (args.num_epochs, args.batch_size, args.learning_rate) == (10, 32, 0.001)
        assert (args.data_dir, args.log_dir, args.model) == ("./data/cifar100", "runs", "resnet18")
        assert (args.device, args.untrain, args.weight_path) == ("auto", True, "path_to_weights.pth")


class TestTrain:
    def test_leaves_weights_splits_and_report(self, original):
        names = {path.name.split(".1")[0] for path in original.folder.iterdir()}
        assert names == {
            "config.yaml", "environment.json", "splits.npz", "metrics.jsonl", "checkpoint.pt", "model.pt",
            "preprocessing.json",
            "report.json", "events.out.tfevents",
        }  # fmt: skip
        report = report_of(original.folder)
        assert set(report["models"]["original"]) == FIGURES
        assert report["cost"]["original"]["images"] == 2 * len(np.load(original.folder / "splits.npz")["train"])
        assert original.done.err == "" and str(original.folder / "model.pt") in original.done.out

    def test_tensorboard_has_its_flags_and_final_figures(self, original):
        assert {"dataset", "model", "num_epochs", "learning_rate", "forget", "seed"} <= hparams_of(original.folder)
        assert "final/test_top1" in events_of(original.folder).Tags()["scalars"]
        assert not unexplained_tags(original.folder)
        assert re.fullmatch(r"train-original-random_40-\d{8}-\d{6}", original.folder.name)

    def test_images_in_host_memory_train_the_same_weights(self, original, tmp_path):
        flags = ("--config_file", original.folder / "config.yaml", "--data_on_device", "no", "--log_dir", tmp_path)
        assert fork("train.py", *flags).status == 0
        assert_same_weights(weights_of(only(tmp_path)), weights_of(original.folder))

    def test_retain_only_leaves_the_forget_set_out(self, original, tmp_path):
        flags = (*SMALL, "--splits", original.folder / "splits.npz", "--num_epochs", 1, "--log_dir", tmp_path)
        done = fork("train.py", "--retain_only", *flags)
        assert done.status == 0 and done.err == ""
        report = report_of(only(tmp_path))
        assert set(report["models"]) == {"retrained"}
        assert report["cost"]["retrained"]["images"] == len(np.load(original.folder / "splits.npz")["retain"])


class TestUnlearn:
    def test_leaves_a_complete_run_folder(self, quickstart):
        names = {path.name.split(".1")[0] for path in quickstart.folder.iterdir()}
        assert names >= {
            "config.yaml", "environment.json", "splits.npz", "metrics.jsonl", "checkpoint.pt", "report.json",
            "events.out.tfevents", {0: "model.pt", 3: "infeasible.pt", 4: "not_forgotten.pt"}[quickstart.done.status],
        }  # fmt: skip
        assert not [name for name in names if name.startswith(".")]
        assert {"python", "torch", "cpu"} <= set(json.loads((quickstart.folder / "environment.json").read_text()))

    def test_reports_by_the_schema(self, quickstart):
        report = report_of(quickstart.folder)
        verdict = report["verdict"]
        assert set(verdict) == VERDICT
        assert quickstart.done.status == status_of(verdict)
        assert list(report["models"]) == ["original", "unlearned", "retrained"]
        for name, figures in report["models"].items():
            others = (set() if name == "retrained" else AGAINST_RETRAINED) | (EXPOSURE if name != "original" else set())
            assert set(figures) == FIGURES | others
            assert all(isinstance(value, float) for value in figures.values())
        fall = report["models"]["original"]["retain_top1"] - report["models"]["unlearned"]["retain_top1"]
        assert verdict["slack"] == pytest.approx(verdict["retain_budget"] - fall)
        for cost in report["cost"].values():
            assert set(cost) == {"seconds", "gradient_steps", "images", "peak_memory_bytes"}
            assert all(value > 0 for value in cost.values())
        assert set(report["cost"]) == set(report["models"])

    def test_prints_tables_verdict_and_places(self, quickstart):
        printed = quickstart.done.out
        for text in ("original", "unlearned", "retrained", "gap of unlearned", "retain top-1", "seconds", "gradient"):
            assert text in printed
        verdict = report_of(quickstart.folder)["verdict"]
        assert f"verdict  {verdict['outcome']}: retain accuracy" in printed
        page = (quickstart.folder / "report.html").read_text()
        assert verdict["outcome"][1:] in page
        assert f"of the {verdict['retain_budget']:g} allowed" in printed
        assert str(quickstart.folder / "report.json") in printed
        assert f"tensorboard --logdir {quickstart.folder.parent}" in printed
        assert quickstart.done.err == ""

    def test_tensorboard_reads_its_events(self, quickstart):
        events = events_of(quickstart.folder)
        tags = events.Tags()
        for group in ("retain/", "forget/", "unseen/", "validation/", "constraint/", "gradient/norm"):
            assert any(tag.startswith(group) for tag in tags["scalars"]), group
        assert {"constraint/violation", "constraint/multiplier"} <= set(tags["scalars"])
        assert {"forget/losses", "unseen/losses"} <= set(tags["histograms"])
        assert len(events.Histograms("forget/losses")) == 3  # epochs of both stages
        assert tags["graph"] and "forget/images" not in tags["images"]
        shown = hparams_of(quickstart.folder)
        assert {"dataset", "forget", "method", "retain_budget"} <= shown and "num_epochs" in shown
        assert "final/forget_top1" in tags["scalars"] and not unexplained_tags(quickstart.folder)
        assert re.fullmatch(r"unlearning-constrained-mislabelled_0\.1-\d{8}-\d{6}", quickstart.folder.name)

    def test_tensorboard_shows_what_the_record_holds(self, quickstart):
        assert scalars_of(quickstart.folder) == recorded_scalars(quickstart.folder)

    def test_from_weights_it_uses_the_splits_beside_them(self, original, tmp_path):
        weights = original.folder / "model.pt"
        flags = (*SMALL, "--weight_path", weights, "--retrained_weight_path", weights, "--use_sam", "--num_epochs", 1)
        flags = (*flags, "--judged_retain_images", 50)
        done = fork(UNLEARN, *flags, "--log_dir", tmp_path, "--name_prefix", "mine")
        assert done.status in (0, 3, 4) and done.err == ""
        folder = only(tmp_path)
        assert folder.name.startswith("mine-")
        report = report_of(folder)
        assert report["splits_sha256"] == str(np.load(original.folder / "splits.npz")["sha256"])
        assert report["forget"]["request"] == "random:40" and report["forget"]["images"] == 40
        assert report["judged_retain_images"] == 50 and report["verdict"]["margin"] >= 0
        # Neither of the two models that it was given was made in this run.
        assert set(report["cost"]) == {"unlearned"}
        assert report["avg_gap"]["original"] == 0
        assert yaml.safe_load((folder / "config.yaml").read_text())["use_sam"] is True

    def test_pictures_of_two_classes(self, tmp_path):
        """Where guessing is right half of the time, good weights are no worse than twice a guess."""
        draw = np.random.default_rng(0)
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "pictures" / name).mkdir(parents=True)
            for number in range(40):
                pixels = draw.integers(0, 100, (8, 8, 3)) + 150 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{number}.png")
        data = ("--data_dir", tmp_path / "pictures", "--image_size", 8, *SMALL)
        done = fork(
            "train.py", *data, "--forget", "random:4images", "--validation", 0.3, "--batch_size", 8, "--num_epochs", 4,
            "--log_dir", tmp_path / "original",
        )  # fmt: skip
        assert done.status == 0, done.err
        weights = only(tmp_path / "original") / "model.pt"
        flags = ("--weight_path", weights, "--num_epochs", 1, "--log_dir", tmp_path / "unlearned")
        done = fork(UNLEARN, *data, *flags)
        assert done.status in (0, 3, 4), done.err

    def test_the_command_on_cifar100_works_word_for_word(self, tmp_path):
        log_dir = tmp_path / "runs"
        command = [str(log_dir) if flag == "runs" else flag for flag in CIFAR_COMMAND]
        command[-1] = str(tmp_path / "path_to_weights.pth")
        done = fork(UNLEARN, *command, before=partial(pretend_cifar100, command[-1]))
        assert done.status in (0, 3, 4) and done.err == ""
        report = report_of(only(log_dir))
        assert report["final_test"] == "half of official test" and report["forget"]["request"] == "random:0.1"
        assert set(report["models"]) == {"original", "unlearned"} and set(report["cost"]) == {"unlearned"}


class TestJudge:
    def test_several_weights_and_a_floor(self, original, quickstart, tmp_path):
        weights = (original.folder / "model.pt", result_weights(quickstart.folder))
        output = tmp_path / "figures.json"
        done = fork("test.py", *SMALL, "--weight_path", *weights, "--output", output)
        assert done.status == 0 and done.err == ""
        models = json.loads(output.read_text())["models"]
        assert list(models) == [*map(str, weights), "re-initialised"]
        for figures in models.values():
            assert set(figures) == FIGURES
            low, value, high = (figures[f"discriminator_auc{end}"] for end in ("_low", "", "_high"))
            assert 0 <= low < value < high <= 1
        row = done.out.splitlines().index(next(line for line in done.out.splitlines() if "discriminator AUC" in line))
        values, intervals = (line.split() for line in done.out.splitlines()[row : row + 2])
        assert values[2:] == [f"{figures['discriminator_auc']:.3f}" for figures in models.values()]
        assert intervals[:3] == ["95", "%", "interval"] and intervals[3:] == [
            f"{figures['discriminator_auc_low']:.3f}–{figures['discriminator_auc_high']:.3f}"
            for figures in models.values()
        ]
        expected = report_of(original.folder)["models"]["original"]
        assert models[str(weights[0])] == pytest.approx(expected)
        assert models["re-initialised"]["test_top1"] < expected["test_top1"]
        for text in ("retain top-1", "test top-5", "membership attack AUC", "forget   random:40"):
            assert text in done.out
        assert set(contents(tmp_path)) == {"figures.json"}


class TestResume:
    # 11 steps an epoch for the original, 10 for the retrained model, 5 for each of the three epochs of unlearning.
    KILLED_AT = {
        "the original's second epoch": 11 + 5,
        "the retrained model's second epoch": 11 + 10 + 3,
        "the first epoch of forgetting": 10 + 3,
        "the second epoch of forgetting": 5 + 2,
        "constrained fine-tuning": 5 + 3,
    }

    def test_killed_again_and_again_it_ends_as_if_it_had_never_stopped(self, quickstart, tmp_path):
        """The run's own config.yaml starts it anew, so this is a test of its reproducing the run as well."""
        flags = ("--config_file", quickstart.folder / "config.yaml", "--log_dir", tmp_path)
        for moment, step in self.KILLED_AT.items():
            done = fork(UNLEARN, *flags, before=partial(signal_at, step))
            assert done.status == -signal.SIGKILL, (moment, done)
            flags = ("--resume", only(tmp_path))
        done = fork(UNLEARN, *flags)
        assert done.status == quickstart.done.status and done.err == ""
        folder = only(tmp_path)
        for name in (None, "original.pt", "retrained.pt"):
            assert_same_weights(weights_of(folder, name), weights_of(quickstart.folder, name))
        assert figures_of(folder) == figures_of(quickstart.folder)
        assert scalars_of(folder) == recorded_scalars(folder)
        ours, theirs = report_of(folder), report_of(quickstart.folder)
        assert ours["models"] == theirs["models"] and ours["verdict"] == theirs["verdict"]
        for name, cost in ours["cost"].items():
            assert cost["gradient_steps"] == theirs["cost"][name]["gradient_steps"]
        configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in (folder, quickstart.folder)]
        assert configs[0] == configs[1] | {"log_dir": str(tmp_path)}

    def test_a_list_that_was_edited_meanwhile_changes_nothing(self, tmp_path):
        listed = tmp_path / "list.txt"
        trained_on = make_splits(load_dataset("digits", tmp_path), None).train[:40].tolist()
        listed.write_text("\n".join(map(str, trained_on)))
        flags = ("--model", "resnet8", "--width", 1, "--num_epochs", 2, "--retain_only", "--forget", f"file:{listed}")
        done = fork("train.py", *flags, "--log_dir", tmp_path / "runs", before=partial(signal_at, 15))
        assert done.status == -signal.SIGKILL
        folder = only(tmp_path / "runs")
        splits = (folder / "splits.npz").read_bytes()
        listed.write_text("\n".join(listed.read_text().splitlines()[1:]))
        assert fork("train.py", "--resume", folder).status == 0
        assert (folder / "splits.npz").read_bytes() == splits


class TestBesideOthers:
    def test_a_reader_who_leaves_ends_the_run_without_a_word(self, tmp_path):
        done = fork("train.py", *SMALL, "--log_dir", tmp_path, before=partial(print_into, None))
        assert done.status == 128 + signal.SIGPIPE and done.err == ""

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
    def test_output_that_cannot_be_written_is_one_line(self, tmp_path):
        done = fork("train.py", *SMALL, "--log_dir", tmp_path, before=partial(print_into, "/dev/full"))
        assert_refused(done, "train.py", "No space left on device")


@pytest.mark.parametrize("part", ["easy", "even", "hard"])
def test_a_run_says_so_where_its_forget_set_is_no_random_one(part, original, tmp_path):
    flags = [*map(str, SMALL), "--splits", str(original.folder / "splits.npz")]
    experiment = Experiment(train.get_parser().parse(flags))
    images = experiment.splits.train
    model = experiment.model(str(original.folder / "model.pt"))
    logits, labels = predict(model, experiment.sets.evaluation(images), experiment.precision)
    order = F.cross_entropy(logits, labels, reduction="none").argsort(descending=part == "hard")
    chosen = order[:: len(order) // 100 + 1] if part == "even" else order[:100]
    (tmp_path / "list.txt").write_text("\n".join(map(str, images[chosen].tolist())) + "\n")
    done = fork(
        UNLEARN, *SMALL, "--weight_path", original.folder / "model.pt", "--num_epochs", 1,
        "--forget", f"file:{tmp_path / 'list.txt'}", "--judge", "validation", "--figures", "False",
        "--log_dir", tmp_path / "runs",
    )  # fmt: skip
    assert done.status in (0, 3, 4) and done.err == ""
    said = [line for line in done.out.splitlines() if line.startswith("ranks    ")]
    if part == "even":
        assert said == []
    else:
        (line,) = said
        mean = float(line.partition("losses: ")[2].split()[0])
        assert mean < 0.4 if part == "easy" else mean > 0.6


def pretend_cifar100(weight_path: str) -> None:
    """In this process ten colours take the place of CIFAR-100, and a ResNet-18 that knows them is saved.

    Checkpoints are left out, as they take more time than everything else.
    """
    import data.arguments
    from data.datasets import Dataset
    from helper_functions.record import RunRecord
    from models import get_model

    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat(10)
    colours = torch.randint(0, 256, (10, 3, 1, 1), generator=draw)
    noise = torch.randint(-20, 21, (len(labels), 3, 32, 32), generator=draw)
    images = (colours[labels] + noise).clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    names, half = tuple(map(str, range(10))), (0.5, 0.5, 0.5)
    dataset = Dataset("cifar100", images, labels, names, num_train=60, mean=half, std=half)
    data.arguments.load_dataset = lambda *_, **__: dataset
    RunRecord.save_checkpoint = lambda *_: None

    torch.manual_seed(0)
    model = get_model("resnet18", 10).eval()
    body = torch.nn.Sequential(*list(model.children())[:-1], torch.nn.Flatten())
    with torch.no_grad():
        features = torch.cat([body(images[:60] / 127.5 - 1), torch.ones(60, 1)], 1)
        goals = 10.0 * torch.nn.functional.one_hot(labels[:60])
        head = torch.linalg.lstsq(features, goals, driver="gelsd").solution
        model.fc.weight.copy_(head[:-1].T)
        model.fc.bias.copy_(head[-1])
    torch.save(model.state_dict(), weight_path)
