"""Foreign weights are written back in the form in which they were read."""

from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.processes import SMALL, fork, only
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from helper_functions.errors import UserError
from models import get_model
from models.weight_files import CHECKPOINT_KEYS, DTYPES, read_weight_file, write_weight_file
from models.weights import load_state

PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
FLOATING = [dtype for dtype in DTYPES if dtype.is_floating_point]
METADATA = {"format": "pt", "author": "somebody else"}


def small_model(seed: int) -> nn.Module:
    """With batch norm, whose counters are integers, and weights in channels_last, as runs have them."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return model.to(memory_format=torch.channels_last)


def loaded(path: Path) -> object:
    """By the library alone."""
    return torch.load(path, weights_only=True) if path.suffix != ".safetensors" else safetensors.torch.load_file(path)


@st.composite
def files(draw) -> dict:
    """How somebody may have saved a model: format, container, other entries, prefixes, dtypes, order."""
    kind = draw(st.sampled_from(["torch", "legacy torch", "safetensors"]))
    names = list(small_model(0).state_dict())
    return {
        "format": kind,
        "key": None if kind == "safetensors" else draw(st.sampled_from([None, *CHECKPOINT_KEYS])),
        "prefixes": draw(st.lists(st.sampled_from(PREFIXES), min_size=len(names), max_size=len(names))),
        "dtypes": draw(st.lists(st.sampled_from(FLOATING), min_size=len(names), max_size=len(names))),
        "order": draw(st.permutations(names)),
        "metadata": draw(st.sampled_from([None, METADATA])),
    }  # fmt: skip


def save(model: nn.Module, how: dict, path: Path) -> dict[str, Tensor]:
    """Save as somebody would; gives what was saved, by the names in the file."""
    own = model.state_dict()
    given_ = OrderedDict()
    for name, prefix, dtype in zip(how["order"], how["prefixes"], how["dtypes"], strict=True):
        value = own[name]
        given_[prefix + name] = (value.to(dtype) if value.is_floating_point() else value).contiguous()
    if how["format"] == "safetensors":
        safetensors.torch.save_file(dict(given_), path, how["metadata"])
        return given_
    content = given_ if how["key"] is None else {how["key"]: given_, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, path, _use_new_zipfile_serialization=how["format"] == "torch")
    return given_


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=files())
def test_out_in_the_form_that_came_in(tmp_path, how):
    suffix = ".safetensors" if how["format"] == "safetensors" else ".pth"
    before, after = tmp_path / f"before{suffix}", tmp_path / f"after{suffix}"
    content = save(small_model(0), how, before)
    weights, form = read_weight_file(before)
    assert set(weights) == set(small_model(0).state_dict())
    for name, prefix in zip(how["order"], how["prefixes"], strict=True):
        assert torch.equal(weights[name], content[prefix + name])
    unlearned = small_model(1)
    write_weight_file(unlearned, form, after)

    result = loaded(after)
    if how["key"] is not None:
        assert list(result) == [how["key"]]  # nothing that was learned from the images comes along
        assert form.left_out == ("epoch", "optimizer")
        result = result[how["key"]]
    assert set(result) == set(content) and (how["format"] == "safetensors" or list(result) == list(content))
    assert {name: value.dtype for name, value in result.items()} == {n: v.dtype for n, v in content.items()}
    own = unlearned.state_dict()
    for name, prefix in zip(how["order"], how["prefixes"], strict=True):
        value = result[prefix + name]
        assert torch.equal(value, own[name].to(value.dtype))
    # The bytes say which torch format; a zip archive begins with its makers' initials.
    assert before.read_bytes()[:2] == after.read_bytes()[:2] or how["format"] == "safetensors"
    if how["format"] == "safetensors":
        with safe_open(after, framework="pt") as file:
            assert file.metadata() == how["metadata"]
    again, same_form = read_weight_file(after)
    assert same_form.names == form.names and same_form.dtypes == form.dtypes
    load_state(small_model(2), again, after)


class TestForm:
    def read(self, content: object, path: Path):
        torch.save(content, path)
        return read_weight_file(path)

    def test_plain_is_what_torch_saves_of_the_model_itself(self, tmp_path):
        model, path = small_model(0), tmp_path / "w.pt"
        state = model.state_dict()
        assert self.read(state, path)[1].is_plain(model)
        assert not self.read({"model": state}, path)[1].is_plain(model)
        assert not self.read({f"module.{name}": value for name, value in state.items()}, path)[1].is_plain(model)
        halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        assert not self.read(halves, path)[1].is_plain(model)
        safetensors.torch.save_model(model, tmp_path / "w.safetensors")
        assert not read_weight_file(tmp_path / "w.safetensors")[1].is_plain(model)

    @pytest.mark.parametrize(
        ("name", "suffix"),
        [
            ("w.pt", ".pt"), ("w.pth", ".pth"), ("best.pth.tar", ".pth.tar"), ("resnet.v1.2.bin", ".bin"),
            ("weights", ".pt"), ("w.p\nth", ".pt"), ("w.", ".pt"),
        ],
    )  # fmt: skip
    def test_suffix(self, tmp_path, name, suffix):
        assert self.read(small_model(0).state_dict(), tmp_path / name)[1].suffix == suffix

    def test_safetensors_are_known_by_their_content(self, tmp_path):
        model = small_model(0)
        safetensors.torch.save_file({n: v.contiguous() for n, v in model.state_dict().items()}, tmp_path / "w.pth")
        torch.save(model.state_dict(), tmp_path / "w.safetensors")
        for name, form in (("w.pth", "safetensors"), ("w.safetensors", "torch")):
            weights, found = read_weight_file(tmp_path / name)
            assert found.format == form
            assert all(torch.equal(value, model.state_dict()[key]) for key, value in weights.items())

    def test_class_versions_come_back(self, tmp_path):
        """MNASNet refuses weights without the number that torch puts beside them."""
        model, path = get_model("mnasnet0_5", 3), tmp_path / "w.pt"
        torch.save({"state_dict": model.state_dict()}, path)
        weights, form = read_weight_file(path)
        other = get_model("mnasnet0_5", 3)
        load_state(other, weights, path)
        write_weight_file(other, form, tmp_path / "out.pt")
        get_model("mnasnet0_5", 3).load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True)["state_dict"])


class TestTensors:
    def test_names_that_share_their_memory_go_on_sharing_it(self, tmp_path):
        tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        tied["b"].weight = tied["a"].weight
        halves = tied.half().state_dict()
        torch.save(halves, tmp_path / "w.pt")
        _, form = read_weight_file(tmp_path / "w.pt")
        write_weight_file(tied.float(), form, tmp_path / "out.pt")
        result = torch.load(tmp_path / "out.pt", weights_only=True)
        assert result["a.weight"].data_ptr() == result["b.weight"].data_ptr() and result["a.weight"].dtype == torch.half

    def test_what_overflows_half_precision_stays_as_it_is(self, tmp_path):
        model = small_model(0)
        torch.save(model.half().state_dict(), tmp_path / "w.pt")
        _, form = read_weight_file(tmp_path / "w.pt")
        model.float()[1].running_var.fill_(1e6)
        write_weight_file(model, form, tmp_path / "out.pt")
        result = torch.load(tmp_path / "out.pt", weights_only=True)
        assert result["1.running_var"].dtype == torch.float32 and (result["1.running_var"] == 1e6).all()
        assert result["0.weight"].dtype == torch.float16

    def test_counters_that_the_file_lacks_are_not_added(self, tmp_path):
        model = small_model(0)
        old = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
        torch.save(old, tmp_path / "w.pt")
        write_weight_file(model, read_weight_file(tmp_path / "w.pt")[1], tmp_path / "out.pt")
        assert list(torch.load(tmp_path / "out.pt", weights_only=True)) == list(old)

    def test_one_name_with_and_without_a_prefix(self, tmp_path):
        torch.save({"fc.bias": torch.zeros(1), "module.fc.bias": torch.ones(1)}, tmp_path / "w.pt")
        with pytest.raises(UserError, match="fc.bias twice"):
            read_weight_file(tmp_path / "w.pt")[0]


class TestProcess:
    """A list of images to forget, somebody else's weights in, their form out."""

    def unlearn(self, weights: Path, place: Path) -> tuple[str, Path]:
        (place / "forget.txt").write_text("\n".join(map(str, range(0, 200, 5))))
        (place / "held_out.txt").write_text("\n".join(map(str, range(1000, 1500))))
        done = fork(
            "train_constrained_unlearning.py", *SMALL, "--weight_path", weights, "--forget", f"file:{place}/forget.txt",
            "--validation", f"file:{place}/held_out.txt", "--num_epochs", 1, "--retain_budget", 100,
            "--finetune_learning_rate", 0.04, "--figures", False, "--judge", "validation", "--log_dir", place / "runs",
        )  # fmt: skip
        assert done.status == 0 and done.err == "", done
        return done.out, only(place / "runs")

    def test_a_wrapped_checkpoint(self, original, tmp_path):
        given_ = OrderedDict(
            (f"module._orig_mod.{name}", value.half() if value.is_floating_point() else value)
            for name, value in reversed(torch.load(original.folder / "model.pt", weights_only=True).items())
        )
        content = {"epoch": 90, "arch": "resnet8", "state_dict": given_, "optimizer": {"state": {}}}
        torch.save(content, tmp_path / "best.pth.tar")
        out, folder = self.unlearn(tmp_path / "best.pth.tar", tmp_path)
        assert f"{folder}/unlearned.pth.tar" in out and "epoch, arch, optimizer" in out
        result = torch.load(folder / "unlearned.pth.tar", weights_only=True)
        assert list(result) == ["state_dict"] and list(result["state_dict"]) == list(given_)
        plain = torch.load(folder / "model.pt", weights_only=True)
        for name, value in result["state_dict"].items():
            assert value.dtype == given_[name].dtype
            assert torch.equal(value, plain[name.removeprefix("module._orig_mod.")].to(value.dtype))
        assert not torch.equal(result["state_dict"]["module._orig_mod.fc.weight"], given_["module._orig_mod.fc.weight"])

    def test_safetensors(self, original, tmp_path):
        state = torch.load(original.folder / "model.pt", weights_only=True)
        path = tmp_path / "theirs.safetensors"
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path, METADATA)
        out, folder = self.unlearn(path, tmp_path)
        assert f"{folder}/unlearned.safetensors" in out and "left out" not in out
        result = safetensors.torch.load_file(folder / "unlearned.safetensors")
        plain = torch.load(folder / "model.pt", weights_only=True)
        assert result.keys() == plain.keys() and all(torch.equal(result[name], plain[name]) for name in plain)
        with safe_open(folder / "unlearned.safetensors", framework="pt") as file:
            assert file.metadata() == METADATA
        # The result can be read as weights again.
        flags = ("--weight_path", folder / "unlearned.safetensors", "--judge", "validation", "--num_epochs", 1)
        again = fork("train_constrained_unlearning.py", *SMALL, *flags, "--log_dir", tmp_path / "again")
        assert again.status in (0, 3, 4), again.err
