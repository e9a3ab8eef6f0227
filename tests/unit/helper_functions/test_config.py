"""Command line and YAML: accepted and refused values, and files that appear whole or not at all."""

import dataclasses
import datetime
import json
import math
import os
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import train_constrained_unlearning
from helper_functions import load_config, save_config
from helper_functions.config import (
    HalfOpenUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    ScriptParser,
    run_script,
)
from helper_functions.errors import UserError
from helper_functions.files import load_tensors, save_tensors, whole_file, write_json


@dataclasses.dataclass
class Args:
    """Flags of a script that does not exist."""

    num_epochs: PositiveInt = 10
    """Passes."""
    learning_rate: PositiveFloat = 0.1
    """Rate."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay."""
    seed: NonNegativeInt = 0
    """Seed."""
    momentum: HalfOpenUnitInterval = 0.9
    """Momentum."""
    test: OpenUnitInterval = 0.2
    """Share."""
    use_sam: bool = False
    """SAM."""
    untrain: bool = True
    """Forget."""
    solver: Literal["penalty", "lagrangian"] = "lagrangian"
    """Solver."""
    name: str = "run"
    """Text."""
    weight_path: str | None = None
    """File."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Norm."""
    mean: list[HalfOpenUnitInterval] | None = None
    """One a channel."""
    paths: list[str] = dataclasses.field(default_factory=list)
    """Files."""


def get_parser() -> ScriptParser:
    return ScriptParser(Args, "script.py", "A script.")


PARSER = get_parser()


@pytest.fixture(scope="module")
def parser() -> ScriptParser:
    """The main script's, which takes longer to build than to use."""
    return train_constrained_unlearning.get_parser()


