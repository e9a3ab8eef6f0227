"""Constrained fine-tuning: from the end of stage 1 it raises what stays and leaves the forget data where they are."""

import copy

import pytest
from helpers.digits import RIGHT, WRONG, Digits
from torch import nn

from optimizer.solver import SOLVERS
from train_constrained_unlearning import untrain_constrained


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def originals(digits) -> dict[str, nn.Module]:
    return {"wrong": digits.fit(digits.given), "right": digits.fit(digits.true)}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("target", ["unseen", "chance"])
def test_accuracy_rises_while_the_forget_data_stay(digits, originals, target, solver, tmp_path):
    """Stage 1 may spend a large budget, and spends it on wrong labels."""
    labels, model = (digits.given, originals["wrong"]) if target == "chance" else (digits.true, originals["right"])
    outcome = untrain_constrained(
        copy.deepcopy(model), **digits.loaders(WRONG, RIGHT, labels), num_epochs=5, finetune_num_epochs=3,
        learning_rate=0.1, retain_budget=8.0, multiplier=0.1, forget_target=target, solver=solver,
        log_dir=str(tmp_path), device="cpu", precision="fp32",
    )  # fmt: skip
    forgot, tuned = outcome.epochs[4], outcome.epochs[-1]
    assert tuned["constraint/fall"] < 2 and tuned["held_out/fall"] < 2
    assert tuned["forget/distance"] < forgot["forget/distance"] + 0.2
    if target == "chance":
        for name in ("constraint/fall", "held_out/fall"):
            assert tuned[name] < forgot[name] - 2
