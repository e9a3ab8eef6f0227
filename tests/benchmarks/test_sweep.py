"""Sweeps: each cell runs once, originals are found again, and incomplete lines of a killed run are replaced."""

import dataclasses
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import train
from benchmarks.leaderboard import trained_models
from benchmarks.leaderboard.cells import Cell, method_flags
from benchmarks.leaderboard.trained_models import Training, model_key
from benchmarks.sweeps import robustness
from benchmarks.sweeps.sweep import append_row, command_line, read_rows, run_all
from data.datasets import load_dataset
from data.split_record import Splits
from helper_functions.errors import NotFinite, UserError
from helper_functions.files import key_of, load_config
from helper_functions.signals import Stopped, listening

TINY = "dataset: digits\nmodel: resnet8\nwidth: 4\nnum_epochs: 1\nbatch_size: 64\n"


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Training:
    folder = tmp_path_factory.mktemp("models")
    (folder / "train.yaml").write_text(TINY)
    return Training(str(folder / "train.yaml"), str(folder / "models"))


def double(cell: dict) -> int:
    """The work of a cell, in another process."""
    if cell["number"] == 2:
        raise UserError("2 cannot be doubled")
    if cell["number"] == 3:
        raise NotFinite("the loss became NaN")
    return 2 * cell["number"]


