"""Convolutions that omit their products with padding on small maps.

torchvision's ResNet-18 on 32 x 32 pixels has 1 x 1 maps in its last stage, where eight of the nine taps of each 3 x 3
kernel read only zeros, and 2 x 2 maps in the stage before, where five of nine products have a zero factor. Three
quarters of the network's weights are in these stages.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Along one axis: pixels of the input, taps of the kernel, stride, padding, dilation.
Axis = tuple[int, int, int, int, int]
# Largest ratio of the size of a product's matrix to that of its kernel.
MOST_COPIES = 2


class CroppedConv2d(nn.Conv2d):
    """`nn.Conv2d`, the same function with the same parameters, without products with padding where that is faster.

    Input [B, in_channels, H, W], output [B, out_channels, H', W']. The gradient of omitted taps is zero.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(input, weight, bias)
        axes = (input.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation)
        vertical, horizontal = zip(*axes, strict=True)
        may_be_a_product = input.dim() == 4 and self.groups == 1 and input.device.type == "cpu"
        if may_be_a_product and (taps := taps_between_pixels(vertical, horizontal)):
            return _product(input, weight, bias, taps, (_outputs(*vertical), _outputs(*horizontal)))
        (top, bottom, above), (left, right, beside) = (reached(*axis) for axis in (vertical, horizontal))
        if (bottom - top, right - left) == self.kernel_size:
            return super()._conv_forward(input, weight, bias)
        if weight.is_contiguous(memory_format=torch.channels_last):
            # Sliced in memory order, so that the gradient has it too and no optimizer copies it.
            weight = weight.permute(0, 2, 3, 1)[:, top:bottom, left:right].permute(0, 3, 1, 2)
        else:
            weight = weight[:, :, top:bottom, left:right]
        return F.conv2d(input, weight, bias, self.stride, (above, beside), self.dilation, self.groups)


def _product(
    input: Tensor, weight: Tensor, bias: Tensor | None, taps: tuple[int, ...], outputs: tuple[int, int]
) -> Tensor:
    """The convolution as one product of matrices: every pixel of the input with every pixel of the output."""
    if torch.is_autocast_enabled("cpu"):  # before the taps are repeated, since then there are more
        weight = weight.to(torch.get_autocast_dtype("cpu"))
    images, filters, pixels = len(input), len(weight), outputs[0] * outputs[1]
    index = torch.tensor(taps)
    if weight.is_contiguous(memory_format=torch.channels_last):
        # In memory order: nothing is copied, and the gradient has the same order.
        rows = input.permute(0, 2, 3, 1).flatten(1)
        matrix = weight.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, index).view(filters * pixels, -1)
        memory_format = torch.channels_last
    else:
        rows = input.flatten(1)
        matrix = weight.flatten(2).index_select(2, index).unflatten(2, (pixels, -1)).transpose(1, 2)
        matrix = matrix.reshape(filters * pixels, -1)
        memory_format = torch.contiguous_format
    if bias is not None:
        bias = bias.repeat_interleave(pixels)
    return F.linear(rows, matrix, bias).view(images, filters, *outputs).contiguous(memory_format=memory_format)


@functools.cache
def taps_between_pixels(vertical: Axis, horizontal: Axis) -> tuple[int, ...]:
    """The tap of the kernel between each pixel of the input and each pixel of the output, inputs varying faster.

    Empty where a pair has no tap, and where the matrix would be much larger than its kernel.
    """
    rows, columns = _taps_along(*vertical), _taps_along(*horizontal)
    width = horizontal[1]
    taps = [
        row[above] * width + column[left]
        for row in rows for column in columns for above in range(vertical[0]) for left in range(horizontal[0])
        if row[above] is not None and column[left] is not None
    ]  # fmt: skip
    pairs = len(rows) * vertical[0] * len(columns) * horizontal[0]
    return tuple(taps) if len(taps) == pairs <= MOST_COPIES * vertical[1] * width else ()


def _taps_along(size: int, kernel: int, stride: int, padding: int, dilation: int) -> list[list[int | None]]:
    """Along one axis, for each pixel of the output the tap that reads each pixel of the input."""
    reads = [
        {output * stride - padding + tap * dilation: tap for tap in range(kernel)}
        for output in range(_outputs(size, kernel, stride, padding, dilation))
    ]  # fmt: skip
    return [[tap_at.get(pixel) for pixel in range(size)] for tap_at in reads]


@functools.cache
def reached(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, int, int]:
    """Along one axis: the first tap that reads a pixel, the one after the last such tap, the padding that remains.

    All taps and all padding where the two sides would need different paddings.
    """
    outputs = _outputs(size, kernel, stride, padding, dilation)
    meets = [
        any(0 <= output * stride - padding + tap * dilation < size for output in range(outputs))
        for tap in range(kernel)
    ]  # fmt: skip
    if not any(meets):
        return 0, kernel, padding
    first, end = meets.index(True), kernel - meets[::-1].index(True)
    left_over = padding - first * dilation
    if left_over < 0 or _outputs(size, end - first, stride, left_over, dilation) != outputs:
        return 0, kernel, padding
    return first, end, left_over


def _outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def crop_convolutions(model: nn.Module) -> nn.Module:
    """Make every plain `nn.Conv2d` of the model a `CroppedConv2d`, in place; names and parameters stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = CroppedConv2d
    return model
