r"""The settings of an NCSN++ of flax, as :class:`cpur.networks.song_unet.SongUNet` has them.

The CIFAR-10 consistency models of ``openai/consistency_models_cifar10`` are flax training states, which become a
network by::

    parameters = read_parameters("checkpoint_80")  # of cpur.networks.flax_reader
    network = SongUNet(**infer_settings(parameters, {"attn_resolutions": [16]}))
    network.load_state_dict(state_dict_of(network, parameters))  # of cpur.networks.flax_names

The published networks are consistency models, and one is an EDM, with :math:`\sigma_d` = 0.5, :math:`t_{\min}` = 0.002
and :math:`t_{\max}` = 80, which ``preconditioning.json`` calls ``sigma_data``, ``sigma_min`` and ``sigma_max``:

.. math:: f(x, t) = c_{skip}(t)\,x + c_{out}(t)\,F(c_{in}(t)\,x,\; \tfrac14 \ln t)

with :func:`cpur.schedules.consistency_scalings`; the time argument of F is not multiplied by 1000.

Source: Song et al. (2021), Score-Based Generative Modeling through Stochastic Differential Equations, appendix H.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch

from cpur.errors import InputError, choose
from cpur.networks.flax_names import check_tree
from cpur.networks.song_unet import SongUNet

ENCODERS = {"residual": "residual", "input_skip": "skip", "none": "standard"}  # by progressive_input
BLOCK = "ResnetBlockBigGANpp"
ONLY = {  # switches of the public class that stand still here
    "resblock_type": "biggan",
    "progressive": "none",
    "normalization": "GroupNorm",
    "double_heads": False,
    "scale_by_sigma": False,
    "conv_size": 3,
}
PUBLISHED = {
    "image_size": 32,
    "num_channels": 3,
    "embedding_type": "fourier",
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "progressive_input": "residual",
    "skip_rescale": True,
    "nonlinearity": "swish",
}


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
    shapes = {path: tuple(parameter.shape) for path, parameter in state.items()}
    given = {name: [*value] if isinstance(value, tuple) else value for name, value in (arguments or {}).items()}
    for name, value in ONLY.items():
        if given.get(name, value) != value:
            raise InputError(f"{name} must be {value!r}, the one kind of NCSN++ here; got {given[name]!r}")
    found = _told_by_shapes(shapes)
    for name, value in found.items():
        if given.get(name, value) != value:
            raise InputError(f"{name} is {given[name]!r} in the arguments, but {value!r} by the parameters")
    known = PUBLISHED | given | found
    with torch.device("meta"):
        network = SongUNet(**song_settings(known | {"attn_resolutions": _attended(shapes, known)}))
    check_tree(network, state)
    return network.settings


def song_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the public configuration in the words of :class:`cpur.networks.song_unet.SongUNet`."""
    fields = PUBLISHED | fields
    choose("progressive_input", fields["progressive_input"], ENCODERS)
    same = ("attn_resolutions", "embedding_type", "nonlinearity", "skip_rescale")
    return {name: fields[name] for name in same} | {
        "img_resolution": fields["image_size"],
        "in_channels": fields["num_channels"],
        "out_channels": fields["num_channels"],
        "model_channels": fields["nf"],
        "channel_mult": fields["ch_mult"],
        "num_blocks": fields["num_res_blocks"],
        "channel_mult_noise": 2 if fields["embedding_type"] == "fourier" else 1,
        "encoder_type": ENCODERS[fields["progressive_input"]],
        "resample_filter": fields["fir_kernel"] if fields["fir"] else [1, 1],
    }


def _told_by_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """All settings that names and shapes tell by themselves."""
    kernels = _numbered(shapes, BLOCK, "Conv_0/kernel", 4)
    first = shapes.get("Conv_0/kernel", ())
    if not kernels or len(first) != 4 or any(kernel[3] % first[3] for kernel in kernels):
        raise InputError(
            "the parameters are not those of an NCSN++ with BigGAN blocks: each ResnetBlockBigGANpp has the channels "
            "of Conv_0, or a multiple"
        )
    num_channels, nf = first[2:]
    # Only blocks that resample have a shortcut between equal widths: one a level on either side, but for one level.
    resampling = [k for k, (_, _, c, out) in enumerate(kernels) if c == out and f"{BLOCK}_{k}/Conv_2/kernel" in shapes]
    levels = len(resampling) // 2 + 1
    num_res_blocks = (len(kernels) // levels - 3) // 2
    if num_res_blocks < 1 or len(kernels) != levels * (2 * num_res_blocks + 3):
        raise InputError(
            "the parameters do not fit an NCSN++: it has five, seven or more ResnetBlockBigGANpp for each level; got "
            f"{len(kernels)} for {levels} levels"
        )
    found = {
        "nf": nf,
        "num_channels": num_channels,
        "num_res_blocks": num_res_blocks,
        "ch_mult": [kernel[3] // nf for kernel in kernels[:: num_res_blocks + 1][:levels]],
        "embedding_type": "fourier" if "GaussianFourierProjection_0/W" in shapes else "positional",
        "conditional": "Dense_0/kernel" in shapes,
    }
    if levels > 1:
        fused, plain = (f"Downsample_0/{name}" in shapes for name in ("Conv2d_0/weight", "Conv_0/kernel"))
        skip = "Combine_0/Conv_0/kernel" in shapes
        found["progressive_input"] = "residual" if fused or plain else "input_skip" if skip else "none"
        if fused or plain:
            found["fir"] = fused
    return found


def _attended(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, Any]) -> list[int]:
    """The resolutions of attention: as given where the widths of the attention blocks agree, or the only ones."""
    sizes = [known["image_size"] >> level for level in range(len(known["ch_mult"]))]
    width = {size: known["nf"] * multiple for size, multiple in zip(sizes, known["ch_mult"], strict=True)}
    found = [shape[0] for shape in _numbered(shapes, "AttnBlockpp", "NIN_0/W", 2)]
    options = []
    for chosen in (chosen for n in range(len(sizes) + 1) for chosen in combinations(sizes, n)):
        places = *(size for size in chosen for _ in range(known["num_res_blocks"])), sizes[-1], *reversed(chosen)
        if [width[size] for size in places] == found:
            options.append([*chosen])
    if not options:
        raise InputError(f"the parameters do not fit an NCSN++: no levels have its {len(found)} AttnBlockpp")
    fit = f"{' or '.join(map(str, options))} of an image_size of {sizes[0]}"
    if "attn_resolutions" in known:
        given = [size for size in sizes if size in known["attn_resolutions"]]
        if given not in options:
            raise InputError(
                f"attn_resolutions is {known['attn_resolutions']} in the arguments, but {fit} by the parameters"
            )
        return given
    if len(options) > 1:
        raise InputError(
            f"attn_resolutions is needed, since the parameters fit {fit}: take it from the model's configuration"
        )
    return options[0]


def _numbered(shapes: Mapping[str, tuple[int, ...]], module: str, parameter: str, axes: int) -> list[tuple[int, ...]]:
    """The shapes of a parameter of all modules of one class, which flax numbers from 0."""
    modules = {path.split("/")[0] for path in shapes if path.startswith(f"{module}_")}
    paths = [f"{module}_{k}/{parameter}" for k in range(len(modules))]
    for path in paths:
        if len(shapes.get(path, ())) != axes:
            raise InputError(f"the parameters do not fit an NCSN++: {path}, of {axes} axes, is missing")
    return [shapes[path] for path in paths]