class TestRows:
    def test_an_incomplete_line_is_dropped_and_written_over(self, tmp_path):
        path = tmp_path / "rows" / "results.jsonl"
        append_row(path, {"key": "a", "value": 1})
        with open(path, "a") as file:
            file.write('{"key": "b", "val')
        assert set(read_rows(path)) == {"a"}
        append_row(path, {"key": "c", "value": 3})
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]

    @pytest.mark.parametrize("line", ["{", "[1]", '{"value": 1}', "null"])
    def test_a_file_of_something_else_is_refused(self, tmp_path, line):
        path = tmp_path / "rows.jsonl"
        path.write_text(f"{line}\n")
        with pytest.raises(UserError, match="line 1 is no finished cell"):
            read_rows(path)

    def test_several_writers_lose_nothing(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: append_row(path, {"key": str(number), "text": "x" * 5000}), range(64)))
        assert set(read_rows(path)) == {str(number) for number in range(64)}

    def test_a_key_changes_with_any_value_and_not_with_the_order(self):
        assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
        assert len({key_of(cell) for cell in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": None})}) == 5

    def test_a_cell_that_fails_does_not_stop_the_others(self):
        cells = [{"number": number} for number in range(1, 5)]
        found = {cell["number"]: (result, repr(error)) for cell, result, error in run_all(double, cells, 2, "cells")}
        assert {number: result for number, (result, _) in found.items()} == {1: 2, 2: None, 3: None, 4: 8}
        assert "cannot be doubled" in found[2][1] and "NotFinite" in found[3][1]


def ask_to_stop(cell: dict) -> None:
    """The first cell stops the sweep; the others run until they are stopped, and then save."""
    folder, number = Path(cell["folder"]), cell["number"]
    (folder / f"{number}.began").touch()
    try:
        if number == 0:
            while not (folder / "1.began").exists():
                time.sleep(0.01)
            os.kill(os.getppid(), signal.SIGTERM)
        while True:
            time.sleep(0.01)
    except Stopped:
        (folder / f"{number}.saved").touch()
        raise


class TestStopping:
    def test_processes_save_what_they_are_at_and_end(self, tmp_path):
        cells = [{"number": number, "folder": str(tmp_path)} for number in range(6)]
        others = set(active_children())
        with pytest.raises(Stopped) as stopped, listening():
            list(run_all(ask_to_stop, cells, 2, "cells"))
        assert stopped.value.number == signal.SIGTERM and set(active_children()) <= others
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0.began", "0.saved", "1.began", "1.saved"]

    def test_processes_end_with_the_one_that_began_them(self, tmp_path):
        cells = [{"number": number, "folder": str(tmp_path)} for number in range(1, 4)]
        sweep = get_context("spawn").Process(target=sweep_over, args=(cells,))
        sweep.start()
        began = [tmp_path / f"{number}.began" for number in (1, 2)]
        while not all(path.exists() for path in began):
            time.sleep(0.01)
        children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
        sweep.kill()
        sweep.join()
        while any(is_running(int(child)) for child in children):
            time.sleep(0.01)


def sweep_over(cells: list[dict]) -> None:
    list(run_all(ask_to_stop, cells, 2, "cells"))


def is_running(process: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestTrainedModels:
    def test_an_original_is_trained_once_and_serves_every_set_that_is_named_after_it(self, training):
        original = training.original("class:3", 0)
        stamp = (original / "model.pt").stat().st_mtime_ns
        assert training.original("random:0.1", 0) == original and (original / "model.pt").stat().st_mtime_ns == stamp
        assert training.original("random:0.1", 1) != original
        assert training.original("mislabelled:0.1", 0) != original

    @pytest.mark.parametrize("forget", ["class:3", "random:0.1", "mislabelled:0.1"])
    def test_retrained_models_share_the_splits_and_differ_by_their_seed(self, training, forget):
        first, second = (training.retrained(forget, 0, further) for further in (0, 1000))
        dataset = load_dataset("digits", "")
        folders = training.original(forget, 0), first, second
        original, *splits = (Splits.load(folder / "splits.npz", dataset) for folder in folders)
        for own in splits:
            assert torch.equal(own.train, original.train) and torch.equal(own.retain, splits[0].retain)
            assert torch.equal(own.labels, original.labels) and 0 < len(own.forget) < len(own.train)
        if forget == "class:3":
            assert (dataset.labels[splits[0].forget] == 3).all() and not (dataset.labels[splits[0].retain] == 3).any()
        weights = [torch.load(folder / "model.pt")["conv1.weight"] for folder in (first, second)]
        assert not torch.equal(*weights)

    @pytest.mark.parametrize("forget", ["class:3", "random:0.1", "mislabelled:0.1"])
    def test_a_forget_set_of_the_configuration_is_not_that_of_a_further_retrained_model(self, tmp_path, forget):
        (tmp_path / "train.yaml").write_text(TINY + "forget: random:0.2\n")
        training, dataset = Training(str(tmp_path / "train.yaml"), str(tmp_path / "models")), load_dataset("digits", "")
        first, second = (
            Splits.load(training.retrained(forget, 0, further) / "splits.npz", dataset) for further in (0, 1)
        )
        assert torch.equal(first.forget, second.forget) and torch.equal(first.labels, second.labels)

    def test_a_training_that_was_stopped_is_gone_on_with(self, training, tmp_path, monkeypatch):
        own = dataclasses.replace(training, log_dir=str(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(train, "judge_all", interrupted)
            with pytest.raises(KeyboardInterrupt):
                own.original("", 0)
        (begun,) = tmp_path.iterdir()
        assert own.original("", 0) == begun and (begun / "report.json").exists()
        assert list(tmp_path.iterdir()) == [begun]

    def test_where_a_model_was_trained_plays_no_part_in_its_key(self, training):
        config = load_config(training.original("", 0) / "config.yaml")
        elsewhere = {**config, "log_dir": "other", "name_prefix": "x", "device": "cuda", "log_interval": 7}
        older = {name: value for name, value in config.items() if name not in ("labels", "subset")}
        assert model_key(older) == model_key(config) != model_key({**config, "labels": "superclass"})
        assert model_key(elsewhere) == model_key(config) != model_key({**config, "learning_rate": 0.2})
        with pytest.raises(UserError, match="there is no such file"):
            model_key({**config, "splits": "absent.npz"})


def interrupted(*args, **kwargs):
    """As if the user had pressed Ctrl-C there."""
    raise KeyboardInterrupt


class TestMemorisation:
    def test_thirds_are_disjoint_ordered_by_score_and_a_tenth_of_all(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randperm(5000, generator=generator)[:900].tolist()
        scores = dict(zip(images, torch.rand(900, generator=generator).tolist(), strict=True))
        low, middle, high = (trained_models.choose(scores, third, 0) for third in trained_models.THIRDS)
        assert [len(part) for part in (low, middle, high)] == [90, 90, 90]
        ranges = [[scores[image] for image in part.tolist()] for part in (low, middle, high)]
        assert max(ranges[0]) < min(ranges[1]) and max(ranges[1]) < min(ranges[2])
        assert low.tolist() == sorted(low.tolist())
        assert not torch.equal(low, trained_models.choose(scores, "low", 1))

    def test_every_image_is_scored_by_the_model_that_never_saw_it(self, training):
        scores = trained_models.score(training, 0)
        dataset = load_dataset("digits", "")
        splits = Splits.load(training.original("", 0) / "splits.npz", dataset)
        assert sorted(scores) == splits.train.tolist()
        for number in range(2):
            (folder,) = find_half(training, number)
            own = Splits.load(folder / "splits.npz", dataset)
            argv = ["--config_file", training.config_file, "--splits", str(folder / "splits.npz")]
            experiment = train.Experiment(train.get_parser().parse(argv))
            model = experiment.model(str(folder / "model.pt")).eval()
            images = own.forget[:20]
            with torch.no_grad(), experiment.precision.autocast():
                inputs, labels = next(iter(experiment.sets.evaluation(images)))
                losses = F.cross_entropy(model(inputs).float(), labels, reduction="none")
            torch.testing.assert_close(torch.tensor([scores[i] for i in images.tolist()]), losses, rtol=2e-2, atol=2e-2)

    def test_a_list_is_written_once_and_other_requests_stay(self, training):
        request = trained_models.resolve("memorised:high", training, 0)
        assert request.startswith("file:") and request == trained_models.resolve("memorised:high", training, 0)
        assert trained_models.resolve("class:3", training, 0) == "class:3"
        with pytest.raises(UserError, match="memorised:upper"):
            trained_models.resolve("memorised:upper", training, 0)


def find_half(training: Training, number: int):
    """The run that was trained without half `number`."""
    (listed,) = Path(training.log_dir).glob(f"half-{number}-*.txt")
    for path in Path(training.log_dir).glob("half-*/config.yaml"):
        if load_config(path)["forget"] == f"file:{listed}":
            yield path.parent


class TestCells:
    def test_tuned_flags_are_those_of_the_kind_or_of_its_next_of_kin(self, tmp_path):
        for kind in ("random", "class"):
            (tmp_path / kind).mkdir()
            (tmp_path / kind / "scrub.yaml").write_text(f"method: scrub\nlearning_rate: {len(kind)}\n")
        assert method_flags(str(tmp_path), "random", "scrub")["learning_rate"] == 6
        assert method_flags(str(tmp_path), "memorised", "scrub")["learning_rate"] == 6
        assert method_flags(str(tmp_path), "superclass", "scrub")["learning_rate"] == 5
        assert method_flags(str(tmp_path), "mislabelled", "scrub") == {"method": "scrub"}
        with pytest.raises(UserError, match="--methods scrubber: no method"):
            method_flags(str(tmp_path), "random", "scrubber")

    def test_the_key_goes_with_flags_and_models_alone(self, training):
        models = str(training.original("class:3", 0)), (str(training.retrained("class:3", 0, 0)),)
        cell = Cell("scrub", "class:3", 0, {"method": "scrub"}, *models, "here", 10)
        assert cell.key == dataclasses.replace(cell, log_dir="there", log_interval=3).key
        others = [
            dataclasses.replace(cell, flags={"method": "scrub", "learning_rate": 0.1}),
            dataclasses.replace(cell, retrained=(*models[1], str(training.retrained("class:3", 0, 1000)))),
            dataclasses.replace(cell, method="scrub_r"),
        ]
        assert len({cell.key, *(other.key for other in others)}) == 4

    def test_flags_are_what_a_command_line_takes(self):
        assert command_line({"mean": [0.5, 0.25], "rewind": True, "method": "ssd", "batch_size": None}) == [
            "--mean", "0.5", "0.25", "--rewind", "True", "--method", "ssd", "--batch_size", "null",
        ]  # fmt: skip


def test_a_sweep_over_flags_skips_finished_cells(tmp_path, capsys, hasty):
    (tmp_path / "run.yaml").write_text("dataset: digits\nmodel: resnet8\nwidth: 4\ntrain_num_epochs: 1\n")
    flags = ["--config_file_of_runs", tmp_path / "run.yaml", "--output", tmp_path / "rows.jsonl"]
    flags += ["--forget", "class:3", "--learning_rate", 0.01, "--batch_size", 64, "--seeds", 1, "--workers", 1]
    args = robustness.get_parser().parse([*map(str, flags), "--log_dir", str(tmp_path / "runs")])
    rows = robustness.main(args)["cells"]
    assert {row["solver"] for row in rows} == {"penalty", "lagrangian", "augmented_lagrangian"}
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert robustness.main(args)["cells"] == rows and (tmp_path / "rows.jsonl").read_bytes() == before
    assert capsys.readouterr().out.count("class:3 | lagrangian | 1 | ") == 2


def test_the_table_of_the_documents_is_the_records():
    docs = Path(__file__).parents[2] / "docs"
    rows = read_rows(docs / "robustness_digits.jsonl").values()
    assert robustness.summary(list(rows)) in (docs / "results.md").read_text()
