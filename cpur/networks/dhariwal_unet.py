"""The U-Net of Dhariwal & Nichol (2021), ADM, as EDM builds it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpur.errors import InputError
from cpur.networks.edm_blocks import (
    PositionalAngles,
    UNetBlock,
    check_image,
    downsample,
    group_norm,
    one_hot,
    upsample,
)
from cpur.networks.edm_state import agree, common_settings, fit, raw_state, tensor

EPS = 1e-5
CHANNELS_PER_HEAD = 64  # fixed in the public class


class DhariwalBlock(UNetBlock):
    """A block that the embedding scales and shifts after norm_1."""

    eps, scale, resampled_skip_projects, modulations = EPS, 1.0, False, 2

    def modulate(self, y: Float[Tensor, "b c h w"], e: Float[Tensor, "b c2 1 1"]) -> Float[Tensor, "b c h w"]:
        """norm_1(y) (1 + scale) + shift."""
        scale, shift = e.chunk(2, dim=1)
        return self.norm1(y) * (1 + scale) + shift


class DhariwalUNet(nn.Module):
    """ADM in EDM's parametrization.

    The arguments have the names of the public class. ``enc`` and ``dec`` hold one layer a name
    ``<size>x<size>_<layer>``. All blocks of a size that attends have attention, and the first one of ``dec``.
    The weight ``map_augment`` of a network trained with augmentation labels is unused: no label is the label 0.

    Raises:
        InputError: channels that do not split into heads or groups.

    Source: Dhariwal & Nichol (2021); Karras et al. (2022), appendix F.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        channels_per_head: int = CHANNELS_PER_HEAD,
    ) -> None:
        super().__init__()
        if channels_per_head < 1:
            raise InputError(f"channels_per_head must be 1 or more; got {channels_per_head}")
        resolutions = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * multiplier for multiplier in channel_mult]
        # A width below that of a head gives no head, and so no attention.
        heads = [
            width // channels_per_head if size in attn_resolutions else 0
            for size, width in zip(resolutions, widths, strict=True)
        ]
        self.settings = {
            "img_resolution": img_resolution,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "label_dim": label_dim,
            "augment_dim": augment_dim,
            "model_channels": model_channels,
            "channel_mult": list(channel_mult),
            "channel_mult_emb": channel_mult_emb,
            "num_blocks": num_blocks,
            "attn_resolutions": [size for size, count in zip(resolutions, heads, strict=True) if count],
            "channels_per_head": channels_per_head,
        }
        embedding = model_channels * channel_mult_emb
        self.map_noise = PositionalAngles(model_channels // 2, endpoint=False)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, model_channels, bias=False)
        self.map_layer0 = nn.Linear(model_channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        if label_dim:
            self.map_label = nn.Linear(label_dim, embedding, bias=False)

        block = partial(DhariwalBlock, embedding=embedding)
        self.sizes = [f"{size}x{size}" for size in resolutions]
        self.enc = nn.ModuleDict()
        channels, skips = widths[0], []
        for level, size in enumerate(self.sizes):
            if level == 0:
                self.enc[f"{size}_conv"] = nn.Conv2d(in_channels, channels, 3, padding=1)
            else:
                self.enc[f"{size}_down"] = block(channels, channels, resampling=downsample)
            skips.append(channels)
            for index in range(num_blocks):
                self.enc[f"{size}_block{index}"] = block(channels, widths[level], heads=heads[level])
                channels = widths[level]
                skips.append(channels)

        self.dec = nn.ModuleDict()
        self.dec[f"{self.sizes[-1]}_in0"] = block(channels, channels, heads=channels // channels_per_head)
        self.dec[f"{self.sizes[-1]}_in1"] = block(channels, channels)
        for level, size in reversed(list(enumerate(self.sizes))):
            if level < len(self.sizes) - 1:
                self.dec[f"{size}_up"] = block(channels, channels, resampling=upsample)
            for index in range(num_blocks + 1):
                self.dec[f"{size}_block{index}"] = block(channels + skips.pop(), widths[level], heads=heads[level])
                channels = widths[level]
        self.out_norm = group_norm(channels, EPS)
        self.out_conv = nn.Conv2d(channels, out_channels, 3, padding=1)

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
        check_image(x, self.settings["in_channels"], len(self.sizes))
        embedding = self.embed(t, one_hot(labels, self.settings["label_dim"], t))
        skips = []
        for level, size in enumerate(self.sizes):
            x = self.enc[f"{size}_down"](x, embedding) if level else self.enc[f"{size}_conv"](x)
            skips.append(x)
            for index in range(self.settings["num_blocks"]):
                x = self.enc[f"{size}_block{index}"](x, embedding)
                skips.append(x)
        x = self.dec[f"{self.sizes[-1]}_in0"](x, embedding)
        x = self.dec[f"{self.sizes[-1]}_in1"](x, embedding)
        for size in reversed(self.sizes):
            if f"{size}_up" in self.dec:
                x = self.dec[f"{size}_up"](x, embedding)
            for index in range(self.settings["num_blocks"] + 1):
                x = self.dec[f"{size}_block{index}"](torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out_conv(F.silu(self.out_norm(x)))

    def embed(self, t: Float[Tensor, "b"], classes: Float[Tensor, "b k"] | None) -> Float[Tensor, "b e"]:
        """Cosines then sines of the angles through two layers, and the class added to them."""
        angles = self.map_noise(t)
        e = self.map_layer1(F.silu(self.map_layer0(torch.cat([angles.cos(), angles.sin()], dim=1))))
        return F.silu(e if classes is None else e + self.map_label(classes))


def infer_settings(state: Mapping[str, Tensor], arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of the DhariwalUNet that a state dict belongs to, with or without the prefix ``model.``.

    Everything is told by the tensors but the channels of a head, which the public class fixes at 64: another number
    comes from the argument ``channels_per_head``. ``arguments`` are those of the public class's constructor; those that
    do not shape the network are not looked at.

    Raises:
        InputError: the tensors are not those of a DhariwalUNet, or an argument contradicts them or is missing.
    """
    state, arguments = raw_state(state), dict(arguments or {})
    if "out_conv.weight" not in state or arguments.get("model_type", "DhariwalUNet") != "DhariwalUNet":
        raise InputError("a DhariwalUNet was expected, and this is another network: try cpur.networks.song_unet")
    settings = common_settings(state, tensor(state, "map_layer0.weight", 2).shape[1])
    settings["out_channels"] = tensor(state, "out_conv.weight", 4).shape[0]
    per_head = arguments.get("channels_per_head", CHANNELS_PER_HEAD)
    for name in (name for name in state if name.endswith(".qkv.weight")):
        width = tensor(state, name, 4).shape[1]
        if not 1 <= per_head <= width or width % (width // per_head):
            raise InputError(
                f"channels_per_head must split the {width} channels of {name}; it is {per_head}, by default "
                f"{CHANNELS_PER_HEAD}: give the network's own"
            )
    if "attn_resolutions" in arguments:  # where a size is too narrow for one head, there is no attention
        narrow = [
            settings["img_resolution"] >> level
            for level, multiplier in enumerate(settings["channel_mult"])
            if multiplier * settings["model_channels"] < per_head
        ]
        arguments["attn_resolutions"] = [size for size in arguments["attn_resolutions"] if size not in narrow]
    agree(settings, arguments)
    settings["channels_per_head"] = per_head
    fit(DhariwalUNet, settings, state)
    return settings
