"""Hostile splits: nothing in them is executed, unpacked without bounds or waited for; no digest is trusted."""

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.guard import Payload
from helpers.stored_splits import complaint, stored, toy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.split_record import LARGEST, PARTS, TENSORS, Splits
from data.splits import make_splits
from helper_functions.errors import UserError

pytestmark = pytest.mark.usefixtures("soon")


@pytest.fixture
def path(tmp_path) -> Path:
    make_splits(toy(), "mislabelled:0.2", seed=4).save(tmp_path / "splits.npz")
    return tmp_path / "splits.npz"


def digest(arrays: dict[str, np.ndarray]) -> str:
    """As documented at `Splits.sha256`; anybody can compute it."""
    found = hashlib.sha256(str(arrays["dataset"]).encode())
    for name in TENSORS:
        values = np.asarray(arrays[name]).astype("<i8")
        found.update(f"|{name}:{len(values)}|".encode() + values.tobytes())
    return found.hexdigest()


def alter(path: Path, **changed: np.ndarray) -> None:
    arrays = stored(path) | changed
    np.savez(path, **arrays | {"sha256": np.array(digest(arrays))})


def repack(path: Path, method: int = zipfile.ZIP_DEFLATED, **entries: bytes) -> None:
    """Write the archive again, with some entries replaced."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, entries.get(name.removesuffix(".npy"), data))


class TestArchive:
    def test_a_bomb_is_not_unpacked(self, path, monkeypatch):
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("more.npy", bytes(LARGEST))
        assert path.stat().st_size < LARGEST / 500
        assert len(np.load(path, allow_pickle=False)["more"]) == LARGEST, "NumPy itself unpacks it"
        monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was opened"))
        complaint(path)

    def test_a_size_that_is_claimed_and_not_there(self, path):
        header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
        for shape in ((10**12,), (2**62,), (2**63,), (-5,), (10**30,), (2**32, 2**32)):
            text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}"
            repack(path, train=header + text.encode().ljust(117) + b"\n")
            complaint(path)

    def test_encrypted(self, path):
        whole = bytearray(path.read_bytes())
        for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = whole.find(signature)
            while start >= 0:
                whole[start + place] |= 1
                start = whole.find(signature, start + 4)
        path.write_bytes(whole)
        complaint(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    def test_any_packing_of_the_same_size(self, path, method):
        repack(path, method)
        assert Splits.load(path, toy()).seed == 4

    def test_pickles_are_not_executed(self, path, tmp_path):
        payload = np.array([Payload(tmp_path / "payload")], dtype=object)
        for name in (*TENSORS, "seed", "dataset", "sha256"):
            np.savez(path.with_name("bad.npz"), **stored(path) | {name: payload})
            complaint(path.with_name("bad.npz"))
        np.save(path.with_name("bad.npy"), payload)
        complaint(path.with_name("bad.npy"))
        assert not (tmp_path / "payload").exists()

    def test_nothing_is_waited_for(self, path, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        for name in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
            complaint(name)


class TestContent:
    @pytest.mark.filterwarnings("ignore::RuntimeWarning")  # in the digest's cast
    @pytest.mark.parametrize("values", [
        np.array([0.5]), np.array([np.nan]), np.array([1j]), np.array(["1"]), np.array([True]), np.zeros((2, 2), int),
        np.array(3), np.array([2**64 - 1], np.uint64), np.array([-1]), np.array([2**40]), np.array([5, 5]),
        np.array(["2020-01-01"], "datetime64[D]"), np.zeros(2, [("a", "<i8")]),
    ], ids=str)  # fmt: skip
    @pytest.mark.parametrize("name", ["test", "labels"])
    def test_invalid_indices(self, path, name, values):
        try:
            alter(path, **{name: values})
        except (TypeError, ValueError):  # no digest exists
            np.savez(path, **stored(path) | {name: values})
        assert "damaged" in complaint(path) or name == "labels"

    def test_an_image_in_two_parts(self, path):
        arrays = stored(path)
        for name, other in (("test", "validation"), ("validation", "train"), ("test", "forget")):
            alter(path, **{name: np.sort(np.append(arrays[name], arrays[other][0]))})
            assert "an image stands in two parts" in complaint(path)
            alter(path, **{name: arrays[name]})

    def test_out_of_order(self, path):
        alter(path, test=stored(path)["test"][::-1])
        assert "not in ascending order" in complaint(path)

    def test_a_forget_image_that_stays_in_train(self, path):
        alter(path, forget=stored(path)["forget"][1:])
        assert "forget and retain" in complaint(path)

    def test_a_label_that_is_no_class(self, path):
        arrays = stored(path)
        for label in (3, -1, 2**40):
            labels = arrays["labels"].copy()
            labels[arrays["train"][0]] = label
            alter(path, labels=labels)
            assert "a label is no class" in complaint(path)

    def test_a_test_part_of_another_kind(self, path):
        alter(path, final_test=np.array("official\x1b[2J"))
        assert "no known kind" in complaint(path)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_what_is_accepted_keeps_every_promise(self, tmp_path, data):
        """Arbitrary indices, with a matching digest."""
        path = tmp_path / "splits.npz"
        make_splits(toy(), "mislabelled:0.2", seed=4).save(path)
        index = st.integers(-3, 125) | st.sampled_from([-(2**63), 2**63 - 1])
        changed = data.draw(st.dictionaries(st.sampled_from(PARTS), st.lists(index, max_size=4), min_size=1))
        arrays = stored(path)
        for name, values in changed.items():
            own = arrays[name][data.draw(st.integers(0, len(arrays[name]))) :]
            arrays[name] = np.sort(np.append(own, np.array(values, dtype=np.int64)))
        alter(path, **arrays)
        try:
            splits = Splits.load(path, toy())
        except UserError as error:
            assert "\n" not in str(error)
            return
        parts = {name: set(getattr(splits, name).tolist()) for name in PARTS}
        assert all(len(part) == len(getattr(splits, name)) for name, part in parts.items())
        assert all(part <= set(range(120)) for part in parts.values())
        assert parts["train"] == parts["forget"] | parts["retain"] and not parts["forget"] & parts["retain"]
        apart = [parts[name] for name in ("train", "validation", "unseen", "test")]
        assert len(set().union(*apart)) == sum(map(len, apart))
        assert torch.equal(splits.labels, torch.from_numpy(arrays["labels"]))