def parse(*argv) -> Args:
    return PARSER.parse([str(word) for word in argv])


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a script with a command line that it should refuse; gives its one line."""

    def run(*argv) -> str:
        monkeypatch.setattr("sys.argv", ["script.py", *map(str, argv)])
        capsys.readouterr()
        status = run_script(get_parser, lambda args: pytest.fail(f"it began to work with {args}"))
        out, err = capsys.readouterr()
        assert status == 2 and out == ""
        assert err.count("\n") == 1 and err.startswith("script.py: error: ") and "Traceback" not in err
        return err

    return run


class TestCommandLine:
    def test_defaults_are_the_dataclass(self):
        assert parse() == Args()

    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            (["--use_sam"], True), (["--use_sam", "True"], True), (["--use_sam=true"], True),
            (["--use_sam", "False"], False), (["--use_sam=false"], False), ([], False),
            (["--use_sam", "--seed", 3], True),
        ],
    )  # fmt: skip
    def test_booleans_take_both_forms(self, argv, expected):
        assert parse(*argv).use_sam is expected

    def test_a_true_boolean_can_be_switched_off(self):
        assert parse("--untrain", "False").untrain is False and parse("--untrain").untrain is True

    @pytest.mark.parametrize("argv", [["--mean", ".5", "0.25", "0"], ["--mean", "[.5, 0.25, 0]"]])
    def test_lists_of_numbers(self, argv):
        args = parse(*argv, "--seed", 4)
        assert args.mean == [0.5, 0.25, 0] and args.seed == 4

    @pytest.mark.parametrize("paths", [["a"], ["a", "b"], ["with space", "null", "3", "a,b", "[x"]])
    def test_lists_of_words(self, paths):
        args = parse("--paths", *paths, "--use_sam")
        assert args.paths == paths and args.use_sam

    def test_null_is_nothing_where_nothing_is_allowed(self):
        assert parse("--max_grad_norm", "null").max_grad_norm is None

    def test_values_are_plain_types(self):
        """YAML and checkpoints hold no restricted numbers."""
        args = parse("--num_epochs", 3, "--learning_rate", "1e-3", "--mean", ".1", "--momentum", 0)
        assert type(args.num_epochs) is int and type(args.learning_rate) is float
        assert type(args.momentum) is float and [type(value) for value in args.mean] == [float]

    @pytest.mark.parametrize("flag", ["--num_epoch", "--learning", "--use", "--weigh"])
    def test_abbreviations_are_refused(self, flag, refused):
        assert flag in refused(flag, 1)

    @pytest.mark.parametrize(
        "argv",
        [
            ["--num_epochs", 0], ["--num_epochs", -3], ["--num_epochs", 1.5], ["--num_epochs", "many"],
            ["--num_epochs", "nan"], ["--num_epochs"],
            ["--learning_rate", "nan"], ["--learning_rate", "inf"], ["--learning_rate", "1e999"],
            ["--learning_rate", 0], ["--learning_rate", -0.1], ["--learning_rate", "fast"],
            ["--learning_rate", ".nan"], ["--learning_rate", "-.inf"], ["--learning_rate", "NaN"],
            ["--weight_decay", -1e-9], ["--weight_decay", "Infinity"], ["--weight_decay", "nan"],
            ["--momentum", 1], ["--momentum", "nan"], ["--test", 0], ["--test", 1], ["--test", "nan"],
            ["--seed", -1], ["--use_sam", "maybe"], ["--use_sam", 2], ["--solver", "newton"], ["--solver", "lagr"],
            ["--max_grad_norm", "nan"], ["--max_grad_norm", "inf"], ["--mean", 0.5, "nan"], ["--mean", 2],
            ["--unknown", 1], ["positional"], ["--config_file"],
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_one_line_and_status_2(self, argv, refused):
        message = refused(*argv)
        assert str(argv[0]).lstrip("-") in message

    def test_a_close_name_is_suggested(self, config, refused):
        assert "did you mean --num_epochs?" in refused("--num_epoch", 3)
        assert "did you mean --learning_rate?" in refused("--learning-rate", 3)
        assert "did you mean learning_rate?" in refused("--config_file", config("learning_rat: 3\n"))
        assert "did you mean" not in refused("--zzz", 3)

    @pytest.mark.parametrize(
        ("argv", "line"),
        [
            (["--num_epochs", "many"], "--num_epochs many: no valid value; give a whole number above 0"),
            (["--learning_rate=-1"], "--learning_rate -1: no valid value; give a number above 0"),
            (["--seed"], "--seed: its value is missing; give a whole number from 0"),
            (["--weight_path"], "--weight_path: its value is missing; File."),
            (["--use_sam", "maybe"], "--use_sam maybe: no valid value; give true or false"),
            (["--mean", "a", 1], "--mean a 1: no valid value; give several, each a number from 0 and below 1"),
            (["--solver", "newton"], "--solver newton: unknown; give one of penalty, lagrangian"),
            (["--solver", "penlty"], "--solver penlty: unknown; did you mean penalty?"),
            (["--zzz", 3], "--zzz 3: no such flag; script.py --help lists them"),
            (["lagrangian"], "lagrangian: a value without a flag; write --FLAG VALUE"),
        ],
    )
    def test_a_mistake_is_told_in_our_words(self, argv, line, refused):
        assert refused(*argv) == f"script.py: error: {line}\n"

    def test_no_word_of_the_library_is_shown(self, config, refused):
        for text in ("num_epochs: three", "mean: [.nan]", "solver: 3", "use_sam: so", "momentum: 2", "name: {a: 1}"):
            name, _, value = text.partition(": ")
            path = config(text)
            line = refused("--config_file", path)
            assert line.startswith(f"script.py: error: {path}: --{name} ")
            assert not any(word in line for word in ("class '", "Literal", "Union", "type", "v>", "Expected", "Got"))

    @pytest.mark.parametrize("written", ["Lagrangian", "LAGRANGIAN", "lagran-gian"])
    def test_choices_in_any_case(self, written, config):
        assert parse("--solver", written).solver == parse(f"--solver={written}").solver == "lagrangian"
        assert parse("--config_file", config(f"solver: {written}")).solver == "lagrangian"

    def test_numbers_to_choose_from(self, parser):
        assert parser.parse(["--channels", "3"]).channels == 3
        with pytest.raises(UserError, match="--channels 2: unknown; give one of 1, 3"):
            parser.parse(["--channels", "2"])

    def test_methods_as_their_papers_write_them(self, parser):
        assert parser.parse(["--method", "SCRUB"]).method == "scrub"
        assert parser.parse(["--method", "NegGrad+"]).method == "neggrad_plus"
        assert parser.parse(["--method", "SCRUB"]).msteps == parser.parse(["--method", "scrub"]).msteps

    @pytest.mark.parametrize(("argv", "quiet"), [([], False), (["--quiet"], True), (["--quiet", "False"], False)])
    def test_quiet_is_no_argument_of_a_run(self, argv, quiet):
        parser = get_parser()
        assert parser.parse(argv) == Args() and parser.quiet is quiet

    def test_nothing_beside_resume(self, parser):
        for flags in (["--seed", "3"], ["--config_file", "a.yaml", "--untrain"]):
            with pytest.raises(UserError, match="--resume runs/x ") as refused:
                parser.parse([*flags, "--resume", "runs/x"])
            assert all(flag in str(refused.value) for flag in flags if flag.startswith("--"))
        assert parser.parse(["--resume", "runs/x", "--on_nan", "stop", "--model", "a.py:net"]).on_nan == "stop"

    def test_help_is_no_error(self, monkeypatch, capsys):
        monkeypatch.setattr("sys.argv", ["script.py", "--help"])
        with pytest.raises(SystemExit) as ended:
            run_script(get_parser, lambda args: pytest.fail("it began to work"))
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert all(out.count(f"  --{field.name} ") == 1 for field in dataclasses.fields(Args))
        places = [out.index(text) for text in ("main flags", "--num_epochs", "Flags of a script", "--test ")]
        assert places == sorted(places)

    @pytest.mark.parametrize("argv", [["--help", "scrub"], ["--help", "SCRUB"], ["--method", "scrub", "-h"]])
    def test_help_of_a_method(self, parser, argv, capsys):
        with pytest.raises(SystemExit) as ended:
            parser.parse(argv)
        out = capsys.readouterr().out
        assert not ended.value.code and "--msteps 2" in out and "--learning_rate 0.0005" in out
        assert "--ssd_threshold" not in out and "--retain_budget" not in out
        with pytest.raises(UserError, match="--method srcub: unknown; did you mean scrub"):
            parser.parse(["--help", "srcub"])


class TestConfigFile:
    @pytest.mark.parametrize("place", ["first", "last", "between", "joined"])
    def test_the_command_line_wins_wherever_the_file_stands(self, place, config):
        path = config("learning_rate: 0.5\nnum_epochs: 7\nuse_sam: true\nmean: [0.1, 0.2]\n")
        flags = ["--num_epochs", 3, "--use_sam", "False"]
        argv = {
            "first": ["--config_file", path, *flags],
            "last": [*flags, "--config_file", path],
            "between": [*flags[:2], "--config_file", path, *flags[2:]],
            "joined": [*flags, f"--config_file={path}"],
        }[place]
        assert parse(*argv) == Args(learning_rate=0.5, num_epochs=3, mean=[0.1, 0.2])

    def test_the_last_of_two_files_counts(self, tmp_path):
        for name, epochs in (("one", 1), ("two", 2)):
            (tmp_path / name).write_text(f"num_epochs: {epochs}\n")
        assert parse("--config_file", tmp_path / "one", "--config_file", tmp_path / "two").num_epochs == 2

    def test_a_default_on_the_command_line_wins_too(self, config):
        assert parse("--config_file", config("num_epochs: 7\n"), "--num_epochs", 10).num_epochs == 10

    @pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'0.001'"])
    def test_numbers_as_people_write_them(self, text, config):
        """YAML 1.1 takes 1e-3 for text."""
        assert parse("--config_file", config(f"learning_rate: {text}\n")).learning_rate == 0.001

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("epochs: 3\n", "epochs"), ("num_epochs: three\n", "num_epochs"), ("num_epochs: 0\n", "num_epochs"),
            ("num_epochs: 1.5\n", "num_epochs"), ("num_epochs: [1]\n", "num_epochs"), ("num_epochs:\n", "num_epochs"),
            ("num_epochs: true\n", "num_epochs"), ("learning_rate: true\n", "learning_rate"),
            ("learning_rate: .nan\n", "learning_rate"), ("learning_rate: .inf\n", "learning_rate"),
            ("learning_rate: null\n", "learning_rate"), ("use_sam: 1.5\n", "use_sam"), ("use_sam: so\n", "use_sam"),
            ("mean: 0.5\n", "mean"), ("mean: [.nan]\n", "mean"), ("solver: newton\n", "solver"),
            ("name: 2026-01-02\n", "name"), ("name: {a: 1}\n", "name"), ("config_file: other.yaml\n", "config_file"),
            ("num_epochs: 3\nnum_epochs: 4\n", "num_epochs"), ("num_epochs.a: 3\n", "num_epochs"),
        ],
    )  # fmt: skip
    def test_a_mistake_in_it_is_one_line_and_status_2(self, text, word, config, refused):
        path = config(text)
        message = refused("--config_file", path)
        assert word in message and path in message

    def test_a_missing_file_is_one_line(self, tmp_path, refused):
        assert "nowhere.yaml" in refused("--config_file", tmp_path / "nowhere.yaml")

    @settings(max_examples=60)
    @given(
        st.builds(
            Args,
            num_epochs=st.integers(1, 10**6),
            learning_rate=st.floats(1e-300, 1e300),
            weight_decay=st.floats(0, 1e300),
            seed=st.integers(0, 2**40),
            momentum=st.floats(0, 1, exclude_max=True),
            use_sam=st.booleans(),
            untrain=st.booleans(),
            solver=st.sampled_from(["penalty", "lagrangian"]),
            name=st.from_regex(r"[a-z][a-z_/.-]{3,20}x", fullmatch=True),
            weight_path=st.none() | st.from_regex(r"/[a-z ]{1,9}\.pth", fullmatch=True),
            max_grad_norm=st.none() | st.floats(1e-9, 1e9),
            mean=st.none() | st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3),
        )
    )
    def test_a_saved_configuration_gives_the_same_arguments(self, tmp_path_factory, args):
        path = tmp_path_factory.mktemp("round") / "config.yaml"
        save_config(dataclasses.asdict(args), path)
        assert parse("--config_file", path) == args


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(
    st.characters(exclude_categories=["Cs"])
)


class TestLoadConfig:
    @settings(max_examples=150)
    @given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), PLAIN | st.lists(PLAIN, max_size=3)))
    def test_round_trip(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("round") / "config.yaml"
        save_config(content, path)
        found = load_config(path)
        assert found == content and list(found) == list(content)
        assert [type(value) for value in found.values()] == [type(value) for value in content.values()]

    @pytest.mark.parametrize(
        "text",
        [
            "", "- a\n", "just words", "a: 1\na: 2\n", "a: {b: 1, b: 2}\n", "1: a\n", "a: [", "a:\n\t- b\n",
            "a: !!python/object/apply:os.getcwd []\n", "a: !!python/name:os.system\n", "a: !unknown 3\n",
            "a: &x 1\n---\nb: 2\n", "? [1, 2]\n: 3\n", "a: *nowhere\n", "\x00", "a: " + "[" * 600,
            "a: 2026-13-45\n", "a: !!int x\n", "!!map [1, 2]\n",
        ],
    )  # fmt: skip
    def test_strictness(self, text, tmp_path):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match="config.yaml"):
            load_config(path)

    def test_no_text_and_no_file(self, tmp_path):
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
        for name in ("binary", "missing", "."):
            with pytest.raises(UserError):
                load_config(tmp_path / name)


class TestExitStatus:
    @pytest.mark.parametrize(
        ("result", "status"),
        [({}, 0), ({"verdict": None}, 0), ({"verdict": {"feasible": True, "forgotten": True}}, 0),
         ({"verdict": {"feasible": False, "forgotten": True}}, 3),
         ({"verdict": {"feasible": False, "forgotten": False}}, 3),
         ({"verdict": {"feasible": True, "forgotten": False}}, 4), ({"holds": False}, 3), ({"holds": True}, 0)],
    )
    def test_says_how_it_ended(self, result, status, monkeypatch):
        monkeypatch.setattr("sys.argv", ["script.py"])
        assert run_script(get_parser, lambda args: result) == status

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (UserError("two\nlines"), 2),
            (FileNotFoundError(2, "No such file", "somewhere"), 2),
            (KeyboardInterrupt(), 130),
        ],
    )
    def test_errors_that_people_can_mend_are_lines(self, error, status, monkeypatch, capsys):
        def main(args):
            raise error

        monkeypatch.setattr("sys.argv", ["script.py"])
        assert run_script(get_parser, main) == status
        err = capsys.readouterr().err.strip()
        assert err.count("\n") == 0 and "script.py" in err

    def test_our_own_mistakes_keep_their_traceback(self, monkeypatch):
        def main(args):
            raise ZeroDivisionError

        monkeypatch.setattr("sys.argv", ["script.py"])
        with pytest.raises(ZeroDivisionError):
            run_script(get_parser, main)


class TestWholeFile:
    def test_takes_its_place_when_all_went_well(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with whole_file(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old" and temporary.parent == tmp_path
        assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]
        assert path.stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
    def test_leaves_the_old_file_on_failure(self, error, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with pytest.raises(error), whole_file(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]

    @pytest.mark.parametrize(
        ("write", "content"),
        [
            (lambda content, path: write_json(path, content), {"a": math.nan}),
            (lambda content, path: write_json(path, content), {"a": object()}),
            (save_config, {"a": object()}),
            (save_tensors, {"a": lambda: None}),
        ],
    )
    def test_no_writer_damages_what_is_there(self, write, content, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with pytest.raises(Exception):  # noqa: B017  # each library has its own
            write(content, path)
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]

    def test_json_is_json(self, tmp_path):
        write_json(tmp_path / "file", {"a": [1, None, "ä"], "b": {"c": 0.5}})
        assert json.loads((tmp_path / "file").read_text()) == {"a": [1, None, "ä"], "b": {"c": 0.5}}


class TestTensors:
    def test_round_trip(self, tmp_path):
        content = {"weight": torch.arange(3.0), "nested": {"list": [1, 2.5, None, "text"]}, "flag": True}
        save_tensors(content, tmp_path / "file")
        found = load_tensors(tmp_path / "file", "do this")
        assert torch.equal(found.pop("weight"), content.pop("weight")) and found == content

    def test_anything_else_is_refused_with_the_remedy(self, tmp_path):
        torch.save({"when": datetime.datetime(2026, 1, 1)}, tmp_path / "object")
        torch.save(torch.zeros(3), tmp_path / "tensor")
        (tmp_path / "text").write_text("no tensors")
        save_tensors({"a": torch.zeros(1000)}, tmp_path / "cut")
        (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:1000])
        for name in ("object", "tensor", "text", "cut", "missing", "."):
            with pytest.raises(UserError, match="do this"):
                load_tensors(tmp_path / name, "do this")
