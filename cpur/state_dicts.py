"""State dicts as they are published: read, compared with a network's keys and shapes, and fitted to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present as strip

from cpur.errors import InputError
from cpur.paths import shown

LISTED = 3  # differences that an error names


def read_state_dict(file: str | Path) -> dict[str, Tensor]:
    """A state dict that ``torch.save`` wrote, or in safetensors, on the CPU; it may be wrapped as ``state_dict``.

    Raises:
        InputError: the file is missing, damaged, would run code, or holds anything but named tensors.
    """
    try:
        safe = Path(file).suffix == ".safetensors"
        state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds
        raise InputError(
            f"{shown(file)} is damaged or no file of tensors: it is not a state dict written by torch.save or in "
            f"safetensors ({first_line(error)})"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{shown(file)} must hold names and tensors only, or these under state_dict: save the network's "
            "state_dict()"
        )
    return dict(state)


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, tuple[float, ...]]]:
    """A state dict by the network's own names, and the mean and std of a normalisation layer before it, if it has them.

    Raises:
        InputError: there is no such file, or it is refused by :func:`read_state_dict`.
    """
    if not file.is_file():
        raise InputError(f"there is no file {shown(file)}: give the published checkpoint, .pth or .safetensors")
    state = read_state_dict(file)
    strip(state, "module.")
    layer = {}
    if all(key.startswith(("0.", "1.")) for key in state):
        layer = {ours: state.pop(key) for ours, key in (("mean", "0.means"), ("std", "0.sds")) if key in state}
        strip(state, "1.")
        strip(state, "module.")
    return state, {name: tuple(value.float().flatten().tolist()) for name, value in layer.items()}


def shape_of(state: Mapping[str, Tensor], key: str, dims: int) -> tuple[int, ...]:
    """The shape of the tensor with that key, or InputError where there is none of ``dims`` dimensions."""
    if key not in state:
        raise InputError(f"the weights lack {key}: give the state dict of the public checkpoint, of this format")
    shape = tuple(state[key].shape)
    if len(shape) != dims:
        raise InputError(f"{key} must have {dims} dimensions in this format; got shape {list(shape)}")
    return shape


def check_state(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Raises InputError unless tensors or arrays have the keys and shapes expected, of tensors that may be on meta."""
    wrong = [f"{key} is missing" for key in expected if key not in state]
    wrong += [f"{key} is unknown" for key in state if key not in expected]
    wrong += [
        f"{key} has shape {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in state and tuple(state[key].shape) != tuple(value.shape)
    ]
    _refuse(wrong)


def fit(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives the tensors to a network on meta.

    The modules' own hooks rename what older versions of their library wrote.

    Raises:
        InputError: a tensor is missing, unknown or misshapen; the first ones are named.
    """
    _refuse(
        [
            f"{key} (shape {list(state[key].shape)} instead of {list(value.shape)}) is misshapen"
            for key, value in network.state_dict().items()
            if key in state and state[key].shape != value.shape
        ]
    )
    try:
        missing, unknown = network.load_state_dict(state, strict=False, assign=True)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the weights do not fit the network: {first_line(error)}") from error
    agree(missing, unknown)


def agree(missing: Sequence[str], unknown: Sequence[str]) -> None:
    """Raises InputError where tensors are missing or unknown; the first ones are named."""
    _refuse([f"{key} is missing" for key in sorted(missing)] + [f"{key} is unknown" for key in sorted(unknown)])


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        more = [f"{len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        raise InputError(f"the weights do not fit the network: {', '.join([*wrong[:LISTED], *more])}")


def first_line(error: Exception) -> str:
    """What an error of another library says first."""
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0]
