"""Splits on disk: they load as they were saved; damaged files and those of other data are refused."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.stored_splits import complaint, stored, toy

from data.split_record import TENSORS, Splits
from data.splits import make_splits
from helper_functions.errors import UserError


@pytest.fixture
def saved(tmp_path):
    splits = make_splits(toy(), "mislabelled:0.2", seed=4)
    splits.save(tmp_path / "splits.npz")
    return splits, tmp_path / "splits.npz"


def test_round_trip(saved):
    splits, path = saved
    loaded = Splits.load(path, toy())
    assert all(torch.equal(getattr(splits, name), getattr(loaded, name)) for name in TENSORS)
    for name in ("forget_request", "dataset", "seed", "final_test", "sha256"):
        assert getattr(splits, name) == getattr(loaded, name)
    assert [file.name for file in path.parent.iterdir()] == ["splits.npz"]


def test_digest_depends_on_every_tensor_and_the_name():
    splits = make_splits(toy(), "class:0")
    changed = [dataclasses.replace(splits, **{name: getattr(splits, name)[:-1]}) for name in TENSORS]
    changed.append(dataclasses.replace(splits, dataset="other"))
    moved = dataclasses.replace(
        splits, forget=splits.forget[:-1], retain=torch.cat([splits.forget[-1:], splits.retain])
    )
    assert len({other.sha256 for other in (*changed, moved, splits)}) == len(changed) + 2


def test_digest_does_not_depend_on_the_notes():
    splits = make_splits(toy(), "class:0")
    assert dataclasses.replace(splits, forget_request="class:a").sha256 == splits.sha256


def test_every_kind_of_damage_is_one_line(saved, tmp_path):
    whole = saved[1].read_bytes()
    damaged = tmp_path / "damaged.npz"
    for content in (b"", b"PK", b"no archive", whole[: len(whole) // 2], whole[:-1]):
        damaged.write_bytes(content)
        complaint(damaged)
    for position in range(0, len(whole), 97):
        damaged.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            loaded = Splits.load(damaged, toy())
        except UserError as error:
            assert "\n" not in str(error)
        else:  # a byte that carries nothing, such as a time stamp
            assert loaded.sha256 == saved[0].sha256


@pytest.mark.parametrize("change", [
    {"train": np.arange(3)}, {"seed": np.array("x")}, {"sha256": np.array("0" * 64)}, {"retain": None},
])  # fmt: skip
def test_altered_content_is_refused(saved, tmp_path, change):
    arrays = {name: value for name, value in (stored(saved[1]) | change).items() if value is not None}
    np.savez(tmp_path / "altered.npz", **arrays)
    assert "damaged" in complaint(tmp_path / "altered.npz")


def test_other_data_is_refused(saved):
    path = saved[1]
    assert "belong to toy, not to other" in complaint(path, toy("other"))
    assert "made for 120 images, the data set has 121" in complaint(path, toy(size=121))
    assert "other labels" in complaint(path, toy(shift=1))


def test_missing_files_and_folders(saved, tmp_path):
    assert "No such file" in complaint(tmp_path / "nowhere.npz")
    assert "directory" in complaint(tmp_path)
    with pytest.raises(OSError):
        saved[0].save(tmp_path / "nowhere" / "splits.npz")


def test_a_failed_write_leaves_the_earlier_file(saved, monkeypatch):
    splits, path = saved
    before = path.read_bytes()

    def disk_full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", disk_full)
    with pytest.raises(OSError, match="No space left"):
        splits.save(path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
