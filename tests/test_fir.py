"""Resampling by two against SciPy's upfirdn, and against the mean and the nearest pixel."""

import pytest
import torch
from scipy.signal import upfirdn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, pad

from cpur.networks.edm_blocks import ConvDownsample, downsample, separable, upsample

TAPS = [[1, 3, 3, 1], [1, 2, 1], [1, 1], [4, 3, 2, 1], [0.5, 1, 2, 3, 1, 0.2]]  # not all symmetric


def along(x, axis, taps, crop, size, up=1, down=1):
    """One axis of x filtered by SciPy: ``size`` of its values, without the first ``crop`` at full resolution."""
    full = upfirdn(taps, x.numpy(), up, axis=axis)
    kept = torch.from_numpy(full).float().narrow(axis, crop, size * down)
    return kept.index_select(axis, torch.arange(0, size * down, down))


@pytest.mark.parametrize("taps", TAPS)
def test_halving_and_doubling_are_those_of_scipy(taps):
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    row = torch.tensor(taps) / sum(taps)
    margin = len(taps) - 2  # zeros around: one more on the left where it is odd
    padded = pad(x, 4 * [8])
    halved, doubled = padded, padded
    for axis, size in ((2, 8), (3, 12)):
        start = 8 + len(taps) - 1 - (margin + 1) // 2
        halved = along(halved, axis, row, start, size // 2, down=2)
        doubled = along(doubled, axis, 2 * row, 16 + margin // 2, 2 * size, up=2)
    reverse = separable(taps[::-1])  # downsample does not turn the filter round
    torch.testing.assert_close(downsample(x, reverse), halved, rtol=0, atol=1e-6)
    torch.testing.assert_close(upsample(x, separable(taps)), doubled, rtol=0, atol=1e-6)


def test_with_equal_taps_they_are_the_mean_and_the_nearest_pixel():
    x = torch.rand(2, 3, 8, 6)
    torch.testing.assert_close(downsample(x, separable([1, 1])), avg_pool2d(x, 2))
    torch.testing.assert_close(upsample(x, separable([1, 1])), interpolate(x, scale_factor=2, mode="nearest"))


def test_a_filtered_convolution_is_one_of_stride_two_over_a_larger_filter():
    torch.manual_seed(0)
    conv, x = ConvDownsample(3, 5, 3, [1, 3, 3, 1]), torch.rand(2, 3, 8, 8)
    whole = conv_transpose2d(conv.weight.flatten(0, 1)[:, None], conv.resample_filter)  # both filters as one, 6 x 6
    whole = whole.unflatten(0, (5, 3))[:, :, 0]
    expected = conv2d(x, whole, conv.bias, stride=2, padding=2)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("taps", [[1], [], [1, -1]])
def test_taps_that_are_no_filter_are_refused(taps, rejected):
    with rejected("resample_filter must be two or more taps whose sum is not 0"):
        separable(taps)
