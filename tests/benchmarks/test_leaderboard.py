"""The leaderboard and its tuning as programs: what they run, write, take from earlier runs and never look at."""

import functools
import itertools
import json
import math
import re
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers.processes import SMALL, Done, fork, signal_at

import train_constrained_unlearning as script
from benchmarks.leaderboard import board as leaderboard
from benchmarks.leaderboard import tune
from benchmarks.leaderboard.cells import applies, data_flags, kind_of, method_flags, read_cells
from benchmarks.leaderboard.trained_models import Training
from benchmarks.leaderboard.tune import SPACES, rounded, start
from benchmarks.sweeps.sweep import command_line, run_all
from data.image_sets import ImageSets
from evaluation.gaps import GAP_FIGURES
from helper_functions.code_version import code_version, code_words
from helper_functions.config import run_script
from helper_functions.errors import UserError
from helper_functions.files import load_config, save_config
from unlearning.methods import METHODS, check_method

pytestmark = pytest.mark.usefixtures("hasty")
TINY = "dataset: digits\nmodel: resnet8\nwidth: 4\nnum_epochs: 1\nbatch_size: 64\n"

# A method of the user's own: all weights become smaller.
OWN = """
import torch

from unlearning.methods.baseline import BaselineSpec
from unlearning.methods.method import Span, one_shot


def spec(context):
    @torch.no_grad()
    def begin():
        for weight in context.model.parameters():
            weight.mul_(context.args.shrink)

    return BaselineSpec(begin=begin)


METHOD = one_shot(spec, search={"shrink": Span(0.1, 0.9)}, shrink=0.5)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    (folder / "train.yaml").write_text(TINY)
    (folder / "few" / "class").mkdir(parents=True)
    for method in ("constrained", "finetune", "delete", "gradient_ascent"):
        few = {"method": method, "num_epochs": 2, "train_num_epochs": 1}
        few |= {"finetune_num_epochs": 1} if method == "constrained" else {}
        save_config(few, folder / "few" / "class" / f"{method}.yaml")
    return folder


def run(module: str, *flags: object) -> Done:
    done = fork(f"benchmarks.{module}", *flags)
    assert done.status == 0, done.err
    return done


class TestLeaderboard:
    def flags(self, folder: Path, *methods: str) -> list[object]:
        return [
            "--methods", *methods, "--forget", "class:3", "--train_config", folder / "train.yaml", "--workers", 1,
            "--retrained_models", 2, "--output", folder / "out", "--log_dir", folder / "runs", "--log_interval", 1,
            "--tuned", folder / "few",
        ]  # fmt: skip

    def test_cells_become_rows_and_pages_and_are_run_once(self, folder):
        run("leaderboard", *self.flags(folder, "constrained", "ssd"))
        lines = (folder / "out" / "results.jsonl").read_text().splitlines()
        rows = {row["method"]: row for row in read_cells(folder / "out" / "results.jsonl").values()}
        assert set(rows) == {"constrained", "ssd"} and len(lines) == 2
        for row in rows.values():
            assert len(row["retrained"]) == 2 and row["config"]["forget"] == "class:3"
            assert {*GAP_FIGURES, "mia_auc", "rmia_auc"} <= set(row["figures"])
            assert math.isfinite(row["verdict"]["slack"])
            assert row["retrained_cost"]["gradient_steps"] > 0
            assert row["environment"]["code"] == code_words(code_version())
        assert rows["ssd"]["cost"]["gradient_steps"] == 0 < rows["constrained"]["cost"]["gradient_steps"]
        assert all("class:3" in (folder / "out" / f"leaderboard.{kind}").read_text() for kind in ("md", "csv", "html"))
        assert not list((folder / "runs" / "cells").rglob("*.pt"))

        again = run("leaderboard", *self.flags(folder, "constrained", "ssd", "delete"))
        after = (folder / "out" / "results.jsonl").read_text().splitlines()
        assert after[:2] == lines and [json.loads(line)["method"] for line in after[2:]] == ["delete"]
        assert again.out.count("points left") == 1
        page = (folder / "out" / "leaderboard.md").read_text()
        cells = [line.split(" | ")[1].partition(" (")[0] for line in page.splitlines() if line.startswith("| ")]
        assert sorted(cells) == sorted(["method", "*original*", "*retrained*", "constrained", "ssd", "delete"])
        assert "top-5" not in page
        run("leaderboard", *self.flags(folder, "constrained"), "--pages_only", True, "--top5", True)
        assert "top-5" in (folder / "out" / "leaderboard.md").read_text()

    def test_what_costs_more_than_a_pass_is_measured_where_it_is_asked_for(self, folder):
        place, out = folder / "runs" / "models", folder / "further"
        asked = ["--relearn", "--linear_probe", "--shadow_models", 4, "--output", out]
        run("leaderboard", *self.flags(folder, "finetune"), *asked)
        (row,) = read_cells(out / "results.jsonl").values()
        names = {"relearn_steps", "linear_probe_top1", "ulira_auc", "ulira_accuracy"}
        for figures in (row["figures"], row["original"], *row["retrained"]):
            assert names <= set(figures)
        assert row["original"]["relearn_steps"] == 0 and len(row["retrained"]) == 2
        assert len(list((folder / "runs" / "shadows").glob("*/shadow-*/outputs.pt"))) == 4
        assert not list((folder / "runs" / "cells").rglob("*.pt")) and place.is_dir()
        header = (out / "leaderboard.csv").read_text().splitlines()[0].split(",")
        assert names | {"gap.relearn_steps", "gap.linear_probe_top1"} <= set(header)
        # The same figures by hand, of a model that is still there.
        (original,) = place.glob("original-*")
        retrained = min(place.glob("retrained-*"), key=lambda run: load_config(run / "config.yaml")["seed"])
        by_hand = folder / "by_hand.json"
        flags = ["--weight_path", retrained / "model.pt", "--original_weight_path", original / "model.pt", "--relearn"]
        flags += ["--linear_probe", "--output", by_hand, "--splits", retrained / "splits.npz"]
        assert fork("test.py", "--dataset", "digits", *SMALL, *flags).status == 0
        found = json.loads(by_hand.read_text())["models"][str(retrained / "model.pt")]
        for name in ("relearn_steps", "linear_probe_top1"):
            assert row["retrained"][0][name] == pytest.approx(found[name], rel=1e-5)

    def test_a_method_of_the_users_own_is_not_tuned_until_it_is(self, folder):
        path, tuned = folder / "mine.py", folder / "tuned"
        path.write_text(OWN)
        method, out = f"{path}:METHOD", folder / "own"
        flags = [*map(str, self.flags(folder, method)), "--output", str(out), "--tuned", str(tuned)]

        def board() -> tuple[dict, str]:
            (row,) = leaderboard.main(leaderboard.get_parser().parse(flags))["rows"]
            lines = (out / "leaderboard.md").read_text().splitlines()
            (line,) = (line for line in lines if "| mine.py:METHOD" in line)
            assert ("not tuned" in line) == ("<i>not tuned</i>" in (out / "leaderboard.html").read_text())
            return row, line

        row, line = board()
        assert row["method"] == "mine.py:METHOD" and row["config"]["shrink"] == 0.5 and "*not tuned*" in line
        assert [run.name.startswith("mine.py_METHOD-") for run in (folder / "runs/cells").glob("mine*")] == [True]
        asked = ["--methods", method, "--forget", "class:3", "--seed", "0", "--trials", "2", "--workers", "1"]
        asked += ["--train_config", folder / "train.yaml", "--log_dir", folder / "runs", "--tuned", tuned]
        done = tune.main(tune.get_parser().parse([*map(str, asked), "--record", str(folder / "own.jsonl")]))
        found = load_config(tuned / "class" / "mine.py_METHOD.yaml")
        assert found == {"method": method, **done["best"][f"{method} class:3"]["flags"]}
        assert list(found) == ["method", "shrink"] and 0.1 <= found["shrink"] <= 0.9
        again, line = board()
        assert again["config"]["shrink"] == found["shrink"] and "not tuned" not in line
        path.write_text(OWN.replace("0.5", "0.6"))  # other code is another method
        assert board()[0]["key"] != again["key"]

    def test_a_method_without_a_search_is_not_tuned(self, tmp_path):
        (tmp_path / "yours.py").write_text(re.sub(r"search=.*?}, ", "", OWN))
        with pytest.raises(UserError, match="nothing to tune; state search="):
            tune.space_of(f"{tmp_path}/yours.py:METHOD")

    def test_a_cell_that_was_stopped_goes_on_with_its_run(self, folder, monkeypatch):
        args = leaderboard.get_parser().parse([*map(str, self.flags(folder, "finetune")), "--seeds", "1"])
        (cell,) = leaderboard._cells(args, data_flags(args.train_config), functools.partial(run_all, workers=1))
        whole = leaderboard.run_cell(vars(cell))

        began = len(list((folder / "runs" / "cells").iterdir()))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(script, "write_report", mock.Mock(side_effect=KeyboardInterrupt))
            leaderboard.run_cell(vars(cell))
        row = leaderboard.run_cell(vars(cell))
        assert len(list((folder / "runs" / "cells").iterdir())) == began + 1
        assert all(row[name] == whole[name] for name in ("key", "figures", "verdict"))

    def test_one_that_was_stopped_goes_on_within_the_epoch(self, folder, monkeypatch, capsys):
        def board(output: str) -> tuple[int, dict]:
            flags = [*self.flags(folder, "neggrad_plus"), "--output", folder / output]
            monkeypatch.setattr("sys.argv", ["leaderboard.py", *map(str, flags)])
            status = run_script(leaderboard.get_parser, leaderboard.main, goes_on=True)
            return status, [without_seconds(row) for row in read_cells(folder / output / "results.jsonl").values()]

        expected = board("whole")
        assert expected[0] == 0
        capsys.readouterr()
        with monkeypatch.context() as patch:
            signal_at(3, "SIGTERM", patch.setattr)
            assert board("cut") == (143, [])
        assert capsys.readouterr().err == "benchmarks.leaderboard: stopped; the same command goes on where it was\n"
        (begun,) = (folder / "runs" / "cells").glob("neggrad_plus-*/checkpoint.pt")
        assert torch.load(begun)["trainer"]["place"]["done"] == 3
        assert board("cut") == expected and not begun.exists()

    @pytest.mark.parametrize(
        "flags, said",
        [
            (["--shadow_models", "5"], "--shadow_models 5"),
            (["--methods", "scrubber"], "--methods scrubber"),
            (["--methods", "a/mine.py:METHOD", "b/mine.py:METHOD"], "--methods b/mine.py:METHOD: a/mine.py:METHOD has"),
            (["--output", "{}/file/out"], "{}/file"),
            (["--forget", "class:3@one"], "--forget class:3@one: after @ stand seeds, as in class:3@0"),
        ],
        ids=["odd number of shadow models", "unknown method", "two of one name", "no folder", "no seed"],
    )
    def test_a_mistake_is_refused_before_any_work(self, flags, said, folder, tmp_path, monkeypatch, capsys):
        (tmp_path / "file").touch()
        argv = [*self.flags(folder, "ssd"), "--output", tmp_path / "out", "--log_dir", tmp_path / "runs"]
        argv = [*map(str, argv), *(flag.format(tmp_path) for flag in flags)]
        monkeypatch.setattr("sys.argv", ["leaderboard", *argv])
        assert run_script(leaderboard.get_parser, leaderboard.main, goes_on=True) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and said.format(tmp_path) in err
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_the_command_on_the_page_is_the_one_that_was_given(self, folder):
        argv = [*map(str, self.flags(folder, "constrained", "ssd"))]
        args = leaderboard.get_parser().parse(argv)
        words = leaderboard.command(args).split()
        assert words[:3] == ["python", "-m", "benchmarks.leaderboard"]
        found = leaderboard.get_parser().parse(words[3:])
        for name, value in vars(args).items():
            assert name in leaderboard.ELSEWHERE or getattr(found, name) == value, name

    def test_a_forget_set_has_the_seeds_of_all_or_its_own(self):
        asked = ["--forget", "random:0.1", "class:3@1", "file:a@b.txt@0,2", "file:a@c", "--seeds", "0", "3"]
        found = leaderboard.seeds_of(leaderboard.get_parser().parse(asked))
        files = [("file:a@b.txt", 0), ("file:a@b.txt", 2), ("file:a@c", 0), ("file:a@c", 3)]
        assert found == [("random:0.1", 0), ("random:0.1", 3), ("class:3", 1), *files]

    @pytest.mark.parametrize("path", leaderboard.presets())
    def test_a_preset_is_named_in_the_command_and_has_flags_for_every_cell(self, path):
        args = leaderboard.get_parser().parse(["--config_file", path, "--workers", "7", "--log_dir", "elsewhere"])
        assert leaderboard.command(args) == f"python -m benchmarks.leaderboard --config_file {path}"
        labels = data_flags(args.train_config).get("labels")
        kinds = {kind_of(forget, labels) for forget, _ in leaderboard.seeds_of(args)}
        for kind, row in itertools.product(kinds, args.methods):
            flags = method_flags(args.tuned, kind, row)
            assert flags["method"] in METHODS
            check(tuple(command_line(flags)))

    def test_part_of_a_preset_is_called_by_what_differs(self):
        flags = "--config_file configs/leaderboard/cifar100_cpu.yaml --forget random:0.1"
        args = leaderboard.get_parser().parse([*flags.split(), "--workers", "2"])
        assert leaderboard.command(args) == f"python -m benchmarks.leaderboard {flags}"


@functools.cache
def check(words: tuple[str, ...]) -> None:
    """The main script takes these flags, which presets share."""
    args = script.get_parser().parse([*words])
    check_method(args.method, args, "unseen")


def without_seconds(row: dict) -> dict:
    costs = {name: {**row[name], "seconds": 0, "peak_memory_bytes": 0} for name in ("cost", "retrained_cost")}
    return {**row, **costs}


def test_rows_are_run_on_forget_sets_that_their_methods_take():
    kinds = ("random", "long_tailed", "memorised", "class", "superclass", "mislabelled", "subclass")
    assert all(applies(method, kind) for method in ("scrub_r", "constrained", "mu_mis") for kind in kinds)
    assert [applies("pour", kind) for kind in kinds] == [False, False, False, True, True, False, False]
    assert [applies("falw", kind) for kind in kinds] == [True, True, True, True, True, False, True]


def test_a_class_under_superclasses_takes_the_flags_of_random_sets(tmp_path):
    assert kind_of("class:rocket") == "class" == kind_of("class:rocket", "fine")
    kind = kind_of("class:rocket", "superclass")
    assert (kind, kind_of("random:0.1", "superclass")) == ("subclass", "random")
    for folder in ("class", "random"):
        (tmp_path / folder).mkdir()
        save_config({"method": "scrub", "msteps": len(folder)}, tmp_path / folder / "scrub.yaml")
    assert method_flags(str(tmp_path), kind, "scrub")["msteps"] == len("random")


class TestTuning:
    def test_every_method_is_tuned_and_starts_from_its_own_defaults(self):
        assert {space.fixed["method"] for space in SPACES.values()} == set(METHODS) - {"retrain", "pour"}
        for name, space in SPACES.items():
            distributions = space.distributions(10)
            for flag, value in start(space, distributions).items():
                distribution = distributions[flag]
                assert distribution._contains(distribution.to_internal_repr(value)), (name, flag)
                own = METHODS[space.fixed["method"]].defaults.get(flag)
                assert own is None or value == own, (name, flag)
            assert set(distributions) == set(space.searched) <= METHODS[space.fixed["method"]].follows, name

    def test_published_methods_are_tried_with_other_batches_and_schedules(self):
        for name, space in SPACES.items():
            if "schedule" in METHODS[space.fixed["method"]].defaults:
                assert {"constant", "linear", "cosine", "one_cycle"} <= set(space.searched["schedule"]), name
                assert {32, 64, 128, 256, 512} <= set(space.searched["batch_size"]), name
        assert {32, 64, 128, 256, 512} <= set(SPACES["scrub"].searched["retain_batch_size"])

    def test_a_cap_on_passes_over_the_retain_set_leaves_those_over_the_forget_set(self):
        for method in ("finetune", "scrub", "neggrad_plus", "eu_k", "ct"):
            distributions = SPACES[method].distributions(3)
            assert distributions["num_epochs"].high == 3 >= start(SPACES[method], distributions)["num_epochs"]
        for method in ("constrained", "untrain"):
            assert SPACES[method].distributions(3)["finetune_num_epochs"].high == 3
        for method in ("gradient_ascent", "bad_teacher", "lotus", "ssd"):
            assert SPACES[method].distributions(3) == SPACES[method].distributions(10)

    def test_drawn_values_have_two_digits_and_chosen_ones_stay(self):
        drawn = {"learning_rate": 0.0123456, "retain_weight": 0.9999, "num_epochs": 7}
        assert rounded(drawn, SPACES["neggrad_plus"].distributions(10)) == {**drawn, "learning_rate": 0.012}

    def test_the_objective_is_the_agreed_one(self):
        figures = {"forget_top1": 71.0, "unseen_top1": 60.0, "validation_top1": 58.0}
        kept = {"feasible": True, "slack": 0.5}
        assert tune.objective(figures, kept, "random") == pytest.approx(11 + 0.42)
        assert tune.objective(figures, kept, "class") == pytest.approx(71 + 0.42)
        assert tune.objective(figures, kept, "mislabelled") == pytest.approx(71 + 0.42)
        below = {**figures, "forget_top1": 49.0}
        assert tune.objective(below, kept, "random") == pytest.approx(11 + 0.42)  # forgetting too much counts, too
        beyond = ({"feasible": False, "slack": slack} for slack in (-0.1, -30.0, float("nan")))
        over = [tune.objective(figures, verdict, "class") for verdict in beyond]
        assert 101 < over[0] < over[1] < over[2]

    def test_no_trial_looks_at_a_test_image_or_a_retrained_model(self, folder, monkeypatch):
        original = Training(str(folder / "train.yaml"), str(folder / "runs" / "models")).original("random:0.1", 0)
        seen = []
        evaluation, training = ImageSets.evaluation, ImageSets.training
        for name, own in (("evaluation", evaluation), ("training", training)):
            def spy(sets, indices, *args, own=own, **options):
                seen.append((set(indices.tolist()), sets.splits))
                return own(sets, indices, *args, **options)

            monkeypatch.setattr(ImageSets, name, spy)
        asked, main = [], script.main
        monkeypatch.setattr(script, "main", lambda args: (asked.append(args), main(args))[1])
        flags = {**data_flags(str(folder / "train.yaml")), "method": "finetune", "num_epochs": 1}
        found = tune.run_trial(str(original), {**flags, "forget": "random:0.1", "seed": 0, "retain_budget": 2.0}, "k")
        assert len(seen) > 4 and all(not indices & set(splits.test.tolist()) for indices, splits in seen)
        assert [(args.retrain, args.retrained_weight_path) for args in asked] == [(False, [])]
        assert set(found["figures"]) == {"retain_top1", "forget_top1", "unseen_top1", "validation_top1"}
        assert torch.isfinite(torch.tensor(found["value"]))

    def test_the_best_flags_are_written_with_the_record_and_trials_are_run_once(self, folder):
        flags = [
            "--methods", "scrub_r", "ssd", "--forget", "class:3", "--trials", 3, "--workers", 1,
            "--train_config", folder / "train.yaml", "--tuned", folder / "tuned",
            "--record", folder / "tuning.jsonl", "--log_dir", folder / "runs",
        ]  # fmt: skip
        done = run("leaderboard.tune", *flags)
        rows = [json.loads(line) for line in (folder / "tuning.jsonl").read_text().splitlines()]
        for method in ("scrub_r", "ssd"):
            trials = sorted((row for row in rows if row["method"] == method), key=lambda row: row["number"])
            assert [row["number"] for row in trials] == [0, 1, 2]
            best = min(trials, key=lambda row: row["value"])
            tuned = load_config(folder / "tuned" / "class" / f"{method}.yaml")
            assert tuned == {**SPACES[method].fixed, **best["flags"]}
        before = (folder / "tuning.jsonl").read_bytes()
        (folder / "tuned" / "class" / "ssd.yaml").unlink()
        again = run("leaderboard.tune", *flags)
        assert again.out == done.out
        assert (folder / "tuning.jsonl").read_bytes() == before and (folder / "tuned" / "class" / "ssd.yaml").exists()

    def test_a_search_that_was_stopped_ends_as_if_it_had_not_been(self, folder, monkeypatch, tmp_path):
        calls = []

        def trial(original, flags, key):
            calls.append(flags["learning_rate"])
            value = abs(flags["learning_rate"] - 0.01) * 100
            return {"value": value, "feasible": True, "slack": 1.0, "figures": {}, "seconds": 0, "gradient_steps": 0}

        monkeypatch.setattr(tune, "run_trial", trial)
        def search(record: Path, trials: int) -> list[dict]:
            args = tune.Args(trials=trials, train_config=str(folder / "train.yaml"), record=str(record))
            asked = {"method": "finetune", "forget": "class:3", "original": "", "trained": "t", "args": vars(args)}
            return tune.run_search(asked)

        whole = search(tmp_path / "whole.jsonl", 9)
        lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "cut.jsonl").write_text("".join(lines[:5]))
        calls.clear()
        assert search(tmp_path / "cut.jsonl", 9) == whole and len(calls) == 4

    def test_an_unknown_row_is_refused(self):
        with pytest.raises(UserError, match="--methods retrain: one of"):
            tune.main(tune.Args(methods=["retrain"]))
