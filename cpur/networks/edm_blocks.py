"""What the U-Nets of EDM share: resampling by a fixed filter, the residual block with attention, the noise angles.

The layers carry the names of NVlabs' checkpoints. Weights are loaded: torch's initial weights are not those of EDM.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpur.errors import InputError

Resampling = Callable[[Tensor, Tensor], Tensor]
Taps = Sequence[int | float]


def downsample(x: Float[Tensor, "b c h w"], kernel: Float[Tensor, "1 1 k k"]) -> Float[Tensor, "b c h2 w2"]:
    """Every channel filtered, and every second pixel kept."""
    padding = (kernel.shape[-1] - 1) // 2
    return F.conv2d(x, kernel.expand(x.shape[1], -1, -1, -1), stride=2, padding=padding, groups=x.shape[1])


def upsample(x: Float[Tensor, "b c h w"], kernel: Float[Tensor, "1 1 k k"]) -> Float[Tensor, "b c h2 w2"]:
    """Zeros set between the pixels, and every channel filtered; 4 restores the mean."""
    c, h, w = x.shape[1:]
    kernel = (4 * kernel).expand(c, -1, -1, -1)
    y = F.conv_transpose2d(x, kernel, stride=2, padding=kernel.shape[-1] // 2 - 1, groups=c)
    return y[:, :, : 2 * h, : 2 * w]  # an odd number of taps leaves one row and column too many


def separable(taps: Taps) -> Float[Tensor, "1 1 k k"]:
    """The outer product of the taps with themselves, of sum 1."""
    if len(taps) < 2 or sum(taps) == 0:
        raise InputError(f"resample_filter must be two or more taps whose sum is not 0; got {list(taps)}")
    row = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(row, row) / row.sum() ** 2)[None, None]


class Resample(nn.Module):
    """Resampling alone."""

    def __init__(self, resampling: Resampling, taps: Taps) -> None:
        super().__init__()
        self.resampling = resampling
        self.register_buffer("resample_filter", separable(taps))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.resampling(x, self.resample_filter)


class ResampleConv(nn.Conv2d):
    """Resampling, then a convolution that keeps height and width."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, resampling: Resampling, taps: Taps) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2)
        self.resampling = resampling
        self.register_buffer("resample_filter", separable(taps))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return super().forward(self.resampling(x, self.resample_filter))


class ConvDownsample(nn.Conv2d):
    """A convolution wider than the image by the reach of the filter, then the filter at every second pixel."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, taps: Taps) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2 + (len(taps) - 1) // 2)
        self.register_buffer("resample_filter", separable(taps))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        y = super().forward(x)
        return F.conv2d(y, self.resample_filter.expand(y.shape[1], -1, -1, -1), stride=2, groups=y.shape[1])


def convolution(inputs: int, outputs: int, kernel_size: int, resampling: Resampling | None, taps: Taps) -> nn.Conv2d:
    """A convolution, after resampling unless that is None."""
    if resampling is None:
        return nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2)
    return ResampleConv(inputs, outputs, kernel_size, resampling, taps)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """At most 32 groups, of at least 4 channels each."""
    groups = min(32, channels // 4)
    if groups == 0 or channels % groups:
        raise InputError(
            f"model_channels * channel_mult must split into {groups or 1} groups of 4 or more; got {channels}"
        )
    return nn.GroupNorm(groups, channels, eps)


class UNetBlock(nn.Module):
    r"""A residual block that knows the noise level, with self-attention after it where ``heads`` is not 0.

    .. math:: x' = s\,(\mathrm{skip}(x) + \mathrm{conv_1}(\varphi(\mathrm{modulate}(
        \mathrm{conv_0}(\varphi(\mathrm{norm_0}(x))), \mathrm{affine}(e))))),

        x'' = s\,(x' + \mathrm{proj}(\mathrm{attention}(\mathrm{norm_2}(x')))),

    where s is ``scale`` and :math:`\varphi` is ``activation``.

    Channels of qkv are ordered by head, then channel of the head, then query, key and value. Resampling happens in
    conv_0 and in skip. Subclasses say how the embedding e modulates.

    Raises:
        InputError: the heads do not divide the channels, or these do not split into groups.
    """

    eps: ClassVar[float]
    resampled_skip_projects: ClassVar[bool]  # also where the number of channels stays
    modulations: ClassVar[int]  # numbers a channel from the embedding

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        heads: int = 0,
        resampling: Resampling | None = None,
        taps: Taps = (1, 1),
        activation: Callable[[Tensor], Tensor] = F.silu,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.heads, self.activation, self.scale = heads, activation, scale
        self.norm0 = group_norm(inputs, self.eps)
        self.conv0 = convolution(inputs, outputs, 3, resampling, taps)
        self.affine = nn.Linear(embedding, self.modulations * outputs)
        self.norm1 = group_norm(outputs, self.eps)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs or (resampling is not None and self.resampled_skip_projects):
            self.skip = convolution(inputs, outputs, 1, resampling, taps)
        else:
            self.skip = nn.Identity() if resampling is None else Resample(resampling, taps)
        if heads:
            if outputs % heads:
                raise InputError(f"heads must divide the channels that attend; got {heads} heads, {outputs} channels")
            self.norm2 = group_norm(outputs, self.eps)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.proj = nn.Conv2d(outputs, outputs, 1)

    def modulate(self, y: Float[Tensor, "b c h w"], e: Float[Tensor, "b mc 1 1"]) -> Float[Tensor, "b c h w"]:
        """norm_1, with shift, or with scale and shift, from the embedding."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d h2 w2"]:
        y = self.conv0(self.activation(self.norm0(x)))
        y = self.activation(self.modulate(y, self.affine(embedding)[:, :, None, None]))
        x = self.scale * (self.skip(x) + self.conv1(y))
        return self.scale * (x + self.attention(x)) if self.heads else x

    def attention(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Every pixel attends to all pixels; logits are divided by the root of the channels of a head."""
        qkv = self.qkv(self.norm2(x)).unflatten(1, (self.heads, -1, 3)).flatten(4)
        # three, batch, heads, pixels, channels of the head; contiguous, since fused attention wants it
        query, key, value = qkv.permute(3, 0, 1, 4, 2).contiguous()
        y = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y.transpose(2, 3).reshape(x.shape))


class PositionalAngles(nn.Module):
    r"""Angles :math:`t \cdot 10^{-4 i / n}`, i = 0, ..., half - 1, where n is half, or half - 1 with ``endpoint``."""

    def __init__(self, half: int, endpoint: bool) -> None:
        super().__init__()
        self.half = half
        self.last = half - 1 if endpoint else half

    def forward(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b half"]:
        exponents = torch.arange(self.half, dtype=torch.float32, device=t.device) / self.last
        return t[:, None] * (1 / 10000) ** exponents


class FourierAngles(nn.Module):
    r"""Angles :math:`2\pi f_i t` at the random frequencies f that the checkpoint holds, drawn from N(0, 16^2)."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(half))

    def forward(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b half"]:
        return t[:, None] * (2 * math.pi * self.freqs)
