r"""Resampling by two with a finite impulse response filter.

The filter is the outer product of its taps with themselves, scaled to sum 1; with n taps it reaches n - 2 pixels beyond
the two by two that become one, or that one becomes. Without taps, they become their mean, and one becomes all four.

Source: Karras et al. (2020), Analyzing and Improving the Image Quality of StyleGAN; Song et al. (2021), appendix H.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad

from cpur.errors import InputError


class Downsample(nn.Module):
    """Filters, and keeps every second pixel of every second row."""

    def __init__(self, taps: Sequence[int | float] | None) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_kernel(taps), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Half of height and width."""
        return filtered(x, self.kernel, len(self.kernel) - 2, stride=2)


class Upsample(nn.Module):
    """Puts a zero behind every pixel and a row of zeros below every row, and filters, four times as strong."""

    def __init__(self, taps: Sequence[int | float] | None) -> None:
        super().__init__()
        self.register_buffer("kernel", fir_kernel(taps), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Twice the height and width."""
        _, c, h, w = x.shape
        kernel = 4 * self.kernel.to(x.dtype).expand(c, 1, -1, -1)
        out = conv_transpose2d(x, kernel, stride=2, padding=(len(self.kernel) - 2) // 2, groups=c)
        return out[:, :, : 2 * h, : 2 * w]  # an odd number of taps leaves one row and column too many


class FilteredConv2d(nn.Conv2d):
    """Filters, then convolves 3 x 3 with stride 2."""

    flax_name = "Conv2d"

    def __init__(self, channels: int, out_channels: int, taps: Sequence[int | float]) -> None:
        super().__init__(channels, out_channels, 3, stride=2)
        self.register_buffer("kernel", fir_kernel(taps), persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Half of height and width."""
        return super().forward(filtered(x, self.kernel, len(self.kernel)))


def filtered(x: Float[Tensor, "b c h w"], kernel: Float[Tensor, "k k"], margin: int, stride: int = 1) -> Tensor:
    """Each channel, with ``margin`` zeros on two sides together (the odd one on the left and top), convolved."""
    c = x.shape[1]
    before, after = (margin + 1) // 2, margin // 2
    weight = kernel.flip(0, 1).to(x.dtype).expand(c, 1, -1, -1)  # conv2d correlates
    return conv2d(pad(x, (before, after, before, after)), weight, stride=stride, groups=c)


def fir_kernel(taps: Sequence[int | float] | None) -> Float[Tensor, "k k"]:
    """The filter of these taps; None are (1, 1).

    Raises:
        InputError: fewer than two taps, or taps that do not sum to a positive number.
    """
    taps = (1, 1) if taps is None else taps
    if len(taps) < 2 or not sum(taps) > 0:
        raise InputError(f"fir_kernel must be two or more numbers of positive sum, such as [1, 3, 3, 1]; got {taps}")
    row = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    return torch.outer(row, row)
