"""`test.py --verify`: an untouched run folder holds, and every change in it is found."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.processes import SMALL, Done, assert_refused, contents, fork, only
from helpers.report_cases import example
from hypothesis import given
from hypothesis import strategies as st

import test
from evaluation.report.page import report_page
from evaluation.report.record import file_digest, report_digest
from evaluation.verify.checks import all_near, exact, near, tolerance_of
from helper_functions.config import run_script

UNLEARN = "train_constrained_unlearning.py"


@pytest.fixture(scope="module")
def filed(tmp_path_factory) -> Path:
    """The folder of a run with a retrained model, references and pictures."""
    log_dir = tmp_path_factory.mktemp("filed")
    done = fork(
        UNLEARN, *SMALL, "--forget", "random:40", "--train_num_epochs", 2, "--num_epochs", 2, "--retrain",
        "--learning_rate", 0.003, "--keep_checkpoint",
        "--request_id", "2026/17", "--requester", "M. Muster", "--show_images", "--figures", "False",
        "--log_dir", log_dir,
    )  # fmt: skip
    assert done.status in (0, 3, 4), done.err
    return only(log_dir)


@pytest.fixture
def folder(filed, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(filed, tmp_path / "run"))


@pytest.fixture
def verify(monkeypatch, capsys, hasty):
    """Call the script in this process; checks by name, and what it left behind."""

    def call(folder: Path, *flags: object) -> tuple[Done, dict[str, str]]:
        monkeypatch.setattr("threading.excepthook", None)
        monkeypatch.setattr("sys.argv", ["test.py", "--verify", str(folder), *map(str, flags)])
        capsys.readouterr()
        before = contents(folder) if folder.is_dir() else {}
        done = Done(run_script(test.get_parser, test.main), *capsys.readouterr())
        assert not folder.is_dir() or contents(folder) == before
        lines = [line for line in done.out.splitlines()[1:] if line.endswith(("holds", "DIFFERS", "not checked"))]
        states = {line[:44].strip(): line[79:].strip() for line in lines}
        assert done.status != 0 or done.out.endswith("the report HOLDS\n")
        assert done.status != 3 or "the report does NOT hold" in done.out
        return done, states

    return call


def differing(states: dict[str, str]) -> list[str]:
    return [what for what, state in states.items() if state == "DIFFERS"]


def read(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def write(folder: Path, report: dict) -> None:
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def cover_up(folder: Path, *changed: str) -> None:
    """Compute the digests of some files and of report and page anew, as a forger would."""
    report = read(folder)
    for file in report["files"]:
        if file["path"] in changed:
            file["sha256"] = file_digest(folder / file["path"])
    report["run"]["configuration_sha256"] = file_digest(folder / "config.yaml")
    report.pop("pictures", None)
    report["report_sha256"] = report_digest(report)
    page = report_page(report)
    (folder / "report.html").write_text(page)
    write(folder, {**report, "page_sha256": hashlib.sha256(page.encode()).hexdigest()})


class TestHolds:
    def test_on_other_hardware_within_the_stated_tolerance(self, folder, verify):
        """As if the report came from another processor; of 40 images, two are five points."""
        report = read(folder)
        report["run"]["cpu"] = "another"
        figures = report["models"]["unlearned"]
        figures["test_loss"] += 0.004
        figures["forget_top1"] += 4.9 if figures["forget_top1"] < 50 else -4.9
        figures["unseen_loss"] += 0.2 + 0.1 * figures["unseen_loss"]
        figures["mia_tpr"] += 3
        write(folder, report)
        cover_up(folder)
        _, states = verify(folder)
        assert states["unlearned: test loss"] == states["unlearned: forget top-1, given labels"] == "holds"
        assert states["unlearned: unseen loss"] == "DIFFERS"
        assert states["unlearned: membership TPR at 1 %, %"] == "not checked"

    def test_a_page_of_another_version_of_matplotlib_is_accepted_by_its_digest(self, folder, verify):
        page = (folder / "report.html").read_text().replace('content="matplotlib ', 'content="matplotlib 0.')
        (folder / "report.html").write_text(page)
        write(folder, {**read(folder), "page_sha256": hashlib.sha256(page.encode()).hexdigest()})
        done, states = verify(folder)
        assert done.status == 0 and states["report.html, rendered again"] == "not checked"

    def test_every_figure_of_an_untouched_run_is_checked(self, filed, verify):
        done, states = verify(filed)
        report = read(filed)
        assert (done.status, done.err) == (0, "") and set(states.values()) <= {"holds", "not checked"}
        for said in ("unlearned: forget loss", "retrained: membership attack AUC", "verdict: slack", "digest of their"):
            assert said in done.out
        figures = sum(len(found) for found in report["models"].values())
        assert sum(what.startswith(("original: ", "unlearned: ", "retrained: ")) for what in states) >= figures
        assert [what for what, state in states.items() if state == "not checked"] in (
            [], ["report.html, rendered again"],
        )  # fmt: skip

    def test_a_folder_that_has_moved_and_lost_its_models_from_before(self, folder, verify):
        """The original and the retrained model are deleted on purpose; what rests on them cannot be checked."""
        for name in ("original.pt", "retrained.pt", "checkpoint.pt"):
            (folder / name).unlink()
        done, states = verify(folder)
        assert done.status == 0
        for what in ("original: every figure", "retrained: every figure", "verdict", "original: original.pt"):
            assert states[what] == "not checked"
        assert states["unlearned: test top-1"] == "holds"

    def test_models_that_lie_elsewhere_now(self, folder, filed, verify):
        for name in ("original.pt", "retrained.pt"):
            (folder / name).unlink()
        flags = ("--original_weight_path", filed / "original.pt", "--retrained_weight_path", filed / "retrained.pt")
        done, states = verify(folder, *flags, "--device", "cpu")
        assert done.status == 0 and states["verdict: slack"] == states["retrained: test loss"] == "holds"
        done, states = verify(folder, "--original_weight_path", filed / "model.pt")
        assert done.status == 3 and "original: original.pt" in differing(states)


class TestDetects:
    @pytest.mark.parametrize("covered", [False, True])
    def test_changed_weights(self, folder, verify, covered):
        """One flipped bit changes the digest; a change with a new digest changes figures."""
        flip_a_weight(folder / "model.pt", by=3.0 * covered)
        if covered:
            cover_up(folder, "model.pt")
        done, states = verify(folder)
        assert done.status == 3 and ("weights: model.pt" in differing(states)) == (not covered)
        assert ("unlearned: test loss" in differing(states)) >= covered

    @pytest.mark.parametrize("covered", [False, True])
    def test_one_replaced_index_with_a_consistent_digest(self, folder, verify, covered):
        replace_an_index(folder / "splits.npz")
        if covered:
            cover_up(folder, "splits.npz")
        done, states = verify(folder)
        found = differing(states)
        assert done.status == 3 and {"splits sha256", "digest of their list"} <= set(found)
        assert ("splits: splits.npz" in found) == (not covered)

    @pytest.mark.parametrize("covered", [False, True])
    def test_one_changed_flag(self, folder, verify, covered):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "retain_budget": 2.5}, sort_keys=False))
        if covered:
            cover_up(folder, "config.yaml")
        done, states = verify(folder)
        found = differing(states)
        assert done.status == 3 and "verdict: retain budget" in found
        assert ("settings (config.yaml)" in found) == (not covered)

    LOST = {"class": "x", "images": 9, "before": 50.0, "after": 25.0, "low": 10.0, "high": 60.0, "fall": 25.0}
    CHANGES = {
        "models.unlearned.test_top1": (12.5, "unlearned: test top-1"),
        "models.unlearned.mia_auc": (0.501, "unlearned: membership attack AUC"),
        "models.unlearned.forget_loss": (9.75, "unlearned: forget loss, given labels"),
        "models.unlearned.mia_worst_tenth": (51.25, "unlearned: membership worst tenth, %"),
        "models.unlearned.retain_exposure": (0.123, "unlearned: retain exposure"),
        "models.unlearned.residual_knowledge": (1.234, "unlearned: residual knowledge"),
        "models.unlearned.test_top1_low": (1.5, "unlearned: test top-1, low"),
        "gap_intervals.unlearned.avg_gap.0": (0.0123, "intervals of gaps"),
        "verdict.slack": (0.987, "verdict: slack"),
        "verdict.forgotten": ("toggled", "verdict: forgotten"),
        "request.id": ("2026/18", "request id"),
        "request.requester": ("N. N.", "requester"),
        "request.images": (41, "images to forget"),
        "trace.epochs.retain_fall.0": (0.123, "trace"),
        "loss_histograms.unlearned.forget.0": (50.0, "loss histograms"),
        "class_falls.held_out": ([LOST], "classes that lost most"),
        "run.method": ("scrub", "method"),
        "avg_gap.unlearned": (0.01, "gaps to retrained, by the report's figures"),
        "data.images.retain": (7, "data set and its parts"),
        "run.seconds": (0.5, "report.json, its own digest"),
        "created": ("2020-01-01T00:00:00+00:00", "report.json, its own digest"),
    }

    def test_changed_entries_of_the_report(self, filed, folder, verify):
        """Each changes the report's digest; all of them together are each named."""
        for path, (value, _) in self.CHANGES.items():
            report = change(read(filed), path, value)
            assert report_digest(report) != report["report_sha256"]
            write(folder, change(read(folder), path, value))
        done, states = verify(folder)
        assert done.status == 3 and {what for _, what in self.CHANGES.values()} <= set(differing(states))

    def test_one_changed_word_of_the_page(self, folder, verify):
        page = (folder / "report.html").read_text()
        (folder / "report.html").write_text(page.replace(">Request<", ">Wish<", 1))
        done, states = verify(folder)
        assert done.status == 3 and "report.html" in differing(states)

    def test_one_changed_word_of_the_model_card(self, folder, verify):
        card = folder / "model_card.md"
        card.write_text(card.read_text().replace("same use", "any use", 1).replace("None:", "Any:", 1))
        done, states = verify(folder)
        assert done.status == 3 and "model_card.md" in differing(states)
        card.unlink()
        done, states = verify(folder)
        assert done.status == 0 and states["model_card.md"] == "not checked"

    def test_another_picture(self, folder, verify):
        """One that the report tells of, in the place of another."""
        page = (folder / "report.html").read_text()
        first, second = page.split('<img src="')[1:3]
        data = [part.partition('"')[0] for part in (first, second)]
        (folder / "report.html").write_text(page.replace(data[0], data[1], 1))
        done, states = verify(folder)
        assert {"report.html", "report.html, its pictures", "pictures on the page"} <= set(differing(states))

    def test_files_that_are_gone_or_cannot_be_read(self, folder, verify):
        (folder / "report.html").unlink()
        assert differing(verify(folder)[1]) == ["report.html"]
        (folder / "metrics.jsonl").write_text("")
        assert {"figures: metrics.jsonl", "trace"} <= set(differing(verify(folder)[1]))
        (folder / "model.pt").write_bytes(b"PK no weights")
        done, states = verify(folder)
        assert done.status == 3 and "weights: model.pt" in differing(states) and "no figures" not in done.err

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", "null",
         '{"a": 1, "a": 1}', '{"models": NaN}', "[" * 100_000, '{"request": 1, "models": {"x": 1}}',
         '{"files": [1, {"role": []}], "models": 3, "run": [], "pictures": {"a": 1}, "request": "x", "verdict": 1}'],
        ids=range(9),
    )  # fmt: skip
    def test_a_report_that_is_none(self, folder, verify, content):
        (folder / "report.json").write_text(content)
        done, _ = verify(folder)
        assert done.status == 3 and done.err == ""


