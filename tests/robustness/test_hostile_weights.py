"""Hostile files of weights: each is refused in one line, and nothing in it is executed."""

import copy
import errno
import gzip
import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.guard import Payload
from helpers.processes import SMALL, assert_refused, contents, fork, only
from torch import nn

from helper_functions.errors import UserError
from models import get_model
from models.weight_files import read_weight_file
from models.weights import load_state

UNLEARN, CONTRASTIVE = "train_constrained_unlearning.py", "train_contrastive.py"
TRILLION = 10**12


def refused(path: Path, *parts: str, model: nn.Module | None = None) -> None:
    """Reading the weights, into a model where one is given, ends in one printable line with the file's name."""
    with pytest.raises(UserError) as info:
        load_state(model or nn.Linear(2, 2), read_weight_file(path)[0], path)
    message = str(info.value)
    assert message.isprintable() and path.name in message and len(message) < 1000
    for part in parts:
        assert part in message


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def whole(number: int) -> bytes:
    data = number.to_bytes(8, "little")
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def archive(path: Path, pickle_: bytes, **entries: bytes) -> Path:
    """A torch file around a pickle that torch.save does not write."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": pickle_, "version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name}", content)
    return path


def legacy(path: Path, pickle_: bytes) -> Path:
    """Likewise in the format of torch before 1.6."""
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    file = io.BytesIO(path.read_bytes())
    for _ in range(3):
        pickle.load(file)
    path.write_bytes(file.getvalue()[: file.tell()] + pickle_ + pickle.dumps([], 2))
    return path


# Ten megabytes out of 40 bytes, and a codec whose time grows with the square of the text.
BYTEARRAY = b"cbuiltins\nbytearray\n" + whole(10**7) + b"\x85R"
PUNYCODE = b"c_codecs\nencode\n" + text("a" * 1000) + text("punycode") + b"\x86R"


class TestPickles:
    @pytest.mark.parametrize("where", ["weights", "optimizer", "name"])
    @pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "bare, protocol 5"])
    def test_a_payload_is_not_executed(self, tmp_path, kind, where):
        path, trace = tmp_path / "w.pt", tmp_path / "trace"
        payload = Payload(trace)
        content = {
            "weights": {"weight": payload},
            "optimizer": {"state_dict": nn.Linear(2, 2).state_dict(), "optimizer": payload},
            "name": {"state_dict": nn.Linear(2, 2).state_dict(), payload: 1},
        }[where]
        if kind.startswith("bare"):
            path.write_bytes(pickle.dumps(content, 5 if "5" in kind else 2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        refused(path, "no readable checkpoint")
        assert not trace.exists()
        torch.load(path, weights_only=False) if not kind.startswith("bare") else pickle.loads(path.read_bytes())
        assert trace.exists(), "the payload works"

    @pytest.mark.parametrize("write", [archive, legacy])
    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (BYTEARRAY, "builtins.bytearray"), (PUNYCODE, "_codecs.encode"),
            (b"ctorch\nTensor\n" + whole(TRILLION) + b"\x85R", "readable"),
            (b"cos\nsystem\n" + text("true") + b"\x85R", "os.system"),
            (b"t", "readable"), (b"h\x07", "readable"), (b"s", "readable"), (b"\xff", "readable"),
        ],
        ids=range(8),
    )  # fmt: skip
    def test_pickles_that_unfold_or_are_damaged(self, tmp_path, write, body, says):
        refused(write(tmp_path / "w.pt", pickled(body)), says)

    def test_torch_itself_builds_what_unfolds(self, tmp_path):
        """The attack that the guard is for."""
        path = archive(tmp_path / "w.pt", pickled(BYTEARRAY))
        assert len(torch.load(path, weights_only=True)) > 10_000 * path.stat().st_size
        assert isinstance(torch.load(archive(path, pickled(PUNYCODE)), weights_only=True), bytes)

    @pytest.mark.parametrize("write", [archive, legacy])
    def test_ten_thousand_dicts_in_one_another(self, tmp_path, write):
        body = (b"}" + text("a")) * 10_000 + b"N" + b"s" * 10_000
        refused(write(tmp_path / "w.pt", pickled(body)), "'a' is a dict")

    def test_a_checkpoint_that_holds_itself(self, tmp_path):
        body = b"}q\x00" + text("state_dict") + b"h\x00s"
        refused(archive(tmp_path / "w.pt", pickled(body)), "'state_dict' is a dict")

    def test_a_dict_whose_methods_the_file_replaces(self, tmp_path):
        attributes = b"}" + b"".join(text(name) + b"K\x01s" for name in ("items", "keys", "get", "_metadata"))
        body = b"ccollections\nOrderedDict\n)R" + attributes + b"b"
        refused(archive(tmp_path / "w.pt", pickled(body)), "empty")

    def test_a_tensor_whose_methods_the_file_replaces(self, tmp_path):
        weight, model = nn.Parameter(torch.eye(2)), nn.Linear(2, 2)
        weight.numel = weight.untyped_storage = weight.detach = weight.is_floating_point = weight.to = 5
        torch.save({"weight": weight, "bias": torch.zeros(2)}, tmp_path / "w.pt")
        load_state(model, read_weight_file(tmp_path / "w.pt")[0], "w.pt")
        assert torch.equal(model.weight, torch.eye(2))


class TestArchives:
    """Two kinds of archives that torch unpacks to many times their size, and others."""

    @pytest.mark.parametrize("kind", ["compressed", "shared"])
    def test_entries_that_claim_more_than_the_file_holds(self, tmp_path, kind):
        path, zeros = tmp_path / "w.pt", torch.zeros(100_000)
        torch.save({str(number): zeros.clone() for number in range(50)}, path)
        with zipfile.ZipFile(path) as file:
            entries = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED) as file:
            for name, content in entries.items():
                first = re.sub(r"/data/\d+$", "/data/0", name)
                if kind == "shared" and first in file.namelist():
                    info = copy.copy(file.getinfo(first))
                    info.filename = name
                    file.filelist.append(info)
                else:
                    file.writestr(name, content)
        loaded = torch.load(path, weights_only=True)
        assert sum(value.nbytes for value in loaded.values()) > 30 * path.stat().st_size
        refused(path, "claims more than it holds")

    def test_two_pickles_of_which_torch_reads_the_other(self, tmp_path):
        path = archive(tmp_path / "w.pt", pickled(b"N"))
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("Archive/DATA.PKL", pickled(BYTEARRAY))
        refused(path, "builtins.bytearray")

    def test_torchscript(self, tmp_path):
        entries = {"constants.pkl": pickled(b")"), "code/__torch__.py": b"class Module: pass"}
        refused(archive(tmp_path / "w.pt", pickled(b"c__torch__\nModule\n)\x81}b"), **entries), "readable")

    def test_other_archives(self, tmp_path):
        path = tmp_path / "w.pt"
        state = nn.Linear(2, 2).state_dict()
        torch.save(state, path)
        plain = path.read_bytes()
        path.write_bytes(gzip.compress(plain))
        refused(path, "no readable checkpoint")
        path.write_bytes(gzip.compress(bytes(2**26)))
        refused(path, "no readable checkpoint")
        for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            with tarfile.open(path, "w", format=form) as file:  # as torch before 0.1.10 wrote
                for name in ("storages", "tensors", "pickle", "../outside", "/outside"):
                    info = tarfile.TarInfo(name)
                    info.size = len(plain)
                    file.addfile(info, io.BytesIO(plain))
            refused(path, "no readable checkpoint")
        info = tarfile.TarInfo("storages")
        info.size, info.type = 2**40, tarfile.REGTYPE
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
        refused(path, "no readable checkpoint")

    def test_zeros_and_files_longer_than_memory(self, tmp_path):
        path = tmp_path / "w.pt"
        path.write_bytes(bytes(1000))
        refused(path, "no readable checkpoint")
        torch.save(nn.Linear(2, 2).state_dict(), path)
        os.truncate(path, 2**43)  # which takes no space on the disk
        refused(path, "no readable checkpoint")

    def test_a_storage_shorter_than_it_claims(self, tmp_path):
        path = tmp_path / "w.pt"
        torch.save({"a": torch.arange(16.0)}, path)
        with zipfile.ZipFile(path) as file:
            entries = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
        changed = entries.pop("data.pkl").replace(b"K\x10", b"J\0\0\0\x10")
        refused(archive(path, changed, **entries), "no readable checkpoint")


class TestSafetensors:
    def write(self, path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
        text_ = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text_) if length is None else length) + text_ + data)
        return path

    @pytest.mark.parametrize("shape, offsets, size", [
        ([4], [0, 16], 15), ([4], [-16, 0], 16), ([4], [16, 0], 16), ([4], [0, 2**60], 16), ([-4], [0, 16], 16),
        ([2**62, 4], [0, 16], 16), ([2**64], [0, 16], 16), ([4], [8, 24], 24), ([4.5], [0, 18], 18), ("4", [0, 16], 16),
        ([4], None, 16), ([4], [0, 16], 32), ([5], [0, 16], 16),
    ])  # fmt: skip
    def test_inconsistent_headers(self, tmp_path, shape, offsets, size):
        header = {"weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
        refused(self.write(tmp_path / "w.safetensors", header, bytes(size)), "safetensors")

    def test_tensors_over_one_another(self, tmp_path):
        one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
        refused(self.write(tmp_path / "w.safetensors", {"weight": one, "bias": one}, bytes(16)), "safetensors")

    @pytest.mark.parametrize("header", [b"{", b"{}", b"{]", b"{\xff}", b'{"a":1}', b"[]", b'{"a":' * 9999, b"{" * 99])
    def test_invalid_headers(self, tmp_path, header):
        refused(self.write(tmp_path / "w.safetensors", header))

    @pytest.mark.parametrize("length", [0, 1, 10**6, 10**9, 2**60, 2**63, 2**64 - 1])
    def test_invalid_lengths(self, tmp_path, length):
        refused(self.write(tmp_path / "w.safetensors", b'{"a":{}}', length=length))

    def test_a_header_without_end(self, tmp_path):
        path = self.write(tmp_path / "w.safetensors", b"{", length=2**40)
        os.truncate(path, 2**41)
        refused(path, "safetensors")

    @pytest.mark.parametrize("kept", [0, 5, 8, 9, 50, 300, -1])
    def test_truncated(self, tmp_path, kept):
        path = tmp_path / "w.safetensors"
        path.write_bytes(safetensors.torch.save(nn.Linear(20, 20).state_dict())[:kept])
        refused(path, "no readable checkpoint")


class TestPlaces:
    @pytest.mark.parametrize("name", ["fifo", "folder", "/dev/zero", "socket/../folder", "absent", "w.pt/below"])
    def test_places_without_a_file(self, tmp_path, name):
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "folder").mkdir()
        (tmp_path / "w.pt").write_bytes(b"")
        refused(tmp_path / name)

    def test_flags_that_name_weights(self, tmp_path, original):
        os.mkfifo(tmp_path / "fifo")
        good, flags = original.folder / "model.pt", (*SMALL, "--log_dir", tmp_path / "runs")
        for path in (tmp_path / "fifo", "/dev/zero"):
            for asked in (("--weight_path", path), ("--weight_path", good, "--retrained_weight_path", path)):
                assert_refused(fork(UNLEARN, *flags, *asked), UNLEARN, path)
        asked = ("--mode", "train", "--weight_path", good, "--weight_path_classifier", tmp_path / "fifo")
        assert_refused(fork(CONTRASTIVE, *flags, *asked), CONTRASTIVE, tmp_path / "fifo")
        assert not (tmp_path / "runs").exists()

    def test_a_file_that_may_not_be_read(self, tmp_path, monkeypatch):
        torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")

        def forbidden(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        # root may read everything, and another user may lack access to Python's own modules.
        monkeypatch.setattr("helper_functions.safe_files.regular_files.os.open", forbidden)
        refused(tmp_path / "w.pt", "Permission denied")

    def test_a_checkpoint_to_resume(self, tmp_path, original):
        folder = tmp_path / original.folder.name
        folder.mkdir()
        for path in original.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "report.json").unlink()  # as of a run that has not ended
        checkpoint, trace = folder / "checkpoint.pt", tmp_path / "trace"
        for make in (lambda: torch.save({"lengths": Payload(trace)}, checkpoint), lambda: os.mkfifo(checkpoint)):
            checkpoint.unlink()
            make()
            assert_refused(fork("train.py", "--resume", folder), "train.py", checkpoint)
        assert not trace.exists()


class TestTensors:
    """Weights of the expected names and shapes, except for one tensor."""

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda: torch.eye(2).to_sparse(), "weight is no dense tensor of real numbers"),
            (lambda: torch.eye(2).to_sparse_csr(), "weight is no dense tensor of real numbers"),
            (lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8), "weight is no dense tensor"),
            (lambda: torch.empty(2, 2, device="meta"), "weight is no dense tensor of real numbers"),
            (lambda: torch.eye(2, dtype=torch.complex64), "weight is no dense tensor of real numbers"),
            (lambda: torch.eye(2).to(torch.float8_e4m3fn), "weight is no dense tensor of real numbers"),
            (lambda: torch.eye(2, dtype=torch.int64), "weight is torch.int64, no weights"),
            (lambda: torch.eye(2, dtype=torch.bool), "weight is torch.bool, no weights"),
            (lambda: torch.zeros(1).expand(2, 2), "weight claims 4 numbers"),
            (lambda: torch.zeros(1).expand(TRILLION), "weight claims 1,000,000,000,000 numbers"),
            (lambda: torch.tensor([[0, float("nan")], [0, 0]]), "weight holds NaN or infinity"),
            (lambda: torch.tensor([[0, float("-inf")], [0, 0]]).half(), "weight holds NaN or infinity"),
            (lambda: torch.tensor([[0, 1e300], [0, 0]], dtype=torch.float64), "weight holds NaN or infinity"),
            (lambda: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
            (lambda: None, "'weight' is a NoneType"),
        ],
        ids=range(15),
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore")
    def test_an_invalid_tensor(self, tmp_path, make, says):
        torch.save({"weight": make(), "bias": torch.zeros(2)}, tmp_path / "w.pt")
        refused(tmp_path / "w.pt", says)

    @pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2, torch.uint16, torch.int64])
    def test_an_invalid_tensor_in_safetensors(self, tmp_path, dtype):
        state = {"weight": torch.eye(2).to(dtype), "bias": torch.zeros(2)}
        safetensors.torch.save_file(state, tmp_path / "w.safetensors")
        refused(tmp_path / "w.safetensors", "weight is ")

    def test_counters_may_be_of_another_dtype(self, tmp_path):
        """A counter may be an integer or a floating-point number."""
        model = nn.BatchNorm1d(2)
        for dtype in (torch.int32, torch.float32):
            state = {**model.state_dict(), "num_batches_tracked": torch.tensor(7, dtype=dtype)}
            torch.save(state, tmp_path / "w.pt")
            load_state(model, read_weight_file(tmp_path / "w.pt")[0], "w.pt")
            assert model.num_batches_tracked == 7

    def test_a_model_is_left_as_it_was(self, tmp_path):
        model = nn.Linear(2, 2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save({"weight": torch.eye(2), "bias": torch.tensor([1, float("nan")])}, tmp_path / "w.pt")
        refused(tmp_path / "w.pt", "bias holds NaN", model=model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize(
        "name", ["a\nb", "a\x1b[2Jb", "a\x00b", "a\u2028b", "a\u202eb", "x" * 100_000, "", "ä\ud800"], ids=range(8)
    )
    def test_names(self, tmp_path, name):
        torch.save({name: torch.zeros(2)}, tmp_path / "w.pt")
        refused(tmp_path / "w.pt", "1 unexpected")
        torch.save({name: 1}, tmp_path / "w.pt")
        refused(tmp_path / "w.pt", "is a int")
        torch.save({name: torch.zeros(1).expand(2)}, tmp_path / "w.pt")
        refused(tmp_path / "w.pt", "claims 2 numbers")

    def test_names_in_the_output_of_a_process(self, tmp_path, original):
        torch.save({"a\nb\x1b[31m": torch.zeros(2)}, tmp_path / "w.pt")
        earlier = contents(tmp_path)
        splits = ("--splits", original.folder / "splits.npz", "--log_dir", tmp_path)
        done = fork(UNLEARN, *SMALL, *splits, "--weight_path", tmp_path / "w.pt")
        assert_refused(done, UNLEARN, "w.pt", r"a\nb\x1b[31m")
        assert done.err.strip().isprintable() and contents(tmp_path) == earlier


def test_good_weights_are_still_read(tmp_path):
    """Views of one buffer, parameters, shared memory, and everything else in an ordinary checkpoint."""
    buffer = torch.arange(6.0)
    state = OrderedDict(weight=nn.Parameter(buffer[:4].view(2, 2)), bias=buffer[4:])
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    model = get_model("resnet8", 10, 1, width=4)
    adam = torch.optim.Adam(model.parameters(), amsgrad=True)
    model(torch.zeros(2, 1, 8, 8)).sum().backward()
    adam.step()
    others = {
        "epoch": 3, "optimizer": optimizer.state_dict(), "adam": adam.state_dict(), "best": (1.5, None, True, "ä"),
        "rng": torch.get_rng_state(), "device": torch.device("cpu"), "dtype": torch.bfloat16, "size": torch.Size([2]),
        "seen": {1, 2}, "ema": [buffer, buffer[:2]],
    }  # fmt: skip
    for new in (True, False):
        torch.save({"state_dict": state, **others}, tmp_path / "w.pt", _use_new_zipfile_serialization=new)
        linear = nn.Linear(2, 2)
        load_state(linear, read_weight_file(tmp_path / "w.pt")[0], "w.pt")
        assert linear.weight.flatten().tolist() == [0, 1, 2, 3] and linear.bias.tolist() == [4, 5]


def test_a_payload_changes_nothing(tmp_path, original):
    """In a process of its own."""
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    torch.save({"state_dict": {"fc.weight": Payload(trace)}}, path)
    earlier = contents(tmp_path)
    splits = ("--splits", original.folder / "splits.npz", "--log_dir", tmp_path / "runs")
    done = fork(UNLEARN, *SMALL, *splits, "--weight_path", path)
    assert_refused(done, UNLEARN, path, "mkdir")
    assert contents(tmp_path) == earlier and only(original.folder.parent) == original.folder
