"""Convolutions without products with padding: the same function, the same gradients, fewer operations."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import get_model
from models.cropped_convolution import CroppedConv2d, crop_convolutions


def pair(**settings) -> tuple[nn.Conv2d, CroppedConv2d]:
    """torch's own and ours, with the same weights, in double precision."""
    torch.manual_seed(0)
    plain = nn.Conv2d(**settings).double()
    cropped = CroppedConv2d(**settings).double()
    cropped.load_state_dict(plain.state_dict())
    return plain, cropped


def results(
    layer: nn.Conv2d, inputs: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format
) -> list[torch.Tensor]:
    """Outputs and the gradients of inputs and parameters."""
    layer = layer.to(memory_format=memory_format)
    inputs = inputs.to(memory_format=memory_format).requires_grad_()
    outputs = layer(inputs)
    torch.manual_seed(1)
    outputs.backward(torch.randn(outputs.shape, dtype=outputs.dtype))
    return [outputs.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())]


def sizes(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@given(
    image=sizes(1, 6), kernel=sizes(1, 7), stride=sizes(1, 3), padding=sizes(0, 4), dilation=sizes(1, 2),
    groups=st.sampled_from([1, 2]), memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)  # fmt: skip
def test_gives_the_outputs_and_gradients_of_torchs_own(image, kernel, stride, padding, dilation, groups, memory_format):
    axes = zip(image, kernel, padding, dilation, strict=True)
    assume(all(side + 2 * pad > gap * (taps - 1) for side, taps, pad, gap in axes))
    plain, cropped = pair(
        in_channels=2, out_channels=4, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip
    inputs = torch.randn(3, 2, *image, dtype=torch.float64)
    for theirs, ours in zip(*(results(layer, inputs, memory_format) for layer in (plain, cropped)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", [{"padding_mode": "circular"}, {"padding": "same"}, {"padding": 0}])
def test_leaves_other_paddings_alone(settings):
    plain, cropped = pair(**{"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 1} | settings)
    inputs = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    for theirs, ours in zip(results(plain, inputs), results(cropped, inputs), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(2, 2, 2), (0, 2, 2, 2)], ids=["a single image", "no image"])
def test_takes_what_torchs_own_takes(shape):
    plain, cropped = pair(in_channels=2, out_channels=3, kernel_size=3, padding=1)
    inputs = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(cropped(inputs), plain(inputs), rtol=1e-10, atol=1e-10)


def test_autocast_gives_its_type_and_gradients_that_of_the_parameters():
    plain, cropped = (layer.float() for layer in pair(in_channels=2, out_channels=3, kernel_size=3, padding=1))
    inputs = torch.randn(64, 2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = plain(inputs), cropped(inputs)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    for outputs in (theirs, ours):
        outputs.float().square().sum().backward()
    assert cropped.weight.grad.dtype == torch.float32
    torch.testing.assert_close(cropped.weight.grad, plain.weight.grad, rtol=0.02, atol=0.5)


def test_learns_after_an_evaluation():
    """Nothing that was made in inference mode may be met by a gradient."""
    _, cropped = pair(in_channels=2, out_channels=3, kernel_size=3, padding=1)
    inputs = torch.randn(2, 2, 2, 2, dtype=torch.float64)
    with torch.inference_mode():
        cropped(inputs)
    assert all(result.isfinite().all() for result in results(cropped, inputs))


def operations(model: nn.Module, inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(("stride", "size", "taps"), [(1, 1, 1), (2, 2, 4), (1, 2, 4), (1, 3, 9)])
def test_counts_the_products_that_are_left(stride, size, taps):
    plain, cropped = pair(in_channels=2, out_channels=4, kernel_size=3, stride=stride, padding=1)
    inputs = torch.randn(1, 2, size, size, dtype=torch.float64)
    assert operations(cropped, inputs) * 9 == operations(plain, inputs) * taps


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_lie_in_memory_as_their_parameters_do(memory_format):
    _, cropped = pair(in_channels=4, out_channels=8, kernel_size=3, padding=1)
    results(cropped, torch.randn(2, 4, 1, 1, dtype=torch.float64), memory_format)
    assert cropped.weight.grad.stride() == cropped.weight.stride()


def test_a_resnet_keeps_its_names_and_its_function():
    torchvision = pytest.importorskip("torchvision")
    ours = get_model("resnet18", 10).eval()
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)
    assert operations(ours, inputs) < 0.82 * operations(theirs, inputs)


def test_only_plain_convolutions_change():
    class Own(nn.Conv2d):
        """Somebody's own layer, with a forward of its own."""

    model = crop_convolutions(nn.Sequential(nn.Conv2d(1, 1, 3), Own(1, 1, 3), nn.Conv1d(1, 1, 3)))
    assert [type(module) for module in model] == [CroppedConv2d, Own, nn.Conv1d]
