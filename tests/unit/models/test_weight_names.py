"""Names in weight files are matched with a model's, whatever stands before them and however the head is called."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helper_functions.errors import UserError
from models import get_model
from models.weight_files import read_weight_file, write_weight_file
from models.weight_names import match_names
from models.weights import infer_stem, load_weights

OWN = {name: tuple(value.shape) for name, value in get_model("resnet8", 10, 1, width=4).state_dict().items()}
PREFIXES = ("", "model.", "net.", "backbone.", "encoder.", "model.net.", "module.model._orig_mod.", "layer1.", "fc.")


def matched(shapes: dict[str, tuple[int, ...]], head: str = "fc", own=OWN) -> tuple[dict[str, str], str, tuple]:
    return match_names(own, shapes, head, {}, "w.pth")


def wrapped(prefix: str, head: str = "fc") -> dict[str, str]:
    """The model's own name by the name in a file."""
    names = {}
    for name in OWN:
        path, _, last = name.rpartition(".")
        names[f"{prefix}{head}.{last}" if path == "fc" and head != "fc" else f"{prefix}{name}"] = name
    return names


@given(prefix=st.sampled_from(PREFIXES), head=st.sampled_from(["fc", "classifier", "head.fc", "classifier.1"]))
@settings(max_examples=40, deadline=None)
def test_a_prefix_and_another_head(prefix, head):
    names = wrapped(prefix, head)
    found, said, left_out = matched({name: OWN[mine] for name, mine in names.items()})
    assert found == {mine: name for name, mine in names.items()} and list(found) == list(names.values())
    assert left_out == () and (f"names without '{prefix}'" in said) == bool(prefix)
    assert (f"head fc from {prefix}{head}" in said) == (head != "fc")


def test_a_head_beside_the_backbone():
    shapes = {f"backbone.{name}": shape for name, shape in OWN.items() if not name.startswith("fc.")}
    found, said, _ = matched({**shapes, "head.weight": OWN["fc.weight"], "head.bias": OWN["fc.bias"]})
    assert found["fc.weight"] == "head.weight" and found["conv1.weight"] == "backbone.conv1.weight"
    assert said == "names without 'backbone.', head fc from head"


def test_what_lies_beside_a_whole_model_is_left_out():
    shapes = {f"model.{name}": shape for name, shape in OWN.items()}
    others = {f"{name}.weight": (3,) for name in ("criterion", "metric", "centre", "ema.fc")}
    found, said, left_out = matched({**shapes, **others})
    assert set(found) == set(OWN) and left_out == tuple(others)
    assert said.endswith("without criterion.weight, metric.weight, centre.weight and 1 more")


@pytest.mark.parametrize(
    ("shapes", "part"),
    [
        ({f"{prefix}{name}": shape for prefix in ("model.", "ema.") for name, shape in OWN.items()}, "two models"),
        (
            {name: shape for name, shape in OWN.items() if not name.startswith("fc.")}
            | {f"{head}.{last}": OWN[f"fc.{last}"] for head in ("head", "head_dist") for last in ("weight", "bias")},
            "both head and head_dist could be the head",
        ),
    ],
    ids=["models", "heads"],
)  # fmt: skip
def test_two_ways_are_refused(shapes, part):
    with pytest.raises(UserError, match=part):
        matched(shapes)


@pytest.mark.parametrize("change", ["shape", "bias", "other layer", "beside"])
def test_names_that_do_not_fit_stay(change):
    """The strict check names them."""
    shapes = {name: shape for name, shape in OWN.items() if not name.startswith("fc.")}
    extra = {
        "shape": {"head.weight": (11, 16), "head.bias": (11,)},
        "bias": {"head.weight": OWN["fc.weight"]},
        "other layer": {"fc.weight": OWN["fc.weight"], "fc.bias": OWN["fc.bias"], "conv9.weight": OWN["conv1.weight"]},
        "beside": {"fc.weight": OWN["fc.weight"], "fc.bias": OWN["fc.bias"], "other.weight": (2,)},
    }[change]
    if change == "other layer":
        del shapes["conv1.weight"]
    assert matched({**shapes, **extra})[0] == {name: name for name in {**shapes, **extra}}


def test_names_without_end_take_no_time():
    shapes = {"a." * 100_000: (1,), **{f"a.{number}": (1,) for number in range(10_000)}}
    assert matched(shapes)[0].keys() == shapes.keys()


def test_the_other_names_of_a_library():
    """As transformers renames its layers, with a wrapper's prefix before the names in the file."""
    own = {"vit.layers.0.q_proj.weight": (2, 2), "fc.weight": (3, 2)}
    saved = {"vit.encoder.layer.0.query.weight": "vit.layers.0.q_proj.weight", "fc.weight": "fc.weight"}
    for prefix in ("", "model."):
        shapes = {f"{prefix}{name}": own[mine] for name, mine in saved.items()}
        found, _, left_out = match_names(own, shapes, "fc", saved, "w")
        assert found == {mine: f"{prefix}{name}" for name, mine in saved.items()} and left_out == ()
    assert match_names(own, own, "fc", saved, "w")[0] == {name: name for name in own}


class TestFiles:
    """Loaded, and written back under the names that they came with."""

    def test_a_lightning_checkpoint(self, tmp_path):
        model = get_model("resnet8", 10, 1, width=4)
        state = {f"model.backbone.{name}": value for name, value in model.state_dict().items()}
        for last in ("weight", "bias"):
            state[f"model.classifier.{last}"] = state.pop(f"model.backbone.fc.{last}")
        content = {"state_dict": {**state, "criterion.weight": torch.ones(10)}, "hyper_parameters": {"lr": 0.1}}
        torch.save(content, tmp_path / "last.ckpt")
        weights, form = read_weight_file(tmp_path / "last.ckpt")
        loaded = get_model("resnet8", 10, 1, width=4)
        form = load_weights(loaded, weights, form, "last.ckpt")
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
        assert form.left_out == ("hyper_parameters", "criterion.weight") and not form.is_plain(loaded)
        said = "names without 'model.backbone.', head fc from model.classifier, without criterion.weight"
        assert form.matched == said
        with torch.no_grad():
            loaded.fc.bias.fill_(7)
        write_weight_file(loaded, form, tmp_path / "out.ckpt")
        result = torch.load(tmp_path / "out.ckpt", weights_only=True)
        assert list(result) == ["state_dict"] and list(result["state_dict"]) == list(state)
        assert (result["state_dict"]["model.classifier.bias"] == 7).all()

    def test_a_bare_layer(self, tmp_path):
        torch.save({"fc.weight": torch.eye(2), "fc.bias": torch.ones(2)}, tmp_path / "w.pt")
        linear = nn.Linear(2, 2)
        load_weights(linear, *read_weight_file(tmp_path / "w.pt"), "w.pt")
        assert torch.equal(linear.weight, torch.eye(2))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_stem_shows_behind_a_prefix(prefix):
    with torch.device("meta"):
        for stem in ("cifar", "imagenet"):
            state = get_model("resnet18", 10, stem=stem).state_dict()
            assert infer_stem({f"{prefix}{name}": value for name, value in state.items()}) == stem
