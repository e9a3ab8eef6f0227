"""Every request that cannot be met ends with exit status 2 and one line, before any work, and changes no file.

What each parser refuses is tested without a script: test_config (flags and YAML), test_data_forget, test_data_splits.
"""

import pickle
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.guard import Payload
from helpers.processes import SMALL, Done, assert_refused, become_nobody, contents, fork, limit_file_size, only, run

import test
import train
import train_constrained_unlearning
import train_contrastive
from helper_functions.config import run_script
from helper_functions.record import RunRecord
from models import get_model

UNLEARN = "train_constrained_unlearning.py"
CONTRASTIVE = "train_contrastive.py"
SCRIPTS = {"train.py": train, UNLEARN: train_constrained_unlearning, CONTRASTIVE: train_contrastive, "test.py": test}
NO_CUDA = not torch.cuda.is_available()


@pytest.fixture
def place(tmp_path, original) -> Path:
    """A folder with an earlier run in `runs`, where a test puts its bad files."""
    shutil.copytree(original.folder, tmp_path / "runs" / original.folder.name)
    return tmp_path


@pytest.fixture
def refuse(place, monkeypatch, capsys):
    """Run a script and check that it refuses in a line that has certain parts, and that no file has changed.

    In a fork of its own, or, where its arguments are all that matters, `here`, which takes less time.
    """

    def check(script: str, *flags: object, says: list[object], here: bool = False) -> None:
        earlier = contents(place)
        if script != "test.py" and "--resume" not in flags:
            flags = ("--log_dir", place / "runs", *flags)
        if here:
            # The script has its own, which is not meant for pytest.
            monkeypatch.setattr("threading.excepthook", threading.excepthook)
            monkeypatch.setattr("sys.argv", [script, *map(str, flags)])
            capsys.readouterr()
            done = Done(run_script(SCRIPTS[script].get_parser, SCRIPTS[script].main), *capsys.readouterr())
        else:
            done = fork(script, *flags)
        assert_refused(done, script, *says)
        assert done.out == ""
        assert contents(place) == earlier

    return check


class TestCommandLine:
    def test_a_fresh_interpreter_says_one_line(self, tmp_path):
        """As users start it: no import prints or fails."""
        done = run("train.py", "--num_epoch", 3, "--log_dir", tmp_path / "runs")
        assert_refused(done, "train.py", "--num_epoch 3")
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("script", SCRIPTS)
    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--nonsense", 3], ["--nonsense 3"]),
            (["--name_pre=abbreviated"], ["--name_pre=abbreviated"]),
            (["--width", 0], ["--width", "a whole number above 0"]),
            (["--seed", 2**64], ["--seed", 2**64]),
            (["--dataset", "mnist"], ["--dataset", "mnist", "imagefolder"]),
            (["--mean", 0.5, "nan"], ["--mean", "nan"]),
            (["--std", -0.5], ["--std", -0.5]),
        ],
    )
    def test_flags(self, refuse, script, flags, says):
        refuse(script, *flags, says=says, here=True)

    @pytest.mark.parametrize("flag", [
        "learning_rate", "retain_budget", "rho", "dual_learning_rate", "weight_decay", "discriminator_learning_rate",
        "discriminator_steps", "group_size",
    ])  # fmt: skip
    @pytest.mark.parametrize("number", ["-1", "nan", "1e999"])
    def test_numbers(self, refuse, flag, number):
        refuse(UNLEARN, f"--{flag}", number, says=[f"--{flag}", number], here=True)

    @pytest.mark.parametrize("flag", ["--resume", "--log_dir", "--name_prefix", "--sync_bn", "--log_interval"])
    def test_what_only_runs_have(self, refuse, flag):
        refuse("test.py", flag, 1, says=[f"{flag} 1: no such flag"], here=True)

    @pytest.mark.parametrize("script", ["train.py", UNLEARN, CONTRASTIVE])
    def test_values_known_when_the_script_runs(self, refuse, script):
        refuse(script, "--model", "resnet9", says=["resnet9", "did you mean resnet8"])
        refuse(script, *SMALL, "--name_prefix", "../outside", says=["--name_prefix ../outside"])
        refuse(script, "--device", "nonsense", says=["--device nonsense"])
        refuse(script, "--device", "cuda:99", says=["--device cuda:99"])

    @pytest.mark.skipif(not NO_CUDA, reason="this machine has CUDA")
    @pytest.mark.parametrize("script", SCRIPTS)
    def test_cuda_where_there_is_none(self, refuse, place, original, script):
        weights = () if script == "train.py" else ("--weight_path", original.folder / "model.pt")
        refuse(script, *SMALL, *weights, "--device", "cuda", says=["--device cuda", "--device auto"])

    @pytest.mark.parametrize("mean", [[0.5, 0.5, 0.5], [0.5, 0.5]])
    def test_normalisation_of_other_channels(self, refuse, original, mean):
        flags = (*SMALL, "--weight_path", original.folder / "model.pt")
        refuse(UNLEARN, *flags, "--mean", *mean, says=["--mean", mean, "1 channel"])
        refuse(UNLEARN, *flags, "--std", *mean, says=["--std", mean, "1 channel"])


