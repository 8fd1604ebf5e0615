r"""The parts of NCSN++: embeddings of time, residual blocks of BigGAN, attention, and the pyramid of the input.

``flax_name`` and ``flax_parameters`` are explained in :mod:`cpur.networks.flax_names`. Every sum of two branches is
multiplied by ``scale``, which is :math:`1/\sqrt2` or 1.

Source: Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations, appendix H.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cpur.errors import InputError
from cpur.networks.fir import Downsample, FilteredConv2d

Activation = Callable[[Tensor], Tensor]


class FourierEmbedding(nn.Module):
    r"""Random Fourier features: sine, then cosine, of :math:`2 \pi W t`, with fixed :math:`W \sim N(0, 16^2)`."""

    flax_name = "GaussianFourierProjection"

    def __init__(self, features: int) -> None:
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(features), requires_grad=False)
        self.channels = 2 * features

    def forward(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b c"]:
        # In this order: phases of hundreds of radians have a rounding error that shows.
        phase = t[:, None] * self.W.detach() * (2 * math.pi)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class PositionalEmbedding(nn.Module):
    r"""Sine, then cosine, of :math:`t\, 10000^{-i / (n - 1)}` for i = 0 ... n - 1, where n is half of the features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        if features % 2 or features < 4:
            raise InputError(f"nf must be even and at least 4 for a positional embedding; got {features}")
        self.channels = features

    def forward(self, t: Float[Tensor, "b"]) -> Float[Tensor, "b c"]:
        steps = torch.arange(self.channels // 2, dtype=t.dtype, device=t.device)
        phase = t[:, None] * (steps * (-math.log(10000) / (len(steps) - 1))).exp()
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class NIN(nn.Linear):
    """A network in network: one linear map for the channels of every pixel."""

    flax_name = "NIN"
    flax_parameters = {"weight": "W", "bias": "b"}  # noqa: RUF012


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is resampled where the features are.

    Args:
        channels: of the features.
        out_channels: of the result.
        time_channels: of the embedded time; 0 where the network does not know it.
        activation: before each convolution, and of the embedded time.
        scale: of the sum.
        resample: halves or doubles height and width, before the first convolution.
    """

    flax_name = "ResnetBlockBigGANpp"

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        time_channels: int,
        activation: Activation,
        scale: float,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm_in = group_norm(channels)
        self.conv_in = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels) if time_channels else None
        self.norm_out = group_norm(out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = channels == out_channels and resample is None
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)
        self.resample = resample or nn.Identity()
        self.activation, self.scale = activation, scale

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | None
    ) -> Float[Tensor, "b d h2 w2"]:
        """The new features; ``embedding`` is the embedded time after the activation."""
        h = self.conv_in(self.resample(self.activation(self.norm_in(x))))
        if self.time is not None:
            h = h + self.time(embedding)[:, :, None, None]
        h = self.conv_out(self.activation(self.norm_out(h)))
        return self.scale * (self.shortcut(self.resample(x)) + h)


class Attention(nn.Module):
    """One head of attention over all pixels, added to the features."""

    flax_name = "AttnBlockpp"

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query, self.key, self.value = (NIN(channels, channels) for _ in range(3))
        self.out = NIN(channels, channels)
        self.scale = scale

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The features, each pixel knowing of the others."""
        h = self.norm(x).flatten(2).mT
        h = self.out(scaled_dot_product_attention(self.query(h), self.key(h), self.value(h)))
        return self.scale * (x + h.mT.unflatten(2, x.shape[2:]))


class ResidualInput(nn.Module):
    """Halves a pyramid by a strided convolution; the sum with the features is the new one of both."""

    flax_name = "Downsample"

    def __init__(self, channels: int, out_channels: int, taps: Sequence[int | float] | None, scale: float) -> None:
        super().__init__()
        # Without a filter the padding is JAX's for stride 2: at the right and below.
        plain = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, out_channels, 3, stride=2))
        self.conv = FilteredConv2d(channels, out_channels, taps) if taps else plain
        self.channels, self.scale = out_channels, scale

    def forward(self, pyramid: Float[Tensor, "b c h w"], h: Float[Tensor, "b d h2 w2"]) -> tuple[Tensor, Tensor]:
        """The new pyramid and the new features."""
        h = self.scale * (self.conv(pyramid) + h)
        return h, h


class SkipInput(nn.Module):
    """Halves a pyramid of images; a 1 x 1 convolution of it is added to the features, which is not rescaled."""

    flax_name = "Combine"

    def __init__(self, channels: int, out_channels: int, taps: Sequence[int | float] | None, scale: float) -> None:
        super().__init__()
        self.resample = Downsample(taps)
        self.conv = nn.Conv2d(channels, out_channels, 1)
        self.channels = channels

    def forward(self, pyramid: Float[Tensor, "b c h w"], h: Float[Tensor, "b d h2 w2"]) -> tuple[Tensor, Tensor]:
        """The new pyramid and the new features."""
        pyramid = self.resample(pyramid)
        return pyramid, h + self.conv(pyramid)


class EncoderLevel(nn.Module):
    """Blocks with attention behind each, or an identity in its place; then half of height and width, or nothing."""

    def __init__(
        self, blocks: list[nn.Module], attentions: list[nn.Module], down: nn.Module | None, pyramid: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.down, self.pyramid = down, pyramid

    def forward(
        self, h: Float[Tensor, "b c h w"], pyramid: Float[Tensor, "b p h2 w2"], embedding: Float[Tensor, "b e"] | None
    ) -> tuple[list[Tensor], Tensor]:
        """The features after each step, and the pyramid for the next level."""
        features = []
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, embedding))
            features.append(h)
        if self.down is not None:
            h = self.down(h, embedding)
            if self.pyramid is not None:
                pyramid, h = self.pyramid(pyramid, h)
            features.append(h)
        return features, pyramid


class DecoderLevel(nn.Module):
    """Blocks that each take one of the encoder's features, the last ones first; attention; then twice the size."""

    def __init__(self, blocks: list[nn.Module], attention: nn.Module, up: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.attention, self.up = nn.ModuleList(blocks), attention, up

    def forward(
        self, h: Float[Tensor, "b c h w"], skips: list[Tensor], embedding: Float[Tensor, "b e"] | None
    ) -> Float[Tensor, "b d h2 w2"]:
        """The features for the next level; takes what it uses from the end of ``skips``."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.attention(h)
        return h if self.up is None else self.up(h, embedding)


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of four channels, but 32 groups at most.

    Raises:
        InputError: the channels do not divide so.
    """
    groups = min(channels // 4, 32)
    if groups < 1 or channels % groups:
        raise InputError(f"{channels} channels do not divide into min(channels // 4, 32) groups: choose another nf")
    return nn.GroupNorm(groups, channels, eps=1e-6)
