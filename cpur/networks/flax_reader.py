"""Reads flax checkpoints without JAX, flax or msgpack.

``flax.serialization.to_bytes`` writes nested maps in msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md).
An array is an extension of type 1, whose content is again msgpack: (shape, name of the dtype, bytes in C order). Type 3
is the same for a NumPy scalar, and type 2 a complex number: (real, imaginary). A large array is a map of flat pieces.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpur.errors import InputError
from cpur.paths import shown

CHUNKED = "__msgpack_chunked_array__"
DTYPES = {"bool", "complex64", "complex128", "float16", "float32", "float64", "bfloat16"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
NUMBERS = {0xCA: ">f", 0xCB: ">d"} | {0xCC + i: f">{kind}" for i, kind in enumerate("BHIQbhiq")}


def read_flax(file: str | Path) -> dict[str, Any]:
    """The nested dict of NumPy arrays and plain values in a flax checkpoint; the arrays are read-only.

    Raises:
        InputError: the file cannot be read, is truncated, or holds something else.
    """
    file = Path(file)
    try:
        reader = _Reader(memoryview(file.read_bytes()))
        tree = reader.value()
        if not isinstance(tree, dict):
            raise ValueError("it does not start with a map of names")
        reader.end()
    except OSError as error:
        raise InputError(f"cannot read {shown(file)}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{shown(file)} is not a whole flax checkpoint: {error}; download it again") from error
    return tree


def read_parameters(file: str | Path, tree: str = "params_ema") -> dict[str, np.ndarray]:
    """The parameters of a flax training state by their paths, such as ``Conv_0/kernel``.

    Args:
        file: the checkpoint.
        tree: which parameters: ``params_ema``, the averaged ones that papers report, or ``params``.

    Raises:
        InputError: the checkpoint has no such tree, or a leaf of it is no array.
    """
    state = read_flax(file)
    if not isinstance(state.get(tree), dict):
        raise InputError(f"{shown(file)} has no parameters called {tree}: it holds {', '.join(state) or 'nothing'}")
    parameters = flatten(state[tree])
    wrong = [path for path, leaf in parameters.items() if not isinstance(leaf, np.ndarray)]
    if wrong:
        raise InputError(f"{tree} in {shown(file)} must hold arrays only; {wrong[0]} is none")
    return parameters


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a nested dict by their paths, joined by ``/``."""
    flat = {}
    for name, branch in tree.items():
        if isinstance(branch, Mapping):
            flat |= {f"{name}/{path}": leaf for path, leaf in flatten(branch).items()}
        else:
            flat[name] = branch
    return flat


class _Reader:
    """Takes one msgpack value after another from bytes; whatever is malformed raises ValueError or TypeError."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes, within a value")
        return self.data[start : self.position]

    def number(self, kind: str) -> int | float:
        """A number in the words of :mod:`struct`."""
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def end(self) -> None:
        """Checks that nothing is left."""
        if self.position < len(self.data):
            raise ValueError(f"{len(self.data) - self.position} bytes follow its end")

    def value(self) -> Any:
        """The next value, of any kind."""
        code = self.number(">B")
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code in CONSTANTS:
            return CONSTANTS[code]
        if code in NUMBERS:
            return self.number(NUMBERS[code])
        if 0xD4 <= code <= 0xD8:
            return self.extension(1 << (code - 0xD4))
        for first, last, bits, kind in SHORT:
            if first <= code <= last:
                return kind(self, code & bits)
        for codes, kind in LONG:
            if code in codes:
                return kind(self, self.number(codes[code]))
        raise ValueError(f"byte {self.position - 1}, {code:#x}, starts no value")

    def text(self, size: int) -> str:
        """A string in UTF-8."""
        return str(self.take(size), "utf-8")

    def sequence(self, size: int) -> list:
        """An array in the sense of msgpack."""
        return [self.value() for _ in range(size)]

    def mapping(self, size: int) -> Any:
        """A map, or the array whose pieces it holds."""
        pairs = {}
        for _ in range(size):
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"a name in it is {key!r}, which is no text")
            pairs[key] = self.value()
        if CHUNKED not in pairs:
            return pairs
        shape, chunks = pairs.get("shape"), pairs.get("chunks")
        if not isinstance(shape, dict) or not isinstance(chunks, dict):
            raise ValueError("an array in pieces lacks its shape or its pieces")
        return np.concatenate([*chunks.values()]).reshape([*shape.values()])

    def extension(self, size: int) -> Any:
        """An array, a scalar or a complex number, as flax writes them."""
        kind = self.number(">b")
        inside = _Reader(self.take(size))
        content = inside.value()
        inside.end()
        if kind == 2:
            return complex(*content)
        if kind not in (1, 3):
            raise ValueError(f"flax has no extension of type {kind}")
        array = _array(*content)
        return array if kind == 1 else array[()]


SHORT = (
    (0x80, 0x8F, 0x0F, _Reader.mapping),
    (0x90, 0x9F, 0x0F, _Reader.sequence),
    (0xA0, 0xBF, 0x1F, _Reader.text),
)
LONG = (
    ({0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}, _Reader.take),
    ({0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}, _Reader.extension),
    ({0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}, _Reader.text),
    ({0xDC: ">H", 0xDD: ">I"}, _Reader.sequence),
    ({0xDE: ">H", 0xDF: ">I"}, _Reader.mapping),
)


def _array(shape: list[int], dtype: str, content: memoryview) -> np.ndarray:
    """An array from its bytes; bfloat16, which NumPy lacks, is widened to float32."""
    if dtype not in DTYPES:
        raise ValueError(f"an array in it has dtype {dtype}, which is none of numbers")
    if dtype == "bfloat16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)
