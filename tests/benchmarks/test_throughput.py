"""The throughput benchmark: what it prints and writes, with the fewest steps; no timing is judged."""

import json
import math

import pytest
import torch

from benchmarks.speed import bench, throughput
from benchmarks.speed.bench import JOBS, Bench
from benchmarks.speed.plain import PilImages, Plain, network
from benchmarks.speed.throughput import Args, main
from benchmarks.speed.utilisation import flops_of
from data.loaders import TensorLoader
from helper_functions.errors import UserError
from helper_functions.training.devices import Precision
from models.cropped_convolution import CroppedConv2d

FP32 = Precision(torch.device("cpu"), torch.float32)


def test_pairs_of_every_job_are_measured_printed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "NUM_CLASSES", 2)
    monkeypatch.setattr(bench, "MEASURED", 32)
    output = tmp_path / "throughput.json"
    main(Args(data_dir=str(tmp_path), batch_sizes=[4, 8], pairs=1, steps=1, device="cpu", output=str(output)))
    result, said = json.loads(output.read_text()), capsys.readouterr().out
    assert set(result) == {"batch_size", "pairs", "further", "environment", "settings"}
    (further,) = result["further"]
    assert (result["batch_size"], further["batch_size"]) == (4, 8)
    rows = [line.split() for line in said.splitlines() if line]
    for table in (result["pairs"], further["pairs"]):
        assert [pair["name"] for pair in table] == list(JOBS)
        for pair in table:
            check_pair(pair)
            assert any(row[:2] == [pair["name"], f"{pair['ours']:,.0f}"] for row in rows), pair["name"]
    flops = {pair["name"]: pair["flops_per_image"] for pair in result["pairs"]}
    assert flops["sam"] == 2 * flops["train"] > 4 * flops["evaluation"] > 0 == flops["loader"]
    assert {"torch", "torchvision", "pillow"} <= set(result["environment"])
    assert result["settings"]["batch_sizes"] == [4, 8] and "random images" in said


def check_pair(pair: dict) -> None:
    """All figures of a job are there; with one pair, the median of the ratios is the ratio of the medians."""
    assert all(math.isfinite(pair[key]) and pair[key] > 0 for key in ("ours", "plain", "ratio", "peak_flops"))
    assert pair["ratio"] == pytest.approx(pair["ours"] / pair["plain"])
    assert pair["utilisation"] == pytest.approx(pair["flops_per_image"] * pair["ours"] / pair["peak_flops"])
    assert min(pair["ours_memory_bytes"], pair["plain_memory_bytes"]) > 2**20
    assert pair["ranges"]["ours"] == [pair["ours"]] * 2


def test_ours_is_channels_last_and_the_plain_way_is_not():
    def convolution(model) -> torch.nn.Conv2d:
        return model.layer1[0].conv1

    bench = Bench(None, FP32, 2, 1)
    ours, plain = bench.model(), network(bench.model())
    assert isinstance(convolution(ours), CroppedConv2d) and type(convolution(plain)) is torch.nn.Conv2d
    assert not convolution(ours).weight.is_contiguous()
    assert all(parameter.is_contiguous() for parameter in plain.parameters())
    inputs = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = ours.eval()(inputs.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain.eval()(inputs), outputs, rtol=1e-3, atol=1e-4)


def test_later_batch_sizes_take_as_many_images():
    bench = Bench(None, None, batch_size=128, steps=10)
    assert {size: bench.resized(size).steps for size in (64, 512, 1024, 4096)} == {64: 20, 512: 2, 1024: 1, 4096: 1}


def test_nothing_is_measured_where_the_output_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "MEASURED", 8)
    output = tmp_path / "throughput.json"
    output.write_text("mine")
    for path, complaint in ((output, "not overwritten"), (tmp_path / "absent" / "throughput.json", "no such folder")):
        with pytest.raises(UserError, match=complaint):
            main(Args(output=str(path)))
    assert output.read_text() == "mine" and list(tmp_path.iterdir()) == [output]
    for sizes, complaint in (([128, 4501], "--batch_sizes 4501: the unseen set has"), ([], "--batch_sizes is empty")):
        with pytest.raises(UserError, match=complaint):
            main(Args(data_dir=str(tmp_path), batch_sizes=sizes))


def test_a_ratio_is_the_median_of_neighbours_ratios(monkeypatch, capsys):
    class Ours:
        rates = iter([10.0, 40.0, 90.0])

        def __call__(self) -> float:
            return next(self.rates)

        def flops_per_image(self) -> float:
            return 6.0

    plain, products = iter([10.0, 10.0, 30.0]), iter([600.0, 600.0, 600.0])
    monkeypatch.setattr(throughput, "matrix_product", lambda precision: next(products))
    bench = Bench(None, FP32, 128, 1)
    measured = throughput.measure("train", lambda bench: (Ours(), lambda: next(plain)), bench, 3)
    assert {key: measured[key] for key in ("name", "ours", "plain", "ratio")} == {
        "name": "train", "ours": 40.0, "plain": 10.0, "ratio": 3.0,
    }  # fmt: skip
    assert measured["utilisation"] == pytest.approx(0.4)
    assert measured["ranges"]["ratio"] == [1.0, 4.0]
    row = capsys.readouterr().out
    assert "3.00 [1.00-4.00]" in row and "40.0 %" in row


def test_operations_are_two_for_a_multiplication_and_its_addition():
    matrix = torch.ones(3, 5)
    assert flops_of(lambda: len(matrix @ torch.ones(5, 7))) == (3, 2 * 3 * 5 * 7)


def test_plain_images_are_those_of_our_loader():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (9, 3, 32, 32), generator=generator, dtype=torch.uint8)
    indices = torch.tensor([5, 2, 7, 1])
    ours = TensorLoader(images, torch.arange(9), indices, 4, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    inputs, labels = next(iter(ours))
    theirs = PilImages(ours)
    assert [theirs[i][1] for i in range(4)] == labels.tolist()
    torch.testing.assert_close(torch.stack([theirs[i][0] for i in range(4)]), inputs, rtol=0, atol=1e-5)

    seen = []
    measure = Plain(lambda batch: seen.append(len(batch[1])), [ours], batch_size=2, steps=3)
    for stretches in (1, 2):
        assert measure() > 0
        # One step before each stretch is not counted.
        assert seen == [2] * 4 * stretches
