r"""NCSN++, the network of the CIFAR-10 consistency models of ``openai/consistency_models_cifar10``.

Their checkpoints are flax training states, which become a network by::

    parameters = read_parameters("checkpoint_80")  # of cpur.networks.flax_reader
    network = NCSNpp(**infer_settings(parameters, {"attn_resolutions": [16]}))
    network.load_state_dict(state_dict_of(network, parameters))  # of cpur.networks.flax_names

The published networks are consistency models, and one is an EDM, with :math:`\sigma_d` = 0.5, :math:`t_{\min}` = 0.002
and :math:`t_{\max}` = 80, which ``preconditioning.json`` calls ``sigma_data``, ``sigma_min`` and ``sigma_max``:

.. math:: f(x, t) = c_{skip}(t)\,x + c_{out}(t)\,F(c_{in}(t)\,x,\; \tfrac14 \ln t)

with :func:`cpur.schedules.consistency_scalings`; the time argument of F is not multiplied by 1000.

=========================================  ===========================================================================
flax, k counted in the order of building   here
=========================================  ===========================================================================
``GaussianFourierProjection_0``            ``fourier``
``Dense_0``, ``Dense_1``                   ``time_in``, ``time_out``
``Conv_0``                                 ``conv_in``
``ResnetBlockBigGANpp_k``                  ``encoder.i.blocks.j``, then ``encoder.i.down``; ``middle.block_in``,
                                           ``middle.block_out``; ``decoder.i.blocks.j``, then ``decoder.i.up``
``GroupNorm_0``, ``Conv_0``, ``Dense_0``   ``norm_in``, ``conv_in``, ``time`` of the block
``GroupNorm_1``, ``Conv_1``, ``Conv_2``    ``norm_out``, ``conv_out``, ``shortcut`` of the block
``AttnBlockpp_k``                          ``encoder.i.attentions.j``; ``middle.attention``; ``decoder.i.attention``
``GroupNorm_0``, ``NIN_0`` to ``NIN_3``    ``norm``, ``query``, ``key``, ``value``, ``out`` of the attention
``Downsample_k/Conv2d_0``                  ``encoder.i.pyramid.conv``
``GroupNorm_0``, ``Conv_1``                ``norm_out``, ``conv_out``
=========================================  ===========================================================================

The encoder's levels i start at the finest one, the decoder's at the coarsest.

Source: Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations, appendix H.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, leaky_relu, relu, silu

from cpur.errors import InputError
from cpur.networks.fir import Downsample, Upsample
from cpur.networks.flax_names import check_tree
from cpur.networks.ncsnpp_blocks import (
    Attention,
    DecoderLevel,
    EncoderLevel,
    FourierEmbedding,
    PositionalEmbedding,
    ResidualBlock,
    ResidualInput,
    SkipInput,
    group_norm,
)
from cpur.networks.ncsnpp_settings import NCSNppSettings, settings_of

ACTIVATIONS = {"swish": silu, "relu": relu, "elu": elu, "lrelu": partial(leaky_relu, negative_slope=0.2)}
EMBEDDINGS = {"fourier": FourierEmbedding, "positional": PositionalEmbedding}
PYRAMIDS = {"residual": ResidualInput, "input_skip": SkipInput, "none": None}


class NCSNpp(nn.Module):
    """The raw network F, which takes c_in times an image on [-1, 1] and knows no classes.

    Args:
        settings: those of :class:`NCSNppSettings`; the attribute of this name holds them all.

    Raises:
        InputError: settings of no such network; labels, or images of another size, at a call.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        chosen = NCSNppSettings(**settings)
        self.settings = asdict(chosen)
        self.activation = ACTIVATIONS[chosen.nonlinearity]
        nf, images, last = chosen.nf, chosen.num_channels, len(chosen.ch_mult) - 1
        widths = [nf * multiple for multiple in chosen.ch_mult]
        time_channels = 4 * nf if chosen.conditional else 0
        taps = chosen.fir_kernel if chosen.fir else None
        scale = 2**-0.5 if chosen.skip_rescale else 1.0
        block = partial(ResidualBlock, time_channels=time_channels, activation=self.activation, scale=scale)
        new_pyramid = PYRAMIDS[chosen.progressive_input]

        def attention(level: int) -> nn.Module:
            return Attention(widths[level], scale) if chosen.attended[level] else nn.Identity()

        # Built in flax's order, which numbers the modules.
        self.fourier = EMBEDDINGS[chosen.embedding_type](nf)
        if time_channels:
            self.time_in = nn.Linear(self.fourier.channels, time_channels)
            self.time_out = nn.Linear(time_channels, time_channels)
        self.conv_in = nn.Conv2d(images, nf, 3, padding=1)
        self.encoder, self.middle, self.decoder = nn.ModuleList(), nn.Module(), nn.ModuleList()
        skips, copied = [nf], images
        for i, width in enumerate(widths):
            inputs = [skips[-1]] + (chosen.num_res_blocks - 1) * [width]
            blocks, attentions = [block(c, width) for c in inputs], [attention(i) for _ in inputs]
            down = block(width, width, resample=Downsample(taps)) if i < last else None
            pyramid = new_pyramid(copied, width, taps, scale) if new_pyramid and i < last else None
            copied = pyramid.channels if pyramid else copied
            skips += (len(inputs) + (i < last)) * [width]
            self.encoder.append(EncoderLevel(blocks, attentions, down, pyramid))
        self.middle.block_in, self.middle.block_out = block(width, width), block(width, width)
        self.middle.attention = Attention(width, scale)
        for i, out in reversed([*enumerate(widths)]):
            inputs = [width] + chosen.num_res_blocks * [out]
            blocks, width = [block(c + skips.pop(), out) for c in inputs], out
            up = block(out, out, resample=Upsample(taps)) if i else None
            self.decoder.append(DecoderLevel(blocks, attention(i), up))
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, images, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], labels: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The network's output at the time argument t, which is a quarter of the logarithm of the noise level."""
        if labels is not None:
            raise InputError("this network knows no classes: call it without labels")
        size = self.settings["image_size"]
        if x.shape[2:] != (size, size):
            raise InputError(f"this network takes images of {size} x {size}; got {x.shape[2]} x {x.shape[3]}")
        embedding = None
        if self.settings["conditional"]:
            embedding = self.time_out(self.activation(self.time_in(self.fourier(t))))
            embedding = self.activation(embedding)
        h, pyramid = self.conv_in(x), x
        skips = [h]
        for level in self.encoder:
            features, pyramid = level(skips[-1], pyramid, embedding)
            skips += features
        h = self.middle.attention(self.middle.block_in(skips[-1], embedding))
        h = self.middle.block_out(h, embedding)
        for level in self.decoder:
            h = level(h, skips, embedding)
        return self.conv_out(self.activation(self.norm_out(h)))


def infer_settings(state: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a network from the names and shapes of its parameters.

    They do not tell ``image_size``, ``fir_kernel``, ``skip_rescale`` and ``nonlinearity``, nor ``fir`` where there is
    no residual pyramid: where ``arguments`` are silent, these are the published network's. They do not tell
    ``attn_resolutions`` either where levels are of one width: then ``arguments`` must say it.

    Args:
        state: arrays or tensors by path in flax's tree, as :func:`cpur.networks.flax_reader.read_parameters` gives.
        arguments: model fields of the public configuration, with ``image_size`` and ``num_channels`` of its data;
            fields that do not shape the network may be among them.

    Raises:
        InputError: ``arguments`` contradict the parameters, lack what is needed, or ask for another kind of network;
            a parameter is missing, is one too many, or has another shape.
    """
    settings = settings_of({path: tuple(parameter.shape) for path, parameter in state.items()}, arguments or {})
    with torch.device("meta"):
        network = NCSNpp(**asdict(settings))
    check_tree(network, state)
    return network.settings
