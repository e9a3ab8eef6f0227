"""--compile: the same passes through torch.compile, and the model uncompiled where compilation fails."""

import copy
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.processes import SMALL, fork, only
from torch import nn

from helper_functions.run_folder import result_weights
from helper_functions.training.batch_norm import no_running_stats_update
from helper_functions.training.compilation import Compiled, compiled
from helper_functions.training.spread import spread
from models.cropped_convolution import CroppedConv2d

UNLEARN = "train_constrained_unlearning.py"
# As few layers as there can be, since compiling each takes seconds.
FEW = """
from torch import nn

def few(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))
"""
torch.manual_seed(0)
INPUTS = torch.randn(6, 1, 2, 2)


def network() -> nn.Module:
    torch.manual_seed(1)
    convolution = CroppedConv2d(1, 4, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def after_a_step(model: nn.Module, forward_pass) -> dict[str, torch.Tensor]:
    """Outputs, gradients and buffers of a training pass, one that leaves the statistics alone, and one in eval mode."""
    outputs = [forward_pass(INPUTS)]
    with no_running_stats_update(model):
        outputs.append(forward_pass(INPUTS[:5]))
    model.eval()
    outputs.append(forward_pass(INPUTS))
    sum(output.square().sum() for output in outputs).backward()
    found = {f"outputs {number}": output.detach() for number, output in enumerate(outputs)}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return found | dict(model.named_buffers())


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    model = network()
    return after_a_step(model, model)


def test_passes_are_those_of_the_model(plain):
    model = network()
    names = list(model.state_dict())
    forward_pass = spread(model, "default")
    assert isinstance(forward_pass, Compiled)
    found = after_a_step(model, forward_pass)
    assert forward_pass.ready is not model, "it was compiled"
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names


def test_trying_leaves_no_trace():
    model = network()
    before = copy.deepcopy(model.state_dict())
    compiled(model, "default", INPUTS)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_frozen_model_has_no_backward_pass_to_compile():
    model = network().eval().requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(Compiled(model, "default")(INPUTS), model(INPUTS), rtol=1e-4, atol=1e-5)


def test_where_it_cannot_be_had_a_line_says_so_and_the_model_runs_as_it_is(plain, monkeypatch, capsys):
    def refuse(inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler\nwas found")

    # As torch does it: at the first pass, and not before.
    monkeypatch.setattr(torch, "compile", lambda model, **_: refuse)
    model = network()
    forward_pass = spread(model, "default")
    torch.testing.assert_close(after_a_step(model, forward_pass), plain, rtol=0, atol=0)
    said = capsys.readouterr().out
    assert forward_pass.ready is model and said.count("\n") == 1
    assert said.startswith("compile  not possible, the model runs as it is") and "no compiler was found" in said


def test_without_the_flag_the_model_itself_is_called():
    model = network()
    assert spread(model) is model


def compile_into(folder: Path) -> None:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def test_a_script_learns_and_forgets_the_same_with_it(tmp_path):
    """One run with and one without --compile: it trains the original and unlearns."""
    found, few = {}, tmp_path / "few.py"
    few.write_text(FEW)
    for flags in ((), ("--compile",)):
        folder, cache = tmp_path / f"runs{len(flags)}", tmp_path / f"cache{len(flags)}"
        done = fork(
            UNLEARN, "--model", f"{few}:few", "--precision", "fp32", "--figures", "False", "--judge", "validation",
            "--forget", "random:40", "--train_num_epochs", 1, "--num_epochs", 1, "--finetune_num_epochs", 0,
            *flags, "--keep_checkpoint", "--log_dir", folder, before=partial(compile_into, cache),
        )  # fmt: skip
        assert done.status in (0, 3, 4), done.err
        # Passes with and without gradient are compiled.
        assert (len(list(cache.rglob("*.py"))) > 1) == bool(flags)
        weights = [only(folder) / "original.pt", result_weights(only(folder))]
        models = json.loads((only(folder) / "report.json").read_text())["models"]
        found[bool(flags)] = [torch.load(path, weights_only=True) for path in weights], models["original"]
    for with_it, without in zip(found[True][0], found[False][0], strict=True):
        torch.testing.assert_close(dict(with_it), dict(without), rtol=5e-2, atol=5e-3)
    assert found[True][1] == pytest.approx(found[False][1], abs=2)


def test_a_mode_alone_is_refused(tmp_path):
    done = fork("train.py", *SMALL, "--compile_mode", "max-autotune", "--log_dir", tmp_path)
    assert done.status == 2 and not list(tmp_path.iterdir())
    assert done.err == "train.py: error: --compile_mode max-autotune: nothing is compiled; give --compile beside it\n"
