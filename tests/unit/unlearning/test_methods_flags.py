"""Methods from outside: flags that are refused and followed, and own values."""

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_contrastive
from helper_functions.config import ScriptParser, run_script
from helper_functions.errors import UserError
from train_constrained_unlearning import get_parser, main
from unlearning.arguments import MethodArgs, PublishedArgs, UnlearnArgs, batch_sizes, stage_epochs
from unlearning.experiment import Experiment
from unlearning.methods import METHODS, check_method, defaults_of
from unlearning.setup import settings_from


@pytest.fixture(scope="module")
def parser() -> ScriptParser:
    """The main script's, which takes longer to build than to use."""
    return get_parser()


def flags_of(method) -> list[tuple[str, object]]:
    """Every flag that means nothing to a method, with a value that it could have elsewhere."""
    others = {
        "num_epochs": 3, "learning_rate": 0.5, "multiplier": 3.0, "finetune_num_epochs": 2, "use_sam": True,
        "bn": "train", "solver": "penalty", "stop_criterion": "unlearning",
        **{field.name: 1.0 for field in dataclasses.fields(PublishedArgs) if field.name != "msteps"}, "msteps": 3,
    }  # fmt: skip
    changes = {name: value for name, value in others.items() if getattr(MethodArgs(), name) != value}
    return [(name, value) for name, value in changes.items() if name not in METHODS[method].follows]


class TestFlags:
    @pytest.mark.parametrize("method", METHODS)
    def test_those_that_mean_nothing_to_a_method_are_refused(self, method):
        assert flags_of(method)
        check_method(method, MethodArgs(**defaults_of(method)), "unseen")
        for name, value in flags_of(method):
            with pytest.raises(UserError, match=f"^--{name} .*{method}"):
                check_method(method, MethodArgs(**{**defaults_of(method), name: value}), "unseen")

    @pytest.mark.parametrize("method", METHODS)
    def test_those_that_a_method_has_of_its_own_are_followed(self, method):
        fields = {field.name for field in dataclasses.fields(MethodArgs)}
        assert set(defaults_of(method)) <= METHODS[method].follows <= fields

    @pytest.mark.parametrize(
        ("method", "flag", "value"),
        [("scrub", "multiplier", "3"), ("ssd", "num_epochs", "3"), ("neggrad_plus", "msteps", "3"),
         ("constrained", "mask_share", "0.3"), ("delete", "finetune_num_epochs", "1")],
    )  # fmt: skip
    def test_on_the_command_line_with_one_line_and_status_2_before_any_work(
        self, method, flag, value, tmp_path, monkeypatch, capsys
    ):
        flags = ["--dataset", "digits", "--model", "resnet8", "--width", "2", "--log_dir", str(tmp_path / "runs")]
        monkeypatch.setattr("sys.argv", ["script", *flags, "--method", method, f"--{flag}", value])
        assert run_script(get_parser, main) == 2
        said = capsys.readouterr().err
        assert said.startswith("train_constrained_unlearning.py: error: ") and said.count("\n") == 1
        assert f"--{flag}" in said and f"method {method}" in said and not (tmp_path / "runs").exists()

    def test_a_method_that_does_not_exist(self, parser):
        with pytest.raises(UserError, match="--method(.|\\n)*scrubb"):
            parser.parse(["--method", "scrubb"])


