"""What EDM's two U-Nets share: blocks from the largest size of the image to the smallest and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpur.errors import InputError
from cpur.networks.edm_blocks import UNetBlock, downsample, upsample
from cpur.networks.settings import plain_settings


class EDMUNet(nn.Module):
    """The body of a U-Net, in EDM's names: ``enc`` and ``dec`` hold one layer a name ``<size>x<size>_<layer>``.

    Args:
        arguments: ``locals()`` of the subclass's constructor.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = plain_settings(arguments)
        size, multiples = self.settings["img_resolution"], self.settings["channel_mult"]
        if not multiples or size % 2 ** (len(multiples) - 1):
            raise InputError(f"img_resolution {size} cannot be halved for each of the channel_mult {multiples}")
        self.resolutions = [size >> level for level in range(len(multiples))]
        self.widths = [self.settings["model_channels"] * multiple for multiple in multiples]
        self.sizes = [f"{size}x{size}" for size in self.resolutions]

    def build(
        self, block: Callable[..., UNetBlock], channels: int, heads: Sequence[int], middle: int, every: bool
    ) -> None:
        """Makes ``enc`` and ``dec``.

        Args:
            block: makes a block, given its channels.
            channels: of the first convolution.
            heads: of the blocks of each size, 0 for no attention.
            middle: heads of the first block of ``dec``.
            every: whether all blocks of ``dec`` have these heads, or only the last one of a size.
        """
        blocks, skips = self.settings["num_blocks"], []
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        for level, (size, width) in enumerate(zip(self.sizes, self.widths, strict=True)):
            if level:
                self.enc[f"{size}_down"] = block(channels, channels, resampling=downsample)
            else:
                self.enc[f"{size}_conv"] = nn.Conv2d(self.settings["in_channels"], channels, 3, padding=1)
            skips.append(channels)
            for index in range(blocks):
                self.enc[f"{size}_block{index}"] = block(channels, width, heads=heads[level])
                channels = width
                skips.append(width)
        self.dec[f"{size}_in0"] = block(width, width, heads=middle)
        self.dec[f"{size}_in1"] = block(width, width)
        for level, size in reversed([*enumerate(self.sizes)]):
            if size != self.sizes[-1]:
                self.dec[f"{size}_up"] = block(channels, channels, resampling=upsample)
            for index in range(blocks + 1):
                attends = heads[level] if every or index == blocks else 0
                self.dec[f"{size}_block{index}"] = block(channels + skips.pop(), self.widths[level], heads=attends)
                channels = self.widths[level]

    @property
    def num_classes(self) -> int | None:
        """Of a class-conditional network."""
        return self.settings["label_dim"] or None

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], labels: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        r"""The raw output F at the scaled image ``x`` and time argument ``t``, :math:`c_{noise} = \ln(\sigma) / 4`.

        Raises:
            InputError: an image that the levels do not fit, or labels missing or not wanted.
        """
        self.check_image(x)
        embedding = self.embed(t, one_hot(labels, self.settings["label_dim"], t))
        blocks, side, skips, out = self.settings["num_blocks"], x, [], None
        for size in self.sizes:
            x = self.enc[f"{size}_down"](x, embedding) if skips else self.enc[f"{size}_conv"](x)
            x, side = self.enter(size, x, side)
            skips.append(x)
            for index in range(blocks):
                x = self.enc[f"{size}_block{index}"](x, embedding)
                skips.append(x)
        x = self.dec[f"{size}_in0"](x, embedding)
        x = self.dec[f"{size}_in1"](x, embedding)
        for size in reversed(self.sizes):
            if f"{size}_up" in self.dec:
                x = self.dec[f"{size}_up"](x, embedding)
            for index in range(blocks + 1):
                x = self.dec[f"{size}_block{index}"](torch.cat([x, skips.pop()], dim=1), embedding)
            out = self.leave(size, x, out)
        return out

    def embed(self, t: Float[Tensor, "b"], classes: Float[Tensor, "b k"] | None) -> Float[Tensor, "b e"]:
        """What the blocks know of the time and the class."""
        raise NotImplementedError

    def enter(
        self, size: str, x: Float[Tensor, "b c h w"], side: Float[Tensor, "b s h2 w2"]
    ) -> tuple[Float[Tensor, "b c h w"], Tensor]:
        """The features at a new size, and the side path of the image, if any."""
        return x, side

    def leave(
        self, size: str, x: Float[Tensor, "b c h w"], out: Float[Tensor, "b d h2 w2"] | None
    ) -> Float[Tensor, "b d h w"] | None:
        """The output after a size, from its features and the output before."""
        raise NotImplementedError

    def check_image(self, x: Float[Tensor, "b c h w"]) -> None:
        """Raises InputError unless ``x`` can be halved from level to level."""
        channels, factor = self.settings["in_channels"], 2 ** (len(self.sizes) - 1)
        if x.shape[1] != channels or x.shape[2] % factor or x.shape[3] % factor:
            raise InputError(
                f"x must have {channels} channels, and height and width divisible by {factor}; got shape "
                f"{tuple(x.shape)}"
            )


def one_hot(labels: Int[Tensor, "b"] | None, label_dim: int, like: Tensor) -> Float[Tensor, "b k"] | None:
    """Rows of 0 and 1, in the dtype of ``like``; None for a network without classes.

    Raises:
        InputError: labels are missing, or given to a network without classes.
    """
    if label_dim and labels is None:
        raise InputError(f"the network is class-conditional ({label_dim} classes): give labels; got None")
    if labels is None:
        return None
    if not label_dim:
        raise InputError(f"the network knows no classes: leave labels None; got {len(labels)} labels")
    return F.one_hot(labels.long(), label_dim).to(like.dtype)