class TestConfigFile:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("nonsense: 3", ["nonsense"]),
            ("seed: 1\nseed: 2", ["seed", "twice"]),
            ("just words", ["mapping"]),
            ("seed: [", ["no valid YAML"]),
            ("seed: !!python/object/apply:os.mkdir [{folder}/payload]", ["os.mkdir"]),
            ("learning_rate: .nan", ["--learning_rate", "nan"]),
            ("device: nonsense", ["--device nonsense"]),
        ],
    )
    def test_content(self, refuse, place, text, says):
        config = place / "config.yaml"
        config.write_text(text.replace("{folder}", str(place)))
        file = [config] if "device" not in text else []
        refuse("train.py", "--config_file", config, says=[*file, *says], here=True)
        assert not (place / "payload").exists()

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_files_that_cannot_be_read(self, refuse, place, script):
        (place / "config.yaml").write_bytes(b"\xff\xfe\x00")
        refuse(script, "--config_file", place / "config.yaml", says=["config.yaml", "not a text file"], here=True)
        refuse(script, "--config_file", place / "absent.yaml", says=["absent.yaml", "No such file"], here=True)
        refuse(script, "--config_file", place, says=[place, "Is a directory"], here=True)


class TestWeights:
    """With the data and the splits of the run that made the good weights."""

    @pytest.fixture
    def refuse_weights(self, refuse, place, original):
        def check(content: object, *says: object) -> None:
            path = place / "weights.pt"
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
            splits = ("--splits", original.folder / "splits.npz")
            refuse(UNLEARN, *SMALL, *splits, "--weight_path", path, says=[path, *says])

        return check

    def test_wherever_they_are_named(self, refuse, place, original):
        (place / "weights.pt").write_bytes(b"not weights")
        good, bad = original.folder / "model.pt", place / "weights.pt"
        refuse(UNLEARN, *SMALL, "--weight_path", good, "--retrained_weight_path", bad, says=[bad])
        refuse("test.py", *SMALL, "--weight_path", good, bad, says=[bad])

    def test_missing(self, refuse, place, original):
        for path, true in ((place / "absent.pt", "there is no such file"), (place, "it is a folder")):
            for script in (UNLEARN, "test.py"):
                refuse(script, *SMALL, "--weight_path", path, says=[f"--weight_path {path}: {true}"])
        refuse("test.py", says=["--weight_path"])

    def test_text_is_told_apart_before_the_data_are_read(self, refuse):
        for script in (UNLEARN, CONTRASTIVE, "test.py"):
            refuse(script, *SMALL, "--weight_path", "README.md", says=["--weight_path README.md: ", "another kind"])

    def test_damaged(self, refuse_weights, original):
        whole = (original.folder / "model.pt").read_bytes()
        for part in (b"", whole[: len(whole) // 2], b"not weights"):
            refuse_weights(part, "no readable checkpoint")

    def test_a_payload_does_not_run(self, refuse_weights, refuse, place, original):
        payload = Payload(place / "payload")
        refuse_weights(pickle.dumps(payload), "no readable checkpoint")
        refuse_weights({"fc.weight": payload}, "no readable checkpoint")
        splits = dict(np.load(original.folder / "splits.npz"))
        np.savez(place / "splits.npz", **{**splits, "train": np.array([payload], dtype=object)})
        refuse("train.py", *SMALL, "--splits", place / "splits.npz", says=["splits.npz", "damaged"])
        assert not (place / "payload").exists()

    def test_near_chance(self, refuse_weights):
        torch.manual_seed(0)
        weights = get_model("resnet8", 10, 1, width=4).state_dict()
        refuse_weights(weights, "by guessing", "--mean 0.3", "--class_order", "--stem auto", "--transform")

    def test_trained_without_another_forget_set(self, refuse, original):
        weights = original.folder / "model.pt"
        flags = ("--weight_path", weights, "--retrained_weight_path", weights, "--forget", "class:3")
        refuse(UNLEARN, *SMALL, *flags, says=["--retrained_weight_path", weights, "another forget set"])

    def test_a_retrained_model_both_given_and_asked_for(self, refuse, original):
        weights = original.folder / "model.pt"
        flags = ("--weight_path", weights, "--retrained_weight_path", weights, "--retrain", "--train_num_epochs", 1)
        refuse(UNLEARN, *SMALL, *flags, says=["--retrain", "--retrained_weight_path"])

    def test_foreign_weights_without_a_list_of_what_they_never_saw(self, refuse, place, original):
        (place / "weights.pt").write_bytes((original.folder / "model.pt").read_bytes())
        flags = (*SMALL, "--weight_path", place / "weights.pt")
        refuse(UNLEARN, *flags, says=["--validation file:PATH"])
        refuse(UNLEARN, *flags, "--forget", "mislabelled:0.1", says=["mislabelled:0.1", "elsewhere"])


class TestData:
    @pytest.mark.parametrize(
        ("request_", "says"),
        [
            ("random:99999", ["leave some to be retained"]),
            ("class:banana", ["banana"]),
            ("everything", ["everything"]),
            ("file:/nowhere/list.txt", ["/nowhere/list.txt", "No such file"]),
        ],
    )
    def test_forget_sets(self, refuse, request_, says):
        refuse(UNLEARN, *SMALL, "--forget", request_, says=says, here=True)

    def test_lists(self, refuse, place):
        (place / "list.txt").write_text("3\nbanana\n")
        request = f"file:{place}/list.txt"
        refuse("train.py", *SMALL, "--forget", request, says=["list.txt", "line 2", "banana"], here=True)

    @pytest.mark.parametrize("share", ["1", "file:/nowhere"])
    def test_held_out_shares(self, refuse, share):
        refuse("train.py", *SMALL, "--validation", share, says=[share.removeprefix("file:")], here=True)

    def test_nothing_to_leave_out(self, refuse):
        refuse("train.py", *SMALL, "--retain_only", says=["--retain_only", "--forget"])

    def test_folders(self, refuse, place):
        refuse("train.py", *SMALL, "--data_dir", place / "nowhere", says=[place / "nowhere", "--dataset"])
        imagefolder = ("--dataset", "imagefolder", "--data_dir")
        refuse("train.py", *SMALL, *imagefolder, place / "nowhere", says=[place / "nowhere", "No such file"])
        refuse("train.py", *SMALL, *imagefolder, place, says=[place, "one class folder, runs"])
        refuse("train.py", *SMALL, "--image_size", 32, says=["--image_size"])
        (place / "empty").mkdir()
        (place / "file").write_text("text")
        for flags in ((), imagefolder[:2]):
            refuse("train.py", *flags, "--data_dir", place / "file", says=[f"--data_dir {place / 'file'}: "], here=True)
        refuse("train.py", "--data_dir", place / "empty", says=["the folder is empty"], here=True)
        refuse("train.py", "--dataset", "cifar10", "--data_dir", place / "file", says=["it is a file"], here=True)

    def test_a_folder_without_permission(self, tmp_path):
        """Root may read everything, so root gives up its rights first."""
        if fork("train.py", "--help", before=become_nobody).status:
            pytest.skip("the scripts cannot be read without root's rights")
        tmp_path.chmod(0)
        for dataset in ((), ("--dataset", "imagefolder")):
            flags = (*SMALL, *dataset, "--data_dir", tmp_path, "--log_dir", tmp_path)
            assert_refused(fork("train.py", *flags, before=become_nobody), "train.py", tmp_path, "Permission denied")
        tmp_path.chmod(0o700)
        assert not list(tmp_path.iterdir())

    def test_splits(self, refuse, place, original):
        splits = ("--splits", place / "splits.npz")
        refuse("train.py", *SMALL, "--splits", place / "absent.npz", says=["absent.npz", "No such file"])
        (place / "splits.npz").write_bytes((original.folder / "splits.npz").read_bytes()[:500])
        refuse("train.py", *SMALL, *splits, says=["splits.npz", "damaged"])


class TestResume:
    def test_what_is_no_run(self, refuse, place):
        for folder, true in ((place / "nowhere", "no such folder"), (place, "no run folder")):
            refuse("train.py", "--resume", folder, says=["--resume", folder, true])

    def test_other_flags_beside_it(self, refuse, place):
        flags = ("--resume", only(place / "runs"), "--num_epochs", 3, "--seed=1")
        refuse("train.py", *flags, says=["--resume", "leave out --num_epochs and --seed"])

    def test_a_run_of_another_script(self, refuse, place):
        run_folder = only(place / "runs")
        for script in (UNLEARN, CONTRASTIVE):
            refuse(script, "--resume", run_folder, says=["--resume", run_folder, "another script"])

    @pytest.mark.parametrize(
        ("line", "says"), [("seed: soon", ["--seed", "soon"]), ("seed: 0\nextra: 1", ["another script"])]
    )
    def test_a_configuration_that_was_edited(self, refuse, place, line, says):
        config = only(place / "runs") / "config.yaml"
        config.write_text(config.read_text().replace("seed: 0", line))
        refuse("train.py", "--resume", config.parent, says=says)

    def test_a_damaged_checkpoint(self, refuse, place):
        checkpoint = only(place / "runs") / "checkpoint.pt"
        whole = checkpoint.read_bytes()
        for part in (whole[:5000], pickle.dumps(Payload(place / "payload"))):
            checkpoint.write_bytes(part)
            refuse("train.py", "--resume", checkpoint.parent, says=[checkpoint, "truncated", "start a new run"])
        assert not (place / "payload").exists()


class TestOutput:
    def test_an_existing_file_is_not_overwritten(self, refuse, place, original):
        flags = (*SMALL, "--weight_path", original.folder / "model.pt", "--output")
        (place / "figures.json").write_text("earlier")
        refuse("test.py", *flags, place / "figures.json", says=["--output", place / "figures.json"])
        refuse("test.py", *flags, place / "nowhere" / "figures.json", says=["--output", place / "nowhere"])

    @pytest.mark.parametrize("script", ["train.py", UNLEARN, CONTRASTIVE])
    def test_a_folder_for_runs_that_cannot_be_made(self, place, script):
        was = contents(place)
        file = only(place / "runs") / "config.yaml"
        assert_refused(fork(script, *SMALL, "--log_dir", file / "runs"), script, "--log_dir", file)
        assert_refused(fork(script, *SMALL, "--log_dir", file), script, "--log_dir", file)
        assert contents(place) == was


class TestFileSizeLimit:
    """A full disk, as a limit on the size of files: what stood there before stays, and no file is cut short."""

    FLAGS = ("--model", "resnet8", "--width", 2, "--forget", "random:40", "--train_num_epochs", 1, "--num_epochs", 1)

    LIMITS = {500: "config.yaml", 2_500: "splits.npz", 12_000: "checkpoint.pt"}

    @pytest.mark.parametrize("limit", LIMITS)
    def test_of_whole_files(self, place, limit):
        earlier, name = contents(place), self.LIMITS[limit]
        done = fork(UNLEARN, *self.FLAGS, "--log_dir", place / "runs", before=partial(limit_file_size, limit))
        assert_refused(done, UNLEARN, name, "existing files have not changed")
        assert "--resume" not in done.err  # there is no checkpoint
        now = contents(place)
        assert now.items() >= earlier.items()
        assert not [found for found in now.keys() - earlier.keys() if name in found]

    def test_of_tensorboard(self, tmp_path):
        """Its writer thread meets the limit; the script ends with its error."""
        done = fork(UNLEARN, *self.FLAGS, "--log_dir", tmp_path, before=let_events_alone_meet_the_limit)
        assert_refused(done, UNLEARN, "File too large")
        assert (only(tmp_path) / "report.json").exists()


def let_events_alone_meet_the_limit() -> None:
    """In this process no file but TensorBoard's would become as long as the limit."""
    RunRecord.save_checkpoint = lambda *_: None
    limit_file_size(75_000)
