"""The growth benchmark: what it prints, writes and draws, on few and small settings; no timing is judged."""

import dataclasses
import json

import pytest
import torch

from benchmarks.speed import forgetting_cost
from benchmarks.speed.forgetting_cost import BATCH_SIZE, Forgetting, Setting
from benchmarks.speed.growth import COLOURS, TITLES, Args, factors, main, summarise
from data.datasets import Dataset
from helper_functions.errors import UserError
from helper_functions.training.devices import Precision


def test_all_factors_are_measured_printed_written_and_drawn(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "made" / "growth"
    monkeypatch.setattr(forgetting_cost, "LEARNED", BATCH_SIZE)
    monkeypatch.setattr(forgetting_cost, "HELD_OUT", 50)
    main(Args(quick=True, data_dir=str(tmp_path), output=str(folder), device="cpu"))
    said = capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"growth.json", "growth.png"}
    assert (folder / "growth.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((folder / "growth.json").read_text())
    assert list(result["factors"]) == list(TITLES) and result["rounds"] == 1
    assert result["dataset"] == "random images"
    for factor in result["factors"].values():
        assert factor["x"] in said and set(factor["slopes"]) == set(COLOURS)
        for row in factor["settings"]:
            assert row["gradient_steps"] == -(-row["forget"] // BATCH_SIZE)
            assert row["gradient_images"] == row["forget"] + BATCH_SIZE * row["gradient_steps"]
            assert all(row[key] > 0 for key in COLOURS)
    models = [row["x"] for row in result["factors"]["model"]["settings"]]
    assert models == sorted(set(models))


@pytest.mark.parametrize("quick", [False, True])
def test_one_factor_differs_at_a_time(quick):
    for name, settings in factors(quick).items():
        sizes = {field: {getattr(setting, field) for setting in settings} for field in vars(settings[0])}
        varied = {field for field, values in sizes.items() if len(values) > 1}
        assert varied <= ({"model", "width"} if name == "model" else {name}) and varied
        assert all(setting.forget < setting.images for setting in settings)


def test_forget_sets_below_one_batch_are_shown_and_not_fitted():
    base = Setting(forget=10, images=5000, classes=10, model="resnet8", width=4)
    settings = [dataclasses.replace(base, forget=number) for number in (10, 1000, 10_000)]
    costs = {"unlearning_seconds": 1.0, "evaluation_seconds": 2.0, "gradient_steps": 1, "forward_flops": 7}
    measured = {
        setting: [{**costs, "unlearning_seconds": setting.forget * factor} for factor in (0.5, 1, 4)]
        for setting in settings
    }
    factor = summarise("forget", settings, measured)
    assert [row["x"] for row in factor["settings"]] == [10, 1000, 10_000] and factor["fitted_from"] == 1000
    assert [row["unlearning_seconds"] for row in factor["settings"]] == [10, 1000, 10_000]
    assert factor["settings"][1]["ranges"]["unlearning_seconds"] == [500, 4000]
    assert factor["slopes"] == pytest.approx({"unlearning_seconds": 1, "evaluation_seconds": 0})


def test_every_run_starts_from_the_same_original_and_its_evaluation_is_timed_apart():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1400, 3, 16, 16), dtype=torch.uint8, generator=generator)
    dataset = Dataset("noise", images, torch.arange(1400) % 4, tuple("abcd"), 300, (0.5,) * 3, (0.3,) * 3)
    forgetting = Forgetting(dataset, Precision(torch.device("cpu"), torch.float32), seed=0)
    setting = Setting(forget=20, images=200, classes=4, model="resnet8", width=2)
    first, second = forgetting.cost(setting), forgetting.cost(setting)
    assert forgetting.original.cache_info().misses == 1
    timeless = {key for key in first if not key.endswith("seconds")}
    assert {key: first[key] for key in timeless} == {key: second[key] for key in timeless}
    assert first["gradient_steps"] == 1 and first["gradient_images"] == 20 + BATCH_SIZE
    assert first["unlearning_seconds"] > 0 and first["evaluation_seconds"] > 0


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no folder can be made there"):
        main(Args(output=str(tmp_path / "file" / "growth")))
