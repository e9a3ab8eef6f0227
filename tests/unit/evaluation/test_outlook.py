"""What held-out images can show of a budget."""

import pytest
import torch

from evaluation.outlook import least_visible_fall
from unlearning.evaluator import keeps_budget, paired_fall


@pytest.mark.parametrize("budget", [0.0, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("images", [1, 7, 60, 400])
def test_the_least_fall_that_breaks_the_budget(budget, images):
    """By trying every number of images that may be lost."""
    breaking = []
    for lost in range(images + 1):
        after = torch.tensor([False] * lost + [True] * (images - lost))
        if not keeps_budget(budget, (0.0, 0.0), paired_fall(torch.ones(images, dtype=torch.bool), after)):
            breaking.append(100 * lost / images)
    assert least_visible_fall(budget, images) == (min(breaking) if breaking else None)


def test_more_images_show_less():
    falls = [least_visible_fall(1.0, images) for images in (100, 1000, 10_000)]
    assert falls == sorted(falls, reverse=True) and 1 < falls[-1] < 1.3
