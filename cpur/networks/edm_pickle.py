"""Reads the checkpoints of EDM and ECT without running them.

Such a file is a pickle of ``{"ema": module, ...}``. A module that was pickled with its source is a call of
``torch_utils.persistence._reconstruct_persistent_obj`` with ``{"type", "version", "module_src", "class_name",
"state"}``, where ``state`` is the module's ``__dict__``; NVlabs' code executes ``module_src`` on loading. Here the
source stays text: modules become plain records, and only functions that rebuild tensors are called.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._utils import _rebuild_tensor, _rebuild_tensor_v2

from cpur.errors import InputError, choose
from cpur.paths import shown


class Record:
    """The stand-in of an object: its class's name, and its ``__dict__``, which the pickle fills."""

    class_name = ""


def read_edm_pickle(file: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of ``ema`` and what it was made with.

    The tensors have the names that ``ema.state_dict()`` would give them, ``model.`` first, and lie on the CPU. The
    arguments are the keyword arguments of the constructor over the module's own numbers and strings (``sigma_data``,
    ``sigma_min``: also where the class set them), and ``class_name``, such as ``EDMPrecond`` or ``ECMPrecond``.

    Raises:
        InputError: the file is missing, damaged, no such pickle, or names anything that is not on the list here;
            nothing of it has run then.
    """
    try:
        with Path(file).open("rb") as stream:
            data = _Unpickler(stream).load()
        ema = data["ema"]
        return dict(_tensors(vars(ema), "")), _arguments(ema)
    except InputError:
        raise
    except Exception as error:  # damaged bytes can make an unpickler raise almost anything
        raise InputError(
            f"{shown(file)} is not a pickle of EDM or ECT with the entry ema ({type(error).__name__}: {error}): give "
            "the downloaded .pkl, or read a plain state dict with read_state_dict"
        ) from error


class _Unpickler(pickle.Unpickler):
    """An unpickler to which no global exists but those of ``FUNCTIONS`` and ``CLASSES`` and torch's layers."""

    def find_class(self, module: str, name: str) -> Any:
        """A function or a class, made anew each time: a pickle may set attributes of what it has found."""
        if function := FUNCTIONS.get((module, name)):
            return lambda *args: function(*args)
        if base := CLASSES.get((module, name)):
            return type(name, (base,), {})
        if module.startswith("torch.nn.modules."):
            return type(name, (Record,), {"class_name": name})
        raise InputError(
            f"the pickle names {module}.{name}, which no checkpoint of EDM or ECT needs: nothing of it was run; load "
            "it where you trust it, and save its state_dict()"
        )


def _tensors(module: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a module's ``__dict__``, in the order of ``state_dict``."""
    buffers = {k: v for k, v in module["_buffers"].items() if k not in module.get("_non_persistent_buffers_set", ())}
    for name, value in {**module["_parameters"], **buffers}.items():
        if value is not None:
            if not isinstance(value, Tensor):
                raise InputError(f"{prefix}{name} of the pickle must be a tensor; got {type(value).__name__}")
            yield prefix + name, value.detach()
    for name, child in module["_modules"].items():
        if child is not None:
            yield from _tensors(vars(child), f"{prefix}{name}.")


def _arguments(ema: Record) -> dict[str, Any]:
    own = {
        name: value
        for name, value in vars(ema).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_") and name != "training"
    }
    return {"class_name": type(ema).class_name, **own, **vars(ema).get("_init_kwargs", {})}


def _persistent(meta: Mapping[str, Any]) -> Record:
    if meta["type"] != "class":
        raise InputError(f"the pickle holds a persistent object of type {meta['type']!r}, expected 'class'")
    record = type(meta["class_name"], (Record,), {"class_name": meta["class_name"]})()
    vars(record).update(meta["state"])
    return record


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _latin1(text: str, _: str) -> bytes:
    """The bytes that a pickle of protocol 2 holds as text."""
    return text.encode("latin1")


class _Dtype:
    """A numpy dtype: its letter and size, little-endian."""

    def __init__(self, code: str, *_: Any) -> None:
        choose("the dtype of a number in the pickle", code, SCALARS)
        self.code = "<" + code

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", "|"):
            raise InputError(f"numbers in the pickle must be little-endian; got byte order {state[1]!r}")


def _scalar(dtype: _Dtype, data: bytes) -> float:
    return np.frombuffer(data, dtype.code)[0].item()


SCALARS = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")

FUNCTIONS = {
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
}

CLASSES = {("numpy", "dtype"): _Dtype, ("dnnlib.util", "EasyDict"): dict}
