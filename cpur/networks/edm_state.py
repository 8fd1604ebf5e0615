"""What the tensors of an EDM checkpoint tell about its U-Net, and whether a network and a state dict fit together."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cpur.errors import InputError
from cpur.networks.edm_blocks import Taps

PREFIX = "model."  # of the raw network in its preconditioned module
FIRST = re.compile(r"enc\.(\d+)x\1_conv\.weight")
BLOCK = re.compile(r"enc\.(\d+)x\1_block(\d+)\.conv0\.weight")


def raw_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the raw network: that of the preconditioned module without ``model.``, or ``state`` as it is.

    The preconditioning has no tensors, so every name of a preconditioned module has the prefix.
    """
    prefix = PREFIX if state and all(name.startswith(PREFIX) for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def tensor(state: Mapping[str, Tensor], name: str, dimensions: int) -> Tensor:
    """The tensor of that name.

    Raises:
        InputError: there is none, or it has another number of dimensions.
    """
    if name not in state:
        raise InputError(f"the state dict lacks {name}: give that of one of EDM's U-Nets, with or without {PREFIX}")
    if state[name].ndim != dimensions:
        raise InputError(f"{name} must have {dimensions} dimensions; got shape {tuple(state[name].shape)}")
    return state[name]


def first_convolution(state: Mapping[str, Tensor]) -> Tensor:
    """The weight of the first convolution, whose name holds the size of the image.

    Raises:
        InputError: there is none, or more than one.
    """
    names = [name for name in state if FIRST.fullmatch(name)]
    if len(names) != 1:
        raise InputError(
            f"the state dict has {len(names)} tensors enc.<size>x<size>_conv.weight, expected 1: give that of one of "
            f"EDM's U-Nets, with or without {PREFIX}"
        )
    return tensor(state, names[0], 4)


def ratio(name: str, channels: int, base: int) -> int:
    """``channels / base`` as the whole number that the argument ``name`` must be."""
    if channels % base:
        raise InputError(f"{name} must be a whole number; the tensors give {channels} / {base} channels")
    return channels // base


def proportions(taps: Taps) -> list[float]:
    """The taps divided by the first that is not 0: what is left of them in a filter of sum 1."""
    first = next((tap for tap in taps if tap), 1)
    return [round(tap / first, 4) for tap in taps]


def common_settings(state: Mapping[str, Tensor], model_channels: int) -> dict[str, Any]:
    """The settings that both U-Nets show in the same way, by their public names."""
    blocks = [match.groups() for match in map(BLOCK.fullmatch, state) if match]
    sizes = sorted({int(size) for size, _ in blocks}, reverse=True)
    if not sizes:
        raise InputError("the state dict has no block enc.<size>x<size>_block0: give that of one of EDM's U-Nets")
    first = [f"enc.{size}x{size}_block0" for size in sizes]
    noise = tensor(state, "map_layer0.weight", 2)
    return {
        "img_resolution": sizes[0],
        "in_channels": first_convolution(state).shape[1],
        "label_dim": tensor(state, "map_label.weight", 2).shape[1] if "map_label.weight" in state else 0,
        "augment_dim": tensor(state, "map_augment.weight", 2).shape[1] if "map_augment.weight" in state else 0,
        "model_channels": model_channels,
        "channel_mult": [
            ratio("channel_mult", tensor(state, f"{block}.conv0.weight", 4).shape[0], model_channels) for block in first
        ],
        "channel_mult_emb": ratio("channel_mult_emb", noise.shape[0], model_channels),
        "num_blocks": 1 + max(int(index) for _, index in blocks),
        "attn_resolutions": [size for size, block in zip(sizes, first, strict=True) if f"{block}.qkv.weight" in state],
    }


def agree(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Compares inferred settings with constructor arguments of the same name; others are not looked at.

    Raises:
        InputError: two differ.
    """
    if "img_channels" in arguments:  # as the preconditioned classes call it
        arguments = {"in_channels": arguments["img_channels"], **arguments}
    for name in sorted(settings.keys() & arguments.keys()):
        found, given = settings[name], arguments[name]
        if isinstance(given, Sequence) and not isinstance(given, str):
            given = list(given)
        if name == "attn_resolutions":  # may name sizes that the network does not have, in any order
            sizes = [settings["img_resolution"] >> level for level in range(len(settings["channel_mult"]))]
            given = [size for size in sizes if size in given]
        if given != found:
            raise InputError(f"{name} is {given!r} in the arguments, but {found!r} in the tensors: leave it out")


def fit(network: type[nn.Module], settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """All settings of the network, which must have the names and shapes of ``state``; no memory is taken.

    Raises:
        InputError: a name is missing or unexpected, or a shape differs.
    """
    with torch.device("meta"):
        empty = network(**settings)
    expected = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"the state dict is not that of {network.__name__}: {name} has shape {found.get(name, 'none')}, "
                f"expected {expected.get(name, 'none')}"
            )
    return empty.settings
