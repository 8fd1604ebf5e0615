"""Reads pickled arrays without running anything that the file says."""

import io
import pickle
from pathlib import Path
from typing import Any

from cpur.errors import InputError
from cpur.paths import shown

# What a pickle of dictionaries, lists and NumPy arrays names; whatever else one names is refused.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return super().find_class(module, name)


def read_arrays(file: Path) -> Any:
    """The dictionaries, lists and arrays in a pickle.

    Raises:
        InputError: the file cannot be read, is torn, or names anything else; nothing of it is run.
    """
    try:
        return _Arrays(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise InputError(f"cannot read {shown(file)}: {error.strerror}") from error
    except Exception as error:  # a torn or foreign pickle raises many kinds
        raise InputError(f"{shown(file)} is not a pickle of arrays: {error}; unpack the archive anew") from error
