"""The weights of a finished run: their names state the verdict, and every reader finds them."""

import json
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.processes import SMALL, fork, only
from torch import nn

import train_constrained_unlearning as script
from benchmarks.leaderboard.cells import WEIGHTS
from evaluation.attacks.shadow_runs import by_script
from evaluation.report.weights import NAMED_ENTRIES, save_result
from evaluation.verdict import Verdict
from helper_functions.errors import UserError
from helper_functions.run_folder import result_weights
from models.weight_files import read_weight_file

UNLEARN = "train_constrained_unlearning.py"
KEPT = Verdict(feasible=True, forgotten=True, retain_budget=1.0, slack=0.5)
BROKEN = Verdict(feasible=False, forgotten=True, retain_budget=1.0, slack=-5.0)
UNMET = Verdict(feasible=True, forgotten=False, retain_budget=1.0, slack=0.5)
VERDICTS = (KEPT, BROKEN, UNMET)


@pytest.fixture
def run(tmp_path):
    """A run that has ended with a linear layer, and began with the file that is asked for."""
    torch.manual_seed(0)
    models = {"unlearned": nn.Linear(3, 2), "original": nn.Linear(3, 2), "student": nn.Linear(3, 2)}
    (tmp_path / "run").mkdir()

    def make(name: str | None = None, content: object = None) -> types.SimpleNamespace:
        record = types.SimpleNamespace(folder=tmp_path / "run", path=lambda file: tmp_path / "run" / file)
        given = types.SimpleNamespace(models=models, record=record, weight_file=None)
        given.args = types.SimpleNamespace(weight_path=None)
        if name is not None:
            torch.save(content, tmp_path / name)
            given.weight_file = read_weight_file(tmp_path / name)[1]
            given.args.weight_path = str(tmp_path / name)
        return given

    return make