def change(report: dict, path: str, value: object) -> dict:
    """Put a value in the place that a path names; `toggled` turns a bool around."""
    *parts, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place = report
    for part in parts:
        place = place[part]
    place[last] = not place[last] if value == "toggled" else value
    return report


def flip_a_weight(path: Path, by: float = 0.0) -> None:
    """Turn the lowest bit of the first weight, or change the whole first layer."""
    weights = torch.load(path, weights_only=True)
    name = next(iter(weights))
    if by:
        weights[name] += by
    else:
        weights[name].view(-1).view(torch.int32)[0] ^= 1
    torch.save(weights, path)


def replace_an_index(path: Path) -> None:
    """One forgotten image becomes a retained one, and the reverse, with the digest that belongs to it."""
    from data.datasets import load_dataset
    from data.split_record import Splits

    splits = Splits.load(path, load_dataset("digits", ""))
    forget, retain = splits.forget.clone(), splits.retain.clone()
    forget[0], retain[0] = splits.retain[0], splits.forget[0]
    dataclasses.replace(splits, forget=forget.sort().values, retain=retain.sort().values).save(path)


class TestCannotBeChecked:
    def test_is_exit_status_2_and_one_line(self, folder, verify, tmp_path, original):
        def refused(*parts: object, **options) -> None:
            done, _ = verify(*options.pop("args", (folder,)))
            assert_refused(done, "test.py", *parts)
            assert done.out == ""

        refused(tmp_path / "nowhere", "no such folder", args=(tmp_path / "nowhere",))
        refused("no folder of a finished run", "report.json", args=(tmp_path,))
        refused("no report of an unlearning run", args=(original.folder,))
        refused("--relearn", "--verify", args=(folder, "--relearn"))
        refused("--weight_path", args=(folder, "--weight_path", "model.pt"))
        (folder / "model.pt").unlink()
        refused("resulting weights are not there")

    def test_data_that_is_absent(self, tmp_path, verify):
        for label in ("dark", "light"):
            (tmp_path / "pictures" / label).mkdir(parents=True)
            for number in range(30):
                colour = number + 150 * (label == "light")
                from PIL import Image

                Image.new("RGB", (8, 8), (colour, number, 99)).save(tmp_path / "pictures" / label / f"{number}.png")
        flags = ("--data_dir", tmp_path / "pictures", "--image_size", 8, "--validation", 0.3, "--forget", "random:0.2")
        flags = (*flags, "--train_num_epochs", 3, "--train_batch_size", 8, "--num_epochs", 1, "--figures", "False")
        done = fork(UNLEARN, *SMALL, *flags, "--log_dir", tmp_path / "runs")
        assert done.status in (0, 3, 4), done.err
        (tmp_path / "pictures").rename(tmp_path / "moved")
        done, _ = verify(only(tmp_path / "runs"))
        assert_refused(done, "test.py", tmp_path / "pictures")
        done, _ = verify(only(tmp_path / "runs"), "--data_dir", tmp_path / "moved")
        assert done.status == 0, done.out


