"""Weights of a run bring their data and their model along, where no flag names others."""

import types

import pytest
import yaml
from processes import run

import test as test_script
import train_constrained_unlearning
import train_contrastive
from helper_functions.errors import UserError
from unlearning.known_weights import described

SCRIPTS = {
    "train_constrained_unlearning.py": train_constrained_unlearning,
    "train_contrastive.py": train_contrastive,
    "test.py": test_script,
}
OWN = {
    "dataset": "imagefolder", "data_dir": "photos", "image_size": 48, "skip_unreadable": True, "mean": [0.1, 0.2, 0.3],
    "std": None, "model": "resnet8", "stem": "cifar", "width": 4, "learning_rate": 0.5,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A run folder as far as weights are concerned."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(OWN))
    (tmp_path / "splits.npz").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS)
class TestFlags:
    def parsed(self, script, folder, *flags):
        return SCRIPTS[script].get_parser().parse([*flags, "--weight_path", str(folder / "model.pt")])

    def test_data_and_model_are_the_runs_and_nothing_else(self, script, folder):
        args = self.parsed(script, folder)
        assert {name: getattr(args, name) for name in OWN if name != "learning_rate"} == {
            name: value for name, value in OWN.items() if name != "learning_rate"
        }
        assert getattr(args, "learning_rate", None) != 0.5

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--width", "8"], {**OWN, "width": 8}),
            (["--model", "resnet18"], {**OWN, "model": "resnet18"}),
            (["--data_dir", "moved"], {**OWN, "dataset": "auto", "data_dir": "moved"}),
            (["--dataset", "imagefolder"], OWN),
            (["--dataset", "digits"], {
                "dataset": "digits", "data_dir": None, "image_size": None, "skip_unreadable": False, "mean": None,
                "model": "resnet8",
            }),
        ],
    )  # fmt: skip
    def test_a_flag_comes_before_them(self, script, folder, flags, expected):
        args = self.parsed(script, folder, *flags)
        assert {name: getattr(args, name) for name in expected if name != "learning_rate"} == {
            name: value for name, value in expected.items() if name != "learning_rate"
        }

    def test_a_configuration_comes_before_them(self, script, folder, tmp_path):
        (tmp_path / "mine.yaml").write_text("width: 8\n")
        args = self.parsed(script, folder, "--config_file", str(tmp_path / "mine.yaml"))
        assert args.width == 8 and args.model == "resnet8"

    @pytest.mark.parametrize("gone", ["config.yaml", "splits.npz"])
    def test_weights_from_elsewhere_bring_nothing(self, script, folder, gone):
        (folder / gone).unlink()
        args = self.parsed(script, folder)
        assert args.model == "resnet18" and args.dataset == "auto"

    def test_a_value_that_cannot_be_is_named(self, script, folder):
        (folder / "config.yaml").write_text(yaml.safe_dump({**OWN, "width": -3}))
        with pytest.raises(UserError, match="config.yaml of the earlier run: .*width"):
            self.parsed(script, folder)


def test_another_programs_configuration_is_none(folder):
    (folder / "config.yaml").write_text("model: {name: vit}\n")
    assert described(str(folder / "model.pt"), types.SimpleNamespace(dataset="auto", data_dir=None)) == {}
    assert described(None, types.SimpleNamespace(dataset="auto", data_dir=None)) == {}


def test_a_run_is_judged_by_the_name_of_its_weights_alone(quickstart):
    done = run("test.py", "--weight_path", quickstart.folder / "model.pt")
    assert done.status == 0 and done.err == ""
    assert "data     digits: " in done.out
