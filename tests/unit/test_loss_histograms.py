"""Histograms of per-image losses, as reports and the leaderboard keep them."""

import math

import numpy as np
import torch

from evaluation.figures import SMALLEST_LOSS, loss_histograms


def test_shares_are_those_of_each_part_and_every_image_is_in_one_bin():
    generator = torch.Generator().manual_seed(0)
    losses = {
        model: {part: torch.rand(count, generator=generator) * 9 for part, count in (("forget", 70), ("test", 300))}
        for model in ("original", "unlearned")
    }
    losses["original"]["retain"] = torch.full((5,), 100.0)
    found = loss_histograms(losses)
    edges = np.array(found["edges"])
    assert len(edges) == 31 and np.all(np.diff(np.log(edges)) > 0) and edges[0] == SMALLEST_LOSS
    for model, parts in losses.items():
        assert set(found[model]) == {"forget", "test"}
        for part in ("forget", "test"):
            shares, values = found[model][part], parts[part].double().numpy()
            assert math.isclose(sum(shares), 100)
            bins = zip(edges[:-1], edges[1:], strict=True)
            inside = [100 * np.mean((values >= low) & (values < high)) for low, high in bins]
            # The largest loss of all stands on the last edge, which belongs to the last bin.
            np.testing.assert_allclose(shares[:-1], inside[:-1], atol=1e-9)


def test_losses_beyond_the_ends_are_in_the_first_and_the_last_bin():
    found = loss_histograms({"original": {"forget": torch.tensor([0.0, 1e-9, 3.0, math.inf])}})
    shares = found["original"]["forget"]
    assert shares[0] == 50 and shares[-1] == 50 and all(math.isfinite(edge) for edge in found["edges"])


def test_models_without_forget_and_test_images_have_no_histogram():
    assert loss_histograms({"original": {"retain": torch.tensor([1.0])}})["original"] == {}
