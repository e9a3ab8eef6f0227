"""The benchmark of large folders: its parts, on few and small pictures; a part that the record holds is skipped."""

import json
from pathlib import Path

import pytest

from benchmarks.speed import scale
from benchmarks.speed.scale import Args, Bench, main
from helper_functions.errors import UserError

MEASURED = ("build", "start", "reading")


@pytest.fixture
def args(tmp_path, monkeypatch) -> Args:
    """Few pictures; the parts that start other processes give their name."""
    sides = {"small": 8, "large": 12}
    monkeypatch.setattr(scale, "SIDES", {name: (side, "resnet8", 4, 1, 4) for name, side in sides.items()})
    parts = {name: tuple(part for part in parts if part.__name__ in MEASURED) for name, parts in scale.PARTS.items()}
    monkeypatch.setattr(scale, "PARTS", parts)
    record = str(tmp_path / "record.json")
    return Args(pictures=400, large=300, folder=str(tmp_path / "pictures"), rounds=1, output=record, device="cpu")


def test_parts_are_written_as_they_are_measured_and_not_measured_again(args, monkeypatch):
    monkeypatch.setattr(Bench, "rates", lambda bench, dataset: (2.0, 1.0) if dataset is None else (4.0, 3.0))
    start = Bench.start

    def fail(bench: Bench) -> dict:
        if bench.name == "large":
            raise KeyboardInterrupt
        return start(bench)

    fail.__name__ = "start"
    whole = dict(scale.PARTS)
    monkeypatch.setattr(scale, "PARTS", {name: (parts[0], fail, *parts[2:]) for name, parts in whole.items()})
    with pytest.raises(KeyboardInterrupt):
        main(args)
    stopped = json.loads(Path(args.output).read_text())
    assert [list(stopped[name]) for name in ("small", "large")] == [[*MEASURED], ["build"]]
    monkeypatch.setattr(scale, "PARTS", whole)
    found = main(args)
    assert found == json.loads(Path(args.output).read_text())
    assert found["small"] == stopped["small"] and found["large"]["build"] == stopped["large"]["build"]
    assert found["small"]["build"]["bytes"] == 400 * 8 * 8 * 3
    assert found["large"]["reading"]["steps"]["ratio"] == 1 and found["environment"]["pillow"]
    args.pictures = 401
    with pytest.raises(UserError, match="other settings"):
        main(args)


def test_steps_and_loader_are_timed_from_each_place(args):
    bench = Bench(args, "small", 40)
    scale.make_pictures(bench.home / "small", bench.side, 40)
    found = bench.reading()
    for rates in (found["steps"], found["loader"]):
        assert set(rates["median"]) == {"memory", "disk", "disk, cold"} and min(rates["median"].values()) > 0


def test_a_script_under_a_limit_tells_its_status_and_its_last_line():
    ended = scale.limited(1.0, "-c", "import sys; print('done'); sys.exit(3)")
    assert (ended["status"], ended["last"]) == (3, "done")
    assert "MemoryError" in scale.limited(0.5, "-c", "bytearray(2**30)")["last"]
