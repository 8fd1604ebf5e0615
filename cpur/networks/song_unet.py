"""The U-Net of Song et al. (2021) as EDM and ECT build it: DDPM++ and NCSN++."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
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
    downsample,
    group_norm,
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
from cpur.networks.edm_unet import EDMUNet

EPS = 1e-6


class SongBlock(UNetBlock):
    """A block that the embedding shifts before norm_1."""

    eps, resampled_skip_projects, modulations = EPS, True, 1

    def modulate(self, y: Float[Tensor, "b c h w"], e: Float[Tensor, "b c 1 1"]) -> Float[Tensor, "b c h w"]:
        """norm_1(y + e)."""
        return self.norm1(y + e)


ANGLES = {"positional": partial(PositionalAngles, endpoint=True), "fourier": FourierAngles}
ENCODERS, DECODERS = ("standard", "skip", "residual"), ("standard", "skip")
NONLINEARITIES = {"swish": F.silu, "relu": F.relu, "elu": F.elu, "lrelu": partial(F.leaky_relu, negative_slope=0.2)}


class SongUNet(EDMUNet):
    r"""DDPM++ (positional, standard, standard, taps 1 1) and NCSN++ (fourier, residual, standard, taps 1 3 3 1).

    The arguments have the names of EDM's class, but for the last two, which have those of Song et al. ``map_augment``
    is unused: no augmentation label is the label 0. Besides the blocks, the image may enter again at every size:

    * encoder ``skip``: the image, resampled, through a 1 x 1 convolution, is added to the features;
    * encoder ``residual``: features f and side path r, which starts as the image, become
      :math:`f, r \leftarrow (f + \mathrm{conv}(r)) / \sqrt 2`;
    * decoder ``skip``: every size adds to the output, which is upsampled from size to size.

    Without ``skip_rescale``, no sum is divided by the root of 2.

    Raises:
        InputError: an unknown embedding, encoder, decoder or nonlinearity, or numbers that do not divide.

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
        nonlinearity: str = "swish",
        skip_rescale: bool = True,
    ) -> None:
        super().__init__(locals())
        choose("embedding_type", embedding_type, ANGLES)
        choose("encoder_type", encoder_type, ENCODERS)
        choose("decoder_type", decoder_type, DECODERS)
        choose("nonlinearity", nonlinearity, NONLINEARITIES)
        self.activation, self.scale = NONLINEARITIES[nonlinearity], 0.5**0.5 if skip_rescale else 1.0
        noise, embedding = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        if noise % 2:
            raise InputError(f"model_channels * channel_mult_noise must be even; got {noise}")
        self.map_noise = ANGLES[embedding_type](noise // 2)
        if label_dim:
            self.map_label = nn.Linear(label_dim, noise)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, noise, bias=False)
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        block = partial(
            SongBlock, embedding=embedding, taps=resample_filter, activation=self.activation, scale=self.scale
        )
        self.settings["attn_resolutions"] = [size for size in self.resolutions if size in attn_resolutions]
        heads = [num_heads if size in attn_resolutions else 0 for size in self.resolutions]
        self.build(block, model_channels, heads, num_heads, every=False)
        side = in_channels
        for size, width in zip(self.sizes[1:], self.widths, strict=False):  # that of the size before
            if encoder_type == "skip":
                self.enc[f"{size}_aux_down"] = Resample(downsample, resample_filter)
                self.enc[f"{size}_aux_skip"] = nn.Conv2d(in_channels, width, 1)
            elif encoder_type == "residual":
                self.enc[f"{size}_aux_residual"] = ConvDownsample(side, width, 3, resample_filter)
                side = width
        outputs = len(self.sizes) if decoder_type == "skip" else 1
        for level, size in enumerate(self.sizes[:outputs]):
            if level < outputs - 1:
                self.dec[f"{size}_aux_up"] = Resample(upsample, resample_filter)
            self.dec[f"{size}_aux_norm"] = group_norm(self.widths[level], EPS)
            self.dec[f"{size}_aux_conv"] = nn.Conv2d(self.widths[level], out_channels, 3, padding=1)

    def embed(self, t: Float[Tensor, "b"], classes: Float[Tensor, "b k"] | None) -> Float[Tensor, "b e"]:
        """Sines then cosines of the angles, and the class, through two layers."""
        angles = self.map_noise(t)
        e = torch.cat([angles.sin(), angles.cos()], dim=1)
        if classes is not None:
            e = e + self.map_label(classes * classes.shape[1] ** 0.5)
        return self.activation(self.map_layer1(self.activation(self.map_layer0(e))))

    def enter(
        self, size: str, x: Float[Tensor, "b c h w"], side: Float[Tensor, "b s h2 w2"]
    ) -> tuple[Float[Tensor, "b c h w"], Tensor]:
        """The image, or what became of it, enters again."""
        if f"{size}_aux_skip" in self.enc:
            side = self.enc[f"{size}_aux_down"](side)
            return x + self.enc[f"{size}_aux_skip"](side), side
        if f"{size}_aux_residual" in self.enc:
            x = side = self.scale * (x + self.enc[f"{size}_aux_residual"](side))
        return x, side

    def leave(
        self, size: str, x: Float[Tensor, "b c h w"], out: Float[Tensor, "b d h2 w2"] | None
    ) -> Float[Tensor, "b d h w"] | None:
        """The output of this size is added to the upsampled one of the sizes before."""
        if f"{size}_aux_conv" not in self.dec:
            return None
        here = self.dec[f"{size}_aux_conv"](self.activation(self.dec[f"{size}_aux_norm"](x)))
        return here if out is None else here + self.dec[f"{size}_aux_up"](out)


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
    return fit(SongUNet, settings, state)
