"""State dicts of published checkpoints: their keys and shapes, or one clear error."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cpur.errors import InputError

LISTED = 3  # differences that an error names


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
    if wrong:
        more = [f"{len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        raise InputError(f"the weights do not fit the network: {', '.join(wrong[:LISTED] + more)}")
