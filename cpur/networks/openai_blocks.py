r"""Blocks of OpenAI's U-Nets: the time embedding, the residual block, self-attention and resampling.

Attributes are named as in the public checkpoints, since they make the keys of the state dict.
"""

import math
from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

GROUPS = 32  # of every group normalisation


def timestep_embedding(t: Float[Tensor, "b"], channels: int) -> Float[Tensor, "b channels"]:
    r"""The sinusoidal embedding of a time argument, cosines first, float32.

    .. math:: (\cos \omega_i t, \sin \omega_i t), \quad \omega_i = \exp(-\ln(10000)\, i / n), \quad i < n,

    with n half the channels. Source: Ho et al. (2020), appendix B.
    """
    n = channels // 2
    # In this order, in float32: a phase of hundreds of radians keeps the rounding of its frequency.
    frequencies = torch.exp(-math.log(10000) * torch.arange(n, dtype=torch.float32, device=t.device) / n)
    phases = t.float()[:, None] * frequencies
    return torch.cat([phases.cos(), phases.sin()], dim=1)


class ResBlock(nn.Module):
    r"""A residual block that knows the time, with an optional change of resolution.

    .. math:: \mathrm{skip}(R x) + \mathrm{conv}(\mathrm{silu}(h)), \quad
        u = \mathrm{conv}(R\, \mathrm{silu}(\mathrm{norm}(x))),

        h = (1 + s) \odot \mathrm{norm}(u) + b \ \text{ or } \ \mathrm{norm}(u + b),

    where R is ``resample`` and s and b are linear in the embedding. Source: Dhariwal & Nichol (2021), section 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        scale_shift: bool,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = nn.Identity() if resample is None else resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(embedding_channels, 2 * out_channels if scale_shift else out_channels)
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            nn.Identity(),  # dropout in training; it keeps the number of the convolution's key
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d h2 w2"]:
        norm, silu, conv = self.in_layers
        u = conv(self.resample(silu(norm(x))))
        shift = self.emb_layers(embedding)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = (1 + scale) * norm(u) + shift
        else:
            h = norm(u + shift)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    r"""Self-attention between the pixels, added to its input.

    .. math:: x + P\, \mathrm{softmax}(q^\top k / \sqrt{d})\, v, \quad d = \text{channels} / \text{heads}.

    The rows of ``qkv`` are ordered (head, three, d), or (three, head, d) with ``three_first``. Its weights, and those
    of ``proj_out``, are those of a 1-D convolution over the sequence of pixels, or with ``projections_2d`` of a
    1 x 1 convolution of the image.
    """

    def __init__(self, channels: int, heads: int, three_first: bool, projections_2d: bool) -> None:
        super().__init__()
        self.heads, self.three_first, self.projections_2d = heads, three_first, projections_2d
        conv = nn.Conv2d if projections_2d else nn.Conv1d
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = conv(channels, 3 * channels, 1)
        self.proj_out = conv(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pixels = self.norm(x)
        if not self.projections_2d:
            pixels = pixels.flatten(2)
        rows = (3, self.heads) if self.three_first else (self.heads, 3)
        # b, rows, pixel, d; contiguous, since fused attention wants it
        qkv = self.qkv(pixels).flatten(2).unflatten(1, (*rows, -1)).transpose(-1, -2).contiguous()
        q, k, v = qkv.unbind(1 if self.three_first else 2)
        attended = scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(attended.transpose(-1, -2).reshape(pixels.shape)).reshape(x.shape)


class Stage(nn.Sequential):
    """Blocks in sequence, of which the residual ones know the time."""

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d h2 w2"]:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


def halve() -> nn.Module:
    """Half the resolution, by the means of 2 x 2 pixels."""
    return nn.AvgPool2d(2)


def double() -> nn.Module:
    """Twice the resolution, each pixel repeated."""
    return nn.Upsample(scale_factor=2, mode="nearest")


def halve_by_conv(channels: int) -> nn.Module:
    """Half the resolution, by a convolution of stride 2."""
    return nn.Sequential(OrderedDict(op=nn.Conv2d(channels, channels, 3, stride=2, padding=1)))


def double_by_conv(channels: int) -> nn.Module:
    """Twice the resolution, each pixel repeated, then a convolution."""
    return nn.Sequential(OrderedDict(nearest=double(), conv=nn.Conv2d(channels, channels, 3, padding=1)))
