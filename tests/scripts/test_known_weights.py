"""Weights of an earlier run imply its data and model, unless flags name others."""

import types

import numpy as np
import pytest
import yaml
from helpers.processes import fork

import test as test_script
import train_constrained_unlearning
import train_contrastive
from data.split_record import LONGEST_NAME
from helper_functions.errors import UserError
from helper_functions.run_folder import result_weights
from unlearning.known_weights import described

SCRIPTS = {
    "train_constrained_unlearning.py": train_constrained_unlearning,
    "train_contrastive.py": train_contrastive,
    "test.py": test_script,
}
MODEL = {"model": "resnet8", "stem": "cifar", "width": 4}
TREATMENT = {"image_size": [48, 48], "resize": "squash", "skip_unreadable": True, "mean": [0.1, 0.2, 0.3], "std": None}
TREATMENT |= {"labels": "superclass"}
RUN = {**MODEL, **TREATMENT, "dataset": "auto", "data_dir": "photos", "learning_rate": 0.5}
ASKED = types.SimpleNamespace(dataset="auto", data_dir=None, model="resnet18", transform=None)
NOTHING = {"image_size": None, "resize": None, "skip_unreadable": False, "mean": None, "labels": "fine"}


def write(folder, **changes) -> None:
    """A run folder as far as weights are concerned."""
    (folder / "config.yaml").write_text(yaml.safe_dump({**RUN, **changes}))
    np.savez(folder / "splits.npz", dataset=np.array("imagefolder"))


@pytest.mark.parametrize("script", SCRIPTS)
class TestFlags:
    def expect(self, script, folder, *flags, **expected):
        args = SCRIPTS[script].get_parser().parse([*flags, "--weight_path", str(folder / "model.pt")])
        assert {name: getattr(args, name) for name in expected} == expected
        assert getattr(args, "learning_rate", None) != RUN["learning_rate"]

    @pytest.mark.parametrize("named", ["auto", "imagefolder"])
    def test_data_and_model_are_the_runs(self, script, named, tmp_path):
        write(tmp_path, dataset=named)
        self.expect(script, tmp_path, **MODEL, **TREATMENT, dataset=named, data_dir="photos")
        # The same data set, by its name or where it lies now.
        again = {**MODEL, **TREATMENT, "dataset": "imagefolder"}
        self.expect(script, tmp_path, "--dataset", "imagefolder", **again, data_dir="photos")
        self.expect(script, tmp_path, "--data_dir", "moved", **again, data_dir="moved")

    def test_of_another_data_set_the_model_is(self, script, tmp_path):
        write(tmp_path)
        self.expect(script, tmp_path, "--dataset", "digits", **MODEL, **NOTHING, dataset="digits", data_dir=None)
        known = str(tmp_path / "cifar10")
        self.expect(script, tmp_path, "--data_dir", known, **MODEL, **NOTHING, dataset="auto", data_dir=known)

    def test_flags_and_configurations_come_first(self, script, tmp_path):
        write(tmp_path)
        self.expect(script, tmp_path, "--width", "8", **{**MODEL, **TREATMENT, "width": 8})
        self.expect(script, tmp_path, "--model", "resnet18", "--mean", ".5", model="resnet18", width=4, mean=[0.5])
        (tmp_path / "mine.yaml").write_text("width: 8\n")
        self.expect(script, tmp_path, "--config_file", str(tmp_path / "mine.yaml"), **{**MODEL, "width": 8})

    @pytest.mark.parametrize("gone", ["config.yaml", "splits.npz"])
    def test_weights_from_elsewhere_bring_nothing(self, script, gone, tmp_path):
        write(tmp_path)
        (tmp_path / gone).unlink()
        self.expect(script, tmp_path, **NOTHING, model="resnet18", dataset="auto", data_dir=None)

    def test_a_value_that_cannot_be_is_named(self, script, tmp_path):
        write(tmp_path, width=-3)
        (tmp_path / "mine.yaml").write_text("seed: 3\n")
        for flags in ((), ("--config_file", str(tmp_path / "mine.yaml"))):
            with pytest.raises(UserError, match="^config.yaml of the earlier run: .*width"):
                self.expect(script, tmp_path, *flags)


@pytest.mark.parametrize("content", ["model: {name: vit}\n", yaml.safe_dump(MODEL)])
def test_another_programs_configuration_is_none(content, tmp_path):
    write(tmp_path)
    (tmp_path / "config.yaml").write_text(content)
    assert described(str(tmp_path / "model.pt"), ASKED) == {}


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", {"labels": 1}, {"dataset": "x" * LONGEST_NAME}])
def test_splits_that_name_no_data_set_are_none(content, tmp_path):
    write(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "splits.npz").write_bytes(content)
    else:
        np.savez(tmp_path / "splits.npz", **{name: np.array(value) for name, value in content.items()})
    assert described(str(tmp_path / "model.pt"), ASKED) == {}


def test_a_run_is_judged_by_the_name_of_its_weights_alone(quickstart):
    done = fork("test.py", "--weight_path", result_weights(quickstart.folder))
    assert done.status == 0 and done.err == ""
    assert "data     digits: " in done.out