class TestDefaults:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_methods_own_apply_and_all_others_stay(self, parser, method):
        args, plain = parser.parse(["--method", method]), MethodArgs()
        for field in dataclasses.fields(MethodArgs):
            expected = defaults_of(method).get(field.name, getattr(plain, field.name))
            assert getattr(args, field.name) == expected, field.name

    @pytest.mark.parametrize("flags", [[], ["--num_epochs", "7"], ["--finetune_num_epochs", "2", "--batch_size", "32"]])
    @pytest.mark.parametrize("method", ["untrain", "untrain_contrastive"])
    def test_a_mode_of_the_contrastive_script_is_the_method_of_the_main_one(self, parser, method, flags):
        contrastive = train_contrastive.get_parser()
        asked = contrastive.parse(["--mode", method, *flags]), parser.parse(["--method", method, *flags])
        by_mode, by_method = (settings_from(args, method) for args in asked)
        assert by_mode == by_method and by_mode.batch_size == (32 if "32" in flags else None)
        given = {flag: int(value) for flag, value in zip(flags[::2], flags[1::2], strict=True)}
        forget, finetune = given.get("--num_epochs"), given.get("--finetune_num_epochs")
        assert (by_mode.num_epochs, by_mode.finetune_num_epochs) == (forget, finetune)
        planned = {target: stage_epochs(by_mode, target) for target in ("unseen", "zero", "chance")}
        own = {"unseen": (0, 3), "zero": (20, 0), "chance": (0, 3)}
        assert planned == {
            target: (epochs if forget is None else forget, passes if finetune is None else finetune)
            for target, (epochs, passes) in own.items()
        }

    def test_file_over_own_and_command_line_over_file(self, parser, tmp_path):
        path = tmp_path / "scrub.yaml"
        path.write_text("method: scrub\nmsteps: 3\nlearning_rate: 0.25\n")
        args = parser.parse(["--learning_rate", "0.5", "--config_file", str(path)])
        assert (args.method, args.msteps, args.learning_rate, args.temperature) == ("scrub", 3, 0.5, 4.0)
        own = defaults_of("scrub")
        assert (args.batch_size, args.retain_batch_size) == (own["batch_size"], own["retain_batch_size"]) == (512, 256)
        assert parser.parse(["--method", "scrub", "--msteps", "2"]).msteps == 2

    def test_a_value_that_is_ours_by_default_can_be_asked_for(self, parser):
        assert parser.parse(["--method", "scrub", "--temperature", "1", "--bn", "frozen"]).bn == "frozen"

    @pytest.mark.parametrize(
        ("flags", "sizes", "finetune"),
        [
            (["--method", "scrub"], (129, 256), None),  # of 512 at most, the whole forget set
            (["--method", "scrub", "--retain_batch_size", "50"], (129, 50), None),
            (["--batch_size", "20"], (20, 20), (20, 58)),
            ([], (17, 32), (29, 58)),  # of the 129 images that are a tenth, and the 1,164 that are the rest
            (["--retain_batch_size", "50"], (17, 50), (25, 50)),
            (["--forget", "random:5images"], (5, 32), (5, 64)),
        ],
    )
    def test_batch_sizes_reach_the_loaders(self, parser, flags, sizes, finetune, tmp_path):
        args = parser.parse(["--dataset", "digits", "--data_dir", str(tmp_path), *flags])
        experiment = Experiment(args, must_forget=True)
        loaders = experiment.loaders(args)
        assert (loaders["forget"].batch_size, loaders["retain"].batch_size) == sizes
        if finetune is not None:
            assert (loaders["finetune_forget"].batch_size, loaders["finetune_retain"].batch_size) == finetune

    @given(st.integers(57, 10**6), st.integers(2, 1000))
    def test_a_pass_over_a_set_of_any_size_has_several_steps(self, images, num_classes):
        forget, retain = batch_sizes(UnlearnArgs(), images, num_classes)
        assert -(-images // forget) >= 7 and 8 <= forget <= 256 and retain >= 32

    @pytest.mark.parametrize(
        ("target", "flags", "passes"),
        [("unseen", {}, (0, 3)), ("zero", {}, (20, 0)), ("chance", {}, (0, 3)), ("zero", {"num_epochs": 0}, (0, 3)),
         ("zero", {"finetune_num_epochs": 2}, (20, 2)), ("unseen", {"num_epochs": 5}, (5, 3))],
    )  # fmt: skip
    def test_something_is_left_to_do_for_every_target(self, target, flags, passes):
        assert stage_epochs(UnlearnArgs(**flags), target) == passes

    @pytest.mark.parametrize(("target", "refused"), [("unseen", True), ("zero", False), ("chance", True)])
    def test_no_fine_tuning_is_refused_where_nothing_else_forgets(self, target, refused):
        with pytest.raises(UserError, match="nothing is left") if refused else contextlib.nullcontext():
            check_method("constrained", MethodArgs(finetune_num_epochs=0), target)

    @pytest.mark.parametrize(
        ("images", "num_classes", "sizes"),
        [(450, 100, (57, 256)), (450, 20, (57, 60)), (4500, 100, (256, 256)), (450, 10, (57, 57)), (57, 40, (8, 120))],
    )
    def test_small_forget_sets_have_every_class_beside_them(self, images, num_classes, sizes):
        """A class that a step does not show is not held against the pull of forget images of one kind."""
        assert batch_sizes(UnlearnArgs(), images, num_classes) == sizes
        assert batch_sizes(UnlearnArgs(retain_batch_size=40), images, num_classes) == (sizes[0], 40)
        assert batch_sizes(UnlearnArgs(batch_size=16), images, num_classes) == (16, 16)