def wrapped(**others: object) -> dict:
    return {"state_dict": {f"module.{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}, **others}


def names_in(run) -> set[str]:
    return {path.name for path in Path(run.record.folder).iterdir()}


class TestNames:
    @pytest.mark.parametrize("name", [None, "plain.pth"])
    def test_a_plain_state_dict_has_no_second_file(self, run, name):
        ended = run(name, nn.Linear(3, 2).state_dict())
        save_result(ended, "unlearned", KEPT)
        assert names_in(ended) == {"model.pt"}
        said = save_result(ended, "unlearned", BROKEN)
        assert names_in(ended) == {"infeasible.pt"}
        assert f"weights  {ended.record.folder}/infeasible.pt\n" in said and "not to be deployed" in said
        said = save_result(ended, "unlearned", UNMET)
        assert names_in(ended) == {"not_forgotten.pt"}
        assert f"weights  {ended.record.folder}/not_forgotten.pt\n" in said and "budget kept, but not forgotten" in said

    @pytest.mark.parametrize(
        ("name", "kept", "broken", "unmet"),
        [
            ("w.pth", "unlearned.pth", "infeasible.pth", "not_forgotten.pth"),
            ("w.pt", "unlearned.pt", "infeasible-unlearned.pt", "not_forgotten-unlearned.pt"),
            ("w.pth.tar", "unlearned.pth.tar", "infeasible.pth.tar", "not_forgotten.pth.tar"),
        ],
    )
    def test_another_form_stands_beside_it(self, run, name, kept, broken, unmet):
        """Whichever way a resumed run ends, nothing of the other verdict is left."""
        ended = run(name, wrapped())
        for verdict in (KEPT, BROKEN, UNMET, KEPT, UNMET):
            given = {"model.pt": kept, "infeasible.pt": broken, "not_forgotten.pt": unmet}[verdict.weights]
            names = {verdict.weights, given}
            said = save_result(ended, "unlearned", verdict)
            assert names_in(ended) == names and all(f"{ended.record.folder}/{file}" in said for file in names)
            plain = torch.load(result_weights(ended.record.folder), weights_only=True)
            for file in names - {verdict.weights}:
                again = torch.load(ended.record.path(file), weights_only=True)["state_dict"]
                assert list(again) == ["module.weight", "module.bias"]
                assert all(torch.equal(value, plain[name.removeprefix("module.")]) for name, value in again.items())

    def test_what_is_left_out_is_named_in_one_printable_line(self, run):
        ended = run("w.pth", wrapped(epoch=3, **{f"a\n\x1b[2J{number}": number for number in range(9)}))
        said = save_result(ended, "unlearned", KEPT)
        assert said.count("\n") == 2 and "\x1b" not in said
        assert "epoch, " in said and f"and {10 - NAMED_ENTRIES} more" in said

    @pytest.mark.parametrize("name", ["original", "student"])
    def test_where_nothing_was_forgotten_there_is_the_plain_one_alone(self, run, name):
        ended = run("w.pth", wrapped())
        save_result(ended, name)
        assert names_in(ended) == {"model.pt"}


class TestReaders:
    @pytest.mark.parametrize("verdict", VERDICTS)
    def test_a_shadow_model_is_found_either_way(self, run, tmp_path, verdict):
        ended = run()

        def main(args) -> None:
            if not args.untrain:
                trained = Path(args.log_dir) / "original-1"
                trained.mkdir()
                (trained / "model.pt").write_bytes(b"")
                (trained / "report.json").write_text("{}")
                return
            save_result(ended, "unlearned", verdict)
            (ended.record.folder / "report.json").write_text("{}")
            ended.record.folder.rename(Path(args.log_dir) / "run-1")

        args = script.get_parser().parse([])
        originals = tmp_path / "originals"
        (tmp_path / "shadow").mkdir()
        (tmp_path / "splits.npz").write_bytes(b"")
        load = partial(torch.load, weights_only=True)
        make = by_script(types.SimpleNamespace(main=main), args, load, originals)
        found = make(tmp_path / "splits.npz", 0, tmp_path / "shadow")
        assert torch.equal(found["weight"], ended.models["unlearned"].weight)

    def test_a_shadow_model_that_is_refused_says_that_it_is_one(self, tmp_path):
        """Its weights are nobody's --weight_path, and the remedy lies in flags that were given long before."""

        def main(args) -> None:
            raise UserError("--weight_path original.pt: 12.0 % of the retain set is right")

        (tmp_path / "shadow").mkdir()
        (tmp_path / "splits.npz").write_bytes(b"")
        args = script.get_parser().parse([])
        make = by_script(types.SimpleNamespace(main=main), args, torch.load, tmp_path / "originals")
        with pytest.raises(UserError, match=r"^a shadow model in .*shadow: --weight_path.*--train_ flags") as info:
            make(tmp_path / "splits.npz", 0, tmp_path / "shadow")
        assert "\n" not in str(info.value)

    @pytest.mark.parametrize("verdict", VERDICTS)
    def test_a_sweep_keeps_no_weights(self, run, verdict):
        ended = run()
        save_result(ended, "unlearned", verdict)
        for name in WEIGHTS:
            ended.record.path(name).unlink(missing_ok=True)
        assert names_in(ended) == set()


def test_a_budget_that_cannot_be_met(original, tmp_path):
    """Status 3, everything written, and no file that somebody would take for the result."""
    done = fork(
        UNLEARN, *SMALL, "--weight_path", original.folder / "model.pt", "--method", "gradient_ascent",
        "--retain_budget", 0, "--learning_rate", 3, "--num_epochs", 2, "--log_dir", tmp_path / "runs",
    )  # fmt: skip
    assert done.status == 3 and done.err == ""
    folder = only(tmp_path / "runs")
    names = {path.name for path in folder.iterdir()}
    assert {"infeasible.pt", "report.json", "config.yaml", "splits.npz"} <= names
    assert not [name for name in names if name.startswith(("model.", "unlearned."))]
    assert f"weights  {folder}/infeasible.pt\n" in done.out and "not to be deployed" in done.out
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"]["feasible"] is False and report["verdict"]["slack"] < 0
    judged = fork(
        "test.py", *SMALL, "--weight_path", result_weights(folder), "--output", tmp_path / "figures.json",
    )  # fmt: skip
    assert judged.status == 0, judged.err
    figures = json.loads((tmp_path / "figures.json").read_text())["models"][str(folder / "infeasible.pt")]
    assert figures["retain_top1"] == pytest.approx(report["models"]["unlearned"]["retain_top1"], abs=1e-4)
