"""Where an NCSN++ of flax keeps the parameters of a :class:`cpur.networks.song_unet.SongUNet`.

flax numbers the modules of one class in the order of construction, which is that of ``enc`` and ``dec``:

=========================================  ============================================================
flax                                       here
=========================================  ============================================================
``GaussianFourierProjection_0``            ``map_noise``
``Dense_0``, ``Dense_1``                   ``map_layer0``, ``map_layer1``
``Conv_0``                                 ``conv``, of the largest size
``ResnetBlockBigGANpp_k``                  ``down``, ``block``, ``in``, ``up``
``GroupNorm_0``, ``Conv_0``, ``Dense_0``   ``norm0``, ``conv0``, ``affine`` of the block
``GroupNorm_1``, ``Conv_1``, ``Conv_2``    ``norm1``, ``conv1``, ``skip`` of the block
``AttnBlockpp_k``                          the attention of the blocks that have one
``GroupNorm_0``, ``NIN_3``                 ``norm2``, ``proj``
``NIN_0``, ``NIN_1``, ``NIN_2``            ``qkv``, whose channels are query, key and value in turn
``Downsample_k/Conv2d_0``                  ``aux_residual``
``Combine_k/Conv_0``                       ``aux_skip``
``GroupNorm_0``, ``Conv_1``                ``aux_norm``, ``aux_conv``, of the largest size
=========================================  ============================================================

Two switches of the public class are none here. Without ``fir`` it halves the side path by a plain convolution of stride
2, ``Downsample_k/Conv_0``: then the filter of ``aux_residual`` keeps one pixel of four. A network that is not
``conditional`` has no Dense layers: then those here are 0.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpur.networks.edm_blocks import separable
from cpur.networks.song_unet import SongBlock, SongUNet
from cpur.state_dicts import check_state

PARAMETERS = {  # for weight and bias
    "Conv": ("kernel", "bias"),
    "Conv2d": ("weight", "bias"),
    "Dense": ("kernel", "bias"),
    "GroupNorm": ("scale", "bias"),
    "NIN": ("W", "b"),
}
ENDS = {"conv": "Conv_0", "aux_norm": "GroupNorm_0", "aux_conv": "Conv_1"}
BLOCK = {
    "norm0": "GroupNorm_0",
    "conv0": "Conv_0",
    "affine": "Dense_0",
    "norm1": "GroupNorm_1",
    "conv1": "Conv_1",
    "skip": "Conv_2",
}
ATTENTION = {"norm2": ["GroupNorm_0"], "qkv": ["NIN_0", "NIN_1", "NIN_2"], "proj": ["NIN_3"]}


def flax_tree(network: SongUNet, fir: bool = True, conditional: bool = True) -> dict[str, Tensor]:
    """The parameters of a network by their paths in flax, with its order of axes."""
    state, tree = network.state_dict(), {}
    for name, paths in _paths(network, fir, conditional).items():
        parts = state[name].unflatten(0, (-1, len(paths))).unbind(1)
        for path, part in zip(paths, parts, strict=True):
            tree[path] = _to_flax(part.flatten(1) if path.endswith("/W") and part.ndim == 4 else part)
    return tree


def check_tree(network: SongUNet, parameters: Mapping[str, Any]) -> None:
    """Raises InputError unless a flat tree of parameters has the names and the shapes of a network."""
    check_state(parameters, flax_tree(network, *_switches(parameters)))


def state_dict_of(network: SongUNet, parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a network from the flat tree of its flax twin, copied.

    Args:
        network: says names and shapes; it may be on the device "meta".
        parameters: arrays by path, as :func:`cpur.networks.flax_reader.read_parameters` gives them.

    Raises:
        InputError: the tree is of another network.
    """
    check_tree(network, parameters)
    fir, conditional = _switches(parameters)
    paths, taps = _paths(network, fir, conditional), network.settings["resample_filter"]
    found = {}
    for name, value in network.state_dict().items():
        if name in paths:
            # np.array copies: what the reader gives is read-only.
            parts = [_from_flax(torch.from_numpy(np.array(parameters[path]))) for path in paths[name]]
            found[name] = torch.stack(parts, 1).reshape(value.shape)
        elif not name.endswith("resample_filter"):
            found[name] = torch.zeros(value.shape)
        elif "aux_residual" in name and not fir:
            found[name] = separable((0, 1))
        else:  # flax turns the filter round where it halves
            found[name] = separable(taps if "_up." in name else taps[::-1])
    return found


def _switches(parameters: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the residual side path is filtered, and whether the network heeds the time."""
    return "Downsample_0/Conv_0/kernel" not in parameters, "Dense_0/kernel" in parameters


def _paths(network: SongUNet, fir: bool, conditional: bool) -> dict[str, list[str]]:
    """Where flax has what the network has by each name: in one parameter, or in three."""
    found = {"map_noise.freqs": ["GaussianFourierProjection_0/W"]}
    for module, places in _modules(network, fir):
        kind = re.search(r"(\w+)_\d+$", places[0])[1]
        if conditional or kind != "Dense":
            for ours, theirs in zip(("weight", "bias"), PARAMETERS[kind], strict=True):
                found[f"{module}.{ours}"] = [f"{place}/{theirs}" for place in places]
    return {name: found[name] for name in network.state_dict() if name in found}


def _modules(network: SongUNet, fir: bool) -> Iterator[tuple[str, list[str]]]:
    """The network's layers, and the modules of flax that they are, as flax numbers them."""
    counts = Counter()

    def next_of(kind: str) -> str:
        counts[kind] += 1
        return f"{kind}_{counts[kind] - 1}"

    yield from (("map_layer0", ["Dense_0"]), ("map_layer1", ["Dense_1"]))
    for side in ("enc", "dec"):
        for key, layer in getattr(network, side).items():
            name, kind = f"{side}.{key}", key.partition("_")[2]
            if isinstance(layer, SongBlock):
                block = next_of("ResnetBlockBigGANpp")
                yield from ((f"{name}.{ours}", [f"{block}/{theirs}"]) for ours, theirs in BLOCK.items())
                attention = next_of("AttnBlockpp") if layer.heads else None
                for ours, theirs in ATTENTION.items() if attention else ():
                    yield f"{name}.{ours}", [f"{attention}/{one}" for one in theirs]
            elif kind == "aux_residual":
                yield name, [f"{next_of('Downsample')}/{'Conv2d_0' if fir else 'Conv_0'}"]
            elif kind == "aux_skip":
                yield name, [f"{next_of('Combine')}/Conv_0"]
            elif kind in ENDS:
                yield name, [ENDS[kind]]


def _to_flax(tensor: Tensor) -> Tensor:
    """(out, in, h, w) as (h, w, in, out), and (out, in) as (in, out)."""
    return tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.t()


def _from_flax(tensor: Tensor) -> Tensor:
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.t()
