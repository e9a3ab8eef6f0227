"""Numbers of things in words, and names that are nearly right."""

import pytest

from helper_functions.wording import counted, did_you_mean, nearest


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "image", "1 image"), (0, "image", "0 images"), (1200, "image", "1,200 images"), (1, "class", "1 class"),
        (2, "pass", "2 passes"), (2, "file of other kinds", "2 files of other kinds"),
        (2, "gradient step", "2 gradient steps"),
    ],
)  # fmt: skip
def test_counted(number, noun, said):
    assert counted(number, noun) == said


def test_nearest_names():
    known = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg")
    assert nearest("resnet", known) == ["resnet18", "resnet34", "resnet50"]
    assert nearest("vgh", known) == ["vgg"] and nearest("", known) == nearest("zzz", known) == []
    assert did_you_mean("vgh", known, "--") == "; did you mean --vgg?" and did_you_mean("zzz", known) == ""
    assert did_you_mean("resnet1", known) == "; did you mean resnet18 or resnet101?"
