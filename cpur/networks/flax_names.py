"""Where a flax module keeps the parameters of the PyTorch module that is built like it.

flax numbers the modules of one class within their parent in the order of construction: ``Conv_0``, ``Conv_1``. So the
path of a parameter follows from the order in which a PyTorch module registers its children:

================  =============  ==========================================
PyTorch           flax           parameters
================  =============  ==========================================
``nn.Conv2d``     ``Conv``       ``weight`` is ``kernel`` (h, w, in, out)
``nn.Linear``     ``Dense``      ``weight`` is ``kernel`` (in, out)
``nn.GroupNorm``  ``GroupNorm``  ``weight`` is ``scale``
================  =============  ==========================================

Any other class says its name in an attribute ``flax_name``, and in ``flax_parameters`` those of its parameters that
flax calls otherwise. A class without ``flax_name``, such as ``nn.ModuleList``, is none in flax: its children are
counted with its parent's.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cpur.errors import InputError

LAYERS = {
    nn.Conv2d: ("Conv", {"weight": "kernel"}),
    nn.Linear: ("Dense", {"weight": "kernel"}),
    nn.GroupNorm: ("GroupNorm", {"weight": "scale"}),
}


def flax_paths(network: nn.Module) -> dict[str, str]:
    """The path in flax's tree of every name in the network's state dict."""
    return dict(_paths(network, "", "", Counter()))


def to_flax(tensor: Tensor) -> Tensor:
    """A parameter with flax's order of axes, as a view: (out, in, h, w) is (h, w, in, out), (out, in) is (in, out)."""
    return tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.t() if tensor.ndim == 2 else tensor


def from_flax(tensor: Tensor) -> Tensor:
    """The inverse of :func:`to_flax`."""
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.t() if tensor.ndim == 2 else tensor


def check_tree(network: nn.Module, parameters: Mapping[str, Any]) -> None:
    """Checks that a flat tree of parameters has the names and the shapes of a network.

    Raises:
        InputError: a parameter is missing, is one too many, or has another shape.
    """
    state = network.state_dict()
    expected = {path: tuple(to_flax(state[name]).shape) for name, path in flax_paths(network).items()}
    wrong = [f"{path} is missing" for path in expected if path not in parameters]
    wrong += [f"{path} is one too many" for path in parameters if path not in expected]
    for path, shape in expected.items():
        found = tuple(parameters[path].shape) if path in parameters else shape
        if found != shape:
            wrong.append(f"{path} has shape {found}, not {shape}")
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"the parameters do not fit {type(network).__name__} of these settings: {', '.join(wrong[:3])}{more}"
        )


def state_dict_of(network: nn.Module, parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a network from the flat tree of its flax twin, copied.

    Args:
        network: says names and shapes; it may be on the device "meta".
        parameters: arrays by path, as :func:`cpur.networks.flax_reader.read_parameters` gives them.

    Raises:
        InputError: the tree is of another network.
    """
    check_tree(network, parameters)
    paths = flax_paths(network).items()
    # np.array copies: what the reader gives is read-only, and has flax's order of axes in memory.
    return {name: from_flax(torch.from_numpy(np.array(parameters[path]))).contiguous() for name, path in paths}


def _paths(module: nn.Module, name: str, path: str, counts: Counter) -> Iterator[tuple[str, str]]:
    """Names and paths below a module; ``counts`` are of the classes that its parent in flax has so far."""
    renamed = LAYERS[type(module)][1] if type(module) in LAYERS else getattr(module, "flax_parameters", {})
    for parameter, _ in module.named_parameters(recurse=False):
        yield name + parameter, path + renamed.get(parameter, parameter)
    for child_name, child in module.named_children():
        kind = LAYERS[type(child)][0] if type(child) in LAYERS else getattr(child, "flax_name", None)
        if kind is None:
            yield from _paths(child, f"{name}{child_name}.", path, counts)
        else:
            yield from _paths(child, f"{name}{child_name}.", f"{path}{kind}_{counts[kind]}/", Counter())
            counts[kind] += 1
