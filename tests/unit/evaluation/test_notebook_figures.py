"""The notebook's figures: what is computed for them, not how they look."""

import numpy as np
import pytest
import torch

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.held_out import held_out_auc
from evaluation.notebook_figures import GRID, draw_averaging, draw_course, draw_histograms, held_out_roc


def _pairs(shift: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(120, 4, generator=generator)
    return first, first + shift * torch.randn(120, 4, generator=generator)


def _build() -> Critic:
    return Critic(DISCRIMINATORS["logistic"](4))


def test_the_area_under_the_mean_curve_is_the_mean_auc():
    same, different = _pairs(0.5, 0), _pairs(1.0, 1)
    curve, auc = held_out_roc(_build, same, different, seed=3)
    assert auc == held_out_auc(_build, same, different, seed=3)
    assert np.trapezoid(curve, GRID) == pytest.approx(auc.value, abs=0.01)
    assert curve[0] == 0 and curve[-1] == 1 and (np.diff(curve) >= 0).all()


def test_every_value_is_in_a_bin():
    losses = torch.tensor([0.0, 1e-9, 1e-3, 4.0])
    figure = draw_histograms({"one": {"forget": losses, "unseen, test": losses}}, "loss", bins=7, log=True)
    (axis,) = figure.axes
    heights = [patch.get_height() for patch in axis.patches if hasattr(patch, "get_height")]
    assert sum(heights) == pytest.approx(200)


def test_the_expected_auc_is_that_of_normal_samples():
    figure = draw_averaging([1, 4], {"forget": [1.0, 0.5]}, [0.7, 0.8], distance=1.0)
    expected = figure.axes[1].lines[1].get_ydata()
    normal = torch.distributions.Normal(0.0, 1.0)
    np.testing.assert_allclose(expected[[0, -1]], normal.cdf(torch.tensor([1.0, 2.0]) / 2**0.5), atol=1e-6)


def test_only_passes_that_were_not_gone_along_whole_are_marked():
    names = ("retain/top1", "unseen/top1", "forget/top1", "constraint/violation", "constraint/multiplier",
             "discriminator/auc", "discriminator/auc_low", "discriminator/auc_high")  # fmt: skip
    scalars = {name: ([1, 2, 3], [0.5, 0.5, 0.5]) for name in names}
    scalars["constraint/share"] = [1, 2, 3], [2.0, 1.0, 0.0]
    violation = draw_course(scalars, None, 97.0).axes[1]
    assert [line.get_xdata()[0] for line in violation.lines if line.get_linestyle() == "--"] == [1, 3]
