"""The throughput benchmark: what it prints and writes, with the fewest steps there can be; no timing is judged."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helper_functions.errors import UserError

REPOSITORY = Path(__file__).parent.parent
NAMES = ["train", "sam", "constrained", "contrastive", "evaluation", "loader"]


def test_pairs_of_every_job_are_measured_printed_and_written(tmp_path):
    output = tmp_path / "throughput.json"
    flags = ["--data_dir", tmp_path, "--batch_size", 4, "--pairs", 1, "--steps", 1, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput", *map(str, flags), "--output", output],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert set(result) == {"pairs", "methods", "hardware", "versions"}
    methods = result["methods"]
    assert methods["ratio"] == pytest.approx(methods["contrastive"] / methods["constrained"])
    assert [pair["name"] for pair in result["pairs"]] == NAMES
    for pair in result["pairs"]:
        assert set(pair) == {"name", "ours", "plain", "ratio"}
        assert all(math.isfinite(pair[key]) and pair[key] > 0 for key in ("ours", "plain", "ratio"))
        # With one pair, the median of the ratios is the ratio of the medians.
        assert pair["ratio"] == pytest.approx(pair["ours"] / pair["plain"])
    assert result["hardware"]["cpu_threads"] == 1 and {"torch", "torchvision", "pillow"} <= set(result["versions"])
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert set(NAMES) | {"hardware", "versions"} <= set(rows) and "random images" in done.stdout
    assert all(f"{pair['ours']:,.0f} [" in rows[pair["name"]] for pair in result["pairs"])


def test_nothing_is_measured_where_the_output_cannot_be_written(tmp_path):
    from benchmarks.throughput import Args, main

    output = tmp_path / "throughput.json"
    output.write_text("mine")
    for path, complaint in ((output, "not overwritten"), (tmp_path / "absent" / "throughput.json", "no such folder")):
        with pytest.raises(UserError, match=complaint):
            main(Args(output=str(path)))
    assert output.read_text() == "mine" and list(tmp_path.iterdir()) == [output]


def test_a_ratio_is_the_median_of_neighbours_ratios(capsys):
    from benchmarks import throughput

    ours, plain = iter([10.0, 40.0, 90.0]), iter([10.0, 10.0, 30.0])
    job = (lambda: next(ours)), (lambda: next(plain))
    measured = throughput.measure("train", lambda bench: job, None, 3)
    assert measured == {"name": "train", "ours": 40.0, "plain": 10.0, "ratio": 3.0}
    assert "3.00 [1.00-4.00]" in capsys.readouterr().out


def test_plain_images_are_those_of_our_loader():
    from benchmarks.plain import PilImages, Plain
    from data.loaders import TensorLoader

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