class TestChecks:
    def test_exact_ones_tell_types_apart(self):
        assert exact("x", [1, {"a": "b"}], [1, {"a": "b"}]).holds
        for one, other in ((1, 1.0), (1, True), (None, 0), ("1", 1), ([1], [True]), ({"a": 1}, {"a": 1, "b": 2})):
            assert not exact("x", one, other).holds

    def test_near_ones_are_of_numbers(self):
        assert near("x", 1.0, 1.05, 0.1).holds and near("x", None, None, 0.1).holds
        for one, other in ((1.0, 1.2), (None, 1.0), ("1", 1.0), (True, 1.0), ([1.0], 1.0), (float("nan"), 1.0)):
            assert not near("x", one, other, 0.1).holds

    @given(st.recursive(st.none() | st.floats(-1, 1) | st.text(), lambda inner: st.lists(inner, max_size=3)
                        | st.dictionaries(st.text(), inner, max_size=3)))  # fmt: skip
    def test_everything_is_near_itself_and_not_near_more(self, content):
        assert all_near("x", content, content, 0.0).holds
        assert not all_near("x", content, {"more": content}, 1e9).holds

    def test_tolerances_are_two_images_of_the_part(self):
        images = {"forget": 50, "test": 10_000}
        assert tolerance_of("forget_top1", images) == 100 * 2 / 50
        assert tolerance_of("test_top1", images) == 0.05
        assert tolerance_of("mia_auc", images) == 2 / 50 and tolerance_of("mia_tpr", images) is None
        assert tolerance_of("mia_auc", {"forget": 10**6}) == 0.005
        assert tolerance_of("rmia_auc_low", images, {"rmia_auc_low": 0.25, "rmia_auc_high": 0.75}) == 0.125
        assert tolerance_of("test_loss", images, {"test_loss": 2.0}) == pytest.approx(0.025)

    def test_checks_of_values_of_any_kind_are_one_line(self):
        for value in (None, 1, 1.5, True, "a\nb", "x" * 99, [1, 2], {"a": 1}, float("inf"), example()):
            assert str(exact("x", value, value)).count("\n") == 0
