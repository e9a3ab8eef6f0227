"""Numbers of things in words."""

import pytest

from helper_functions.wording import counted


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
