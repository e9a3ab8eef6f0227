"""Convolutions that leave out the part of their kernel which meets padding alone.

A network made for large images ends in maps of one pixel where the images are small: torchvision's ResNet-18 at
32 x 32 pixels has 1 x 1 maps in its last stage, where eight of the nine taps of each 3 x 3 kernel read nothing but
zeros. Half of the network's weights stand there.
"""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CroppedConv2d(nn.Conv2d):
    """`nn.Conv2d`, the same function with the same parameters, without the products with padding.

    Input [B, in_channels, H, W], output [B, out_channels, H', W'], as `nn.Conv2d` has them. Taps that are left out
    get the gradient that they have there: zero.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(input, weight, bias)
        settings = zip(input.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        (top, bottom, above), (left, right, beside) = (reached(*setting) for setting in settings)
        if (bottom - top, right - left) == self.kernel_size:
            return super()._conv_forward(input, weight, bias)
        if weight.is_contiguous(memory_format=torch.channels_last):
            # Cut in the order of memory: the gradient comes back in it too, and no optimizer has to copy it.
            weight = weight.permute(0, 2, 3, 1)[:, top:bottom, left:right].permute(0, 3, 1, 2)
        else:
            weight = weight[:, :, top:bottom, left:right]
        return F.conv2d(input, weight, bias, self.stride, (above, beside), self.dilation, self.groups)


@functools.cache
def reached(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, int, int]:
    """Along one axis: the first tap that meets the image anywhere, the one after the last, the padding that is left.

    All taps, and all padding, where the rest would need another padding on either side.
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
