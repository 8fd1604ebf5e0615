"""The U-Net of Dhariwal & Nichol (2021), ADM, as EDM builds it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cpur.errors import InputError
from cpur.networks.edm_blocks import PositionalAngles, UNetBlock, group_norm
from cpur.networks.edm_state import agree, common_settings, fit, raw_state, tensor
from cpur.networks.edm_unet import EDMUNet

EPS = 1e-5
CHANNELS_PER_HEAD = 64  # fixed in the public class


class DhariwalBlock(UNetBlock):
    """A block that the embedding scales and shifts after norm_1."""

    eps, resampled_skip_projects, modulations = EPS, False, 2

    def modulate(self, y: Float[Tensor, "b c h w"], e: Float[Tensor, "b c2 1 1"]) -> Float[Tensor, "b c h w"]:
        """norm_1(y) (1 + scale) + shift."""
        scale, shift = e.chunk(2, dim=1)
        return self.norm1(y) * (1 + scale) + shift


class DhariwalUNet(EDMUNet):
    """ADM in EDM's parametrization.

    The arguments have the names of the public class. All blocks of a size that attends have attention, and the first
    one of ``dec``. ``map_augment`` is unused: no augmentation label is the label 0.

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
        super().__init__(locals())
        if channels_per_head < 1:
            raise InputError(f"channels_per_head must be 1 or more; got {channels_per_head}")
        # A width below that of a head gives no head, and so no attention.
        heads = [
            width // channels_per_head if size in attn_resolutions else 0
            for size, width in zip(self.resolutions, self.widths, strict=True)
        ]
        self.settings["attn_resolutions"] = [size for size, n in zip(self.resolutions, heads, strict=True) if n]
        embedding = model_channels * channel_mult_emb
        self.map_noise = PositionalAngles(model_channels // 2, endpoint=False)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, model_channels, bias=False)
        self.map_layer0 = nn.Linear(model_channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        if label_dim:
            self.map_label = nn.Linear(label_dim, embedding, bias=False)

        block, middle = partial(DhariwalBlock, embedding=embedding), self.widths[-1] // channels_per_head
        self.build(block, self.widths[0], heads, middle, every=True)
        self.out_norm = group_norm(self.widths[0], EPS)
        self.out_conv = nn.Conv2d(self.widths[0], out_channels, 3, padding=1)

    def embed(self, t: Float[Tensor, "b"], classes: Float[Tensor, "b k"] | None) -> Float[Tensor, "b e"]:
        """Cosines then sines of the angles through two layers, and the class added to them."""
        angles = self.map_noise(t)
        e = self.map_layer1(F.silu(self.map_layer0(torch.cat([angles.cos(), angles.sin()], dim=1))))
        return F.silu(e if classes is None else e + self.map_label(classes))

    def leave(
        self, size: str, x: Float[Tensor, "b c h w"], out: Float[Tensor, "b d h2 w2"] | None
    ) -> Float[Tensor, "b d h w"] | None:
        """The output of the largest size, which is the last."""
        return self.out_conv(F.silu(self.out_norm(x))) if size == self.sizes[0] else None


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
    return fit(DhariwalUNet, settings | {"channels_per_head": per_head}, state)
