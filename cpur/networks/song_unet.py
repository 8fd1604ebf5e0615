"""The U-Net of Song et al. (2021) as EDM and ECT build it: DDPM++ and NCSN++."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cpur.errors import InputError, choose
from cpur.networks.edm_blocks import (
    ConvDownsample,
    FourierAngles,
    PositionalAngles,
    Resample,
    Taps,
    UNetBlock,
    check_image,
    downsample,
    group_norm,
    one_hot,
    upsample,
)
from cpur.networks.edm_state import (
    agree,
    common_settings,
    first_convolution,
    fit,
    proportions,
    ratio,
    raw_state,
    tensor,
)

EPS = 1e-6


class SongBlock(UNetBlock):
    """A block that the embedding shifts before norm_1; sums are divided by the root of 2."""

    eps, scale, resampled_skip_projects, modulations = EPS, 0.5**0.5, True, 1

    def modulate(self, y: Float[Tensor, "b c h w"], e: Float[Tensor, "b c 1 1"]) -> Float[Tensor, "b c h w"]:
        """norm_1(y + e)."""
        return self.norm1(y + e)


ANGLES = {"positional": partial(PositionalAngles, endpoint=True), "fourier": FourierAngles}
ENCODERS, DECODERS = ("standard", "skip", "residual"), ("standard", "skip")


class SongUNet(nn.Module):
    r"""DDPM++ (positional, standard, standard, taps 1 1) and NCSN++ (fourier, residual, standard, taps 1 3 3 1).

    The arguments have the names of the public class. ``enc`` and ``dec`` hold one layer a name
    ``<size>x<size>_<layer>``. ``map_augment`` is unused: no augmentation label is the label 0. Besides the blocks, the
    image may enter again at every size:

    * encoder ``skip``: the image, resampled, through a 1 x 1 convolution, is added to the features;
    * encoder ``residual``: features f and side path r, which starts as the image, become
      :math:`f, r \leftarrow (f + \mathrm{conv}(r)) / \sqrt 2`;
    * decoder ``skip``: every size adds to the output, which is upsampled from size to size.

    Raises:
        InputError: an unknown embedding, encoder or decoder type.

    Source: Song et al. (2021), appendix H; Karras et al. (2022), table 1 and appendix F.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Taps = (1, 1),
        num_heads: int = 1,
    ) -> None:
        super().__init__()
        choose("embedding_type", embedding_type, ANGLES)
        choose("encoder_type", encoder_type, ENCODERS)
        choose("decoder_type", decoder_type, DECODERS)
        resolutions = [img_resolution >> level for level in range(len(channel_mult))]
        attending = [size for size in resolutions if size in attn_resolutions]
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
            "attn_resolutions": attending,
            "embedding_type": embedding_type,
            "channel_mult_noise": channel_mult_noise,
            "encoder_type": encoder_type,
            "decoder_type": decoder_type,
            "resample_filter": list(resample_filter),
            "num_heads": num_heads,
        }
        noise, embedding = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        self.map_noise = ANGLES[embedding_type](noise // 2)
        if label_dim:
            self.map_label = nn.Linear(label_dim, noise)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, noise, bias=False)
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        block = partial(SongBlock, embedding=embedding, taps=resample_filter)
        self.sizes = [f"{size}x{size}" for size in resolutions]
        widths = [model_channels * multiplier for multiplier in channel_mult]
        heads = [num_heads if size in attending else 0 for size in resolutions]

        self.enc = nn.ModuleDict()
        channels, side, skips = model_channels, in_channels, []
        for level, size in enumerate(self.sizes):
            if level == 0:
                self.enc[f"{size}_conv"] = nn.Conv2d(in_channels, channels, 3, padding=1)
            else:
                self.enc[f"{size}_down"] = block(channels, channels, resampling=downsample)
                if encoder_type == "skip":
                    self.enc[f"{size}_aux_down"] = Resample(downsample, resample_filter)
                    self.enc[f"{size}_aux_skip"] = nn.Conv2d(side, channels, 1)
                elif encoder_type == "residual":
                    self.enc[f"{size}_aux_residual"] = ConvDownsample(side, channels, 3, resample_filter)
                    side = channels
            skips.append(channels)
            for index in range(num_blocks):
                self.enc[f"{size}_block{index}"] = block(channels, widths[level], heads=heads[level])
                channels = widths[level]
                skips.append(channels)

        self.dec = nn.ModuleDict()
        self.dec[f"{self.sizes[-1]}_in0"] = block(channels, channels, heads=num_heads)
        self.dec[f"{self.sizes[-1]}_in1"] = block(channels, channels)
        for level, size in reversed(list(enumerate(self.sizes))):
            if level < len(self.sizes) - 1:
                self.dec[f"{size}_up"] = block(channels, channels, resampling=upsample)
            for index in range(num_blocks + 1):
                last = heads[level] if index == num_blocks else 0
                self.dec[f"{size}_block{index}"] = block(channels + skips.pop(), widths[level], heads=last)
                channels = widths[level]
            if decoder_type == "skip" or level == 0:
                if level < len(self.sizes) - 1 and decoder_type == "skip":
                    self.dec[f"{size}_aux_up"] = Resample(upsample, resample_filter)
                self.dec[f"{size}_aux_norm"] = group_norm(channels, EPS)
                self.dec[f"{size}_aux_conv"] = nn.Conv2d(channels, out_channels, 3, padding=1)

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
        return self.decode(*self.encode(x, embedding), embedding)

    def embed(self, t: Float[Tensor, "b"], classes: Float[Tensor, "b k"] | None) -> Float[Tensor, "b e"]:
        """Sines then cosines of the angles, and the class, through two layers."""
        angles = self.map_noise(t)
        e = torch.cat([angles.sin(), angles.cos()], dim=1)
        if classes is not None:
            e = e + self.map_label(classes * classes.shape[1] ** 0.5)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(e))))

    def encode(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> tuple[Tensor, list[Tensor]]:
        """The features at the smallest size, and all that the decoder joins to its own, last first."""
        side, skips = x, []
        for level, size in enumerate(self.sizes):
            x = self.enc[f"{size}_down"](x, embedding) if level else self.enc[f"{size}_conv"](x)
            if f"{size}_aux_skip" in self.enc:
                side = self.enc[f"{size}_aux_down"](side)
                x = x + self.enc[f"{size}_aux_skip"](side)
            elif f"{size}_aux_residual" in self.enc:
                side = x = (x + self.enc[f"{size}_aux_residual"](side)) * 0.5**0.5
            skips.append(x)
            for index in range(self.settings["num_blocks"]):
                x = self.enc[f"{size}_block{index}"](x, embedding)
                skips.append(x)
        return x, skips

    def decode(self, x: Tensor, skips: list[Tensor], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d h w"]:
        """The output, from the smallest size to the largest."""
        x = self.dec[f"{self.sizes[-1]}_in0"](x, embedding)
        x = self.dec[f"{self.sizes[-1]}_in1"](x, embedding)
        out = None
        for size in reversed(self.sizes):
            if f"{size}_up" in self.dec:
                x = self.dec[f"{size}_up"](x, embedding)
            for index in range(self.settings["num_blocks"] + 1):
                x = self.dec[f"{size}_block{index}"](torch.cat([x, skips.pop()], dim=1), embedding)
            if f"{size}_aux_conv" in self.dec:
                here = self.dec[f"{size}_aux_conv"](F.silu(self.dec[f"{size}_aux_norm"](x)))
                out = here if out is None else here + self.dec[f"{size}_aux_up"](out)
        return out


def infer_settings(state: Mapping[str, Tensor], arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of the SongUNet that a state dict belongs to, with or without the prefix ``model.``.

    Everything is told by the tensors but the number of heads, which the public class fixes at 1: another one comes
    from the argument ``num_heads``. Filter taps are told up to a factor, which does not matter. ``arguments`` are those
    of the public class's constructor; those that do not shape the network are not looked at.

    Raises:
        InputError: the tensors are not those of a SongUNet, or an argument contradicts them.
    """
    state, arguments = raw_state(state), dict(arguments or {})
    if "out_conv.weight" in state or arguments.get("model_type", "SongUNet") != "SongUNet":
        raise InputError("a SongUNet was expected, and this is another network: try cpur.networks.dhariwal_unet")
    conv = first_convolution(state)
    settings = common_settings(state, conv.shape[0])
    size = f"{settings['img_resolution']}x{settings['img_resolution']}"
    encoders = [kind for kind in ENCODERS if any(f"_aux_{kind}." in name for name in state)]
    filters = [tensor(state, name, 4) for name in state if name.endswith("resample_filter")]
    settings |= {
        "out_channels": tensor(state, f"dec.{size}_aux_conv.weight", 4).shape[0],
        "embedding_type": "fourier" if "map_noise.freqs" in state else "positional",
        "channel_mult_noise": ratio("channel_mult_noise", state["map_layer0.weight"].shape[1], conv.shape[0]),
        "encoder_type": encoders[0] if encoders else "standard",
        "decoder_type": "skip" if any("_aux_up." in name for name in state) else "standard",
        "resample_filter": proportions(filters[0].sum((0, 1, 2)).tolist()) if filters else [1, 1],
    }
    if not filters:  # a single size: nothing is resampled, and nothing enters again
        free = ("encoder_type", "decoder_type", "resample_filter")
        settings |= {name: arguments[name] for name in free if name in arguments}
    elif "resample_filter" in arguments:
        arguments["resample_filter"] = proportions(arguments["resample_filter"])
    agree(settings, arguments)
    settings["num_heads"] = arguments.get("num_heads", 1)
    fit(SongUNet, settings, state)
    return settings
