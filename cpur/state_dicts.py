"""State dicts as they are published: read by the network's own names, and fitted to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present as strip

from cpur.errors import InputError
from cpur.paths import shown

LISTED = 3  # differences that an error names


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, tuple[float, ...]]]:
    """A state dict by the network's own names, and the mean and std of a normalisation layer before it, if it has them.

    Raises:
        InputError: there is no such file, it is damaged, would run code, or holds no state dict.
    """
    if not file.is_file():
        raise InputError(f"there is no file {shown(file)}: give the published checkpoint, .pth or .safetensors")
    try:
        safe = file.suffix == ".safetensors"
        state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds
        raise InputError(f"it is damaged or no file of tensors: {first_line(error)}") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("it must hold names and tensors, or these under state_dict: save the network's state_dict()")
    strip(state, "module.")
    layer = {}
    if all(key.startswith(("0.", "1.")) for key in state):
        layer = {ours: state.pop(key) for ours, key in (("mean", "0.means"), ("std", "0.sds")) if key in state}
        strip(state, "1.")
        strip(state, "module.")
    return state, {name: tuple(value.float().flatten().tolist()) for name, value in layer.items()}


def fit(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives the tensors to a network on meta.

    The modules' own hooks rename what older versions of their library wrote.

    Raises:
        InputError: a tensor is missing, unknown or misshapen; the first ones are named.
    """
    misshapen = [
        f"{key} (shape {list(state[key].shape)} instead of {list(value.shape)})"
        for key, value in network.state_dict().items()
        if key in state and state[key].shape != value.shape
    ]
    agree([], [], misshapen)
    try:
        missing, unknown = network.load_state_dict(state, strict=False, assign=True)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the weights do not fit the network: {first_line(error)}") from error
    agree(missing, unknown)


def agree(missing: Sequence[str], unknown: Sequence[str], misshapen: Sequence[str] = ()) -> None:
    """Raises InputError where there are tensors that are missing, unknown or misshapen; the first ones are named."""
    wrong = [f"{key} is missing" for key in sorted(missing)] + [f"{key} is unknown" for key in sorted(unknown)]
    wrong += [f"{text} is misshapen" for text in misshapen]
    if wrong:
        more = [f"{len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        raise InputError(f"the weights do not fit the network: {', '.join(wrong[:LISTED] + more)}")


def first_line(error: Exception) -> str:
    """What an error of another library says first."""
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0]
