"""msgpack as flax writes it: every code, arrays of every kind, and files that are damaged or something else."""

import random
import struct

import numpy as np
import pytest

from cpur.errors import InputError
from cpur.networks.flax_reader import flatten, read_flax, read_parameters

SIZED = {  # the code of each size of a length
    str: {1: 0xD9, 2: 0xDA, 4: 0xDB},
    bytes: {1: 0xC4, 2: 0xC5, 4: 0xC6},
    list: {2: 0xDC, 4: 0xDD},
    dict: {2: 0xDE, 4: 0xDF},
    "extension": {1: 0xC7, 2: 0xC8, 4: 0xC9},
}
FIXED = {str: (0xA0, 32), list: (0x90, 16), dict: (0x80, 16)}
LENGTH = {1: ">BB", 2: ">BH", 4: ">BI"}


def head(kind, size):
    """The first bytes of a value with a size, as short as can be."""
    code, limit = FIXED.get(kind, (0, 0))
    if size < limit:
        return bytes([code | size])
    width = next(width for width in SIZED[kind] if size < 256**width)
    return struct.pack(LENGTH[width], SIZED[kind][width], size)


def packed(value):
    """msgpack of a value, arrays as flax writes them."""
    if isinstance(value, dict):
        return head(dict, len(value)) + b"".join(packed(key) + packed(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return head(list, len(value)) + b"".join(map(packed, value))
    if isinstance(value, str | bytes):
        content = value.encode() if isinstance(value, str) else value
        return head(type(value), len(content)) + content
    if isinstance(value, np.ndarray | np.generic):
        content = packed((value.shape, value.dtype.name, value.tobytes()))
        return extension(1 if isinstance(value, np.ndarray) else 3, content)
    if isinstance(value, complex):
        return extension(2, packed((value.real, value.imag)))
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return struct.pack(">Bq", 0xD3, value)
    return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]


def extension(kind, content):
    return head("extension", len(content)) + bytes([kind]) + content


@pytest.fixture
def read(tmp_path):
    """What a file with these bytes holds."""

    def reader(content):
        (tmp_path / "checkpoint_1").write_bytes(content)
        return read_flax(tmp_path / "checkpoint_1")

    return reader


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_text_and_sequences_of_every_size(read, size):
    values = {"text": "é" * (size // 2), "list": size * [None], "map": {str(i): True for i in range(size)}}
    assert read(packed(values)) == values
    assert read(packed({"bytes": size * b"\x07"}))["bytes"] == size * b"\x07"


def test_numbers_of_every_kind(read):
    for kind, code in zip("BHIQbhiq", range(0xCC, 0xD4), strict=True):
        limits = np.iinfo(kind)
        for number in (int(limits.min), int(limits.max)):
            assert read(b"\x81\xa1x" + struct.pack(f">B{kind}", code, number)) == {"x": number}
    assert read(b"\x83\xa1a\x7f\xa1b\xe0\xa1c\xff") == {"a": 127, "b": -32, "c": -1}
    assert read(b"\x82\xa1a" + struct.pack(">Bf", 0xCA, 0.5) + b"\xa1b" + struct.pack(">Bd", 0xCB, 0.1)) == {
        "a": 0.5,
        "b": 0.1,
    }


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int32", "uint64", "float16", "float32", "float64", "complex64", "complex128"]
)
def test_arrays(read, dtype):
    array = (np.arange(600) % 7).reshape(2, 3, 100).astype(dtype)
    tree = {"a": array, "empty": array[:0], "zero": array[0, 0, 1].reshape(()), "scalar": array[0, 0, 2], "c": 1 + 2j}
    found = read(packed(tree))
    for name in tree:
        np.testing.assert_array_equal(found[name], tree[name], strict=name != "c")
    assert isinstance(found["scalar"], np.generic)


@pytest.mark.parametrize(
    ("code", "content", "value"),
    [
        (0xD6, b"\x02\x92\x01\xcc\x05", 1 + 5j),
        (0xD7, b"\x02\x92\xca\x3f\xc0\0\0\xcc\x05", 1.5 + 5j),
        (0xD8, b"\x03\x93\x90\xa7float32\xc4\x04\0\0\xc0\x3f", 1.5),
        (0xD8, b"\x01\x93\x91\x06\xa4int8\xc4\x06\1\2\3\4\5\6", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_extensions_of_four_eight_and_sixteen_bytes(read, code, content, value):
    np.testing.assert_array_equal(read(b"\x81\xa1x" + bytes([code]) + content)["x"], value)


def test_bfloat16_becomes_float32(read):
    exact = np.array([1.0, -2.5, 0.15625, np.inf], np.float32)
    half = (exact.view(np.uint32) >> 16).astype(np.uint16)
    found = read(packed({"x": 0})[:-9] + extension(1, packed(((4,), "bfloat16", half.tobytes()))))["x"]
    np.testing.assert_array_equal(found, exact, strict=True)


def test_arrays_in_pieces(read):
    array = np.arange(24, dtype=np.float32)
    pieces = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 4, "1": 6},
        "chunks": {"0": array[:10], "1": array[10:20], "2": array[20:]},
    }
    np.testing.assert_array_equal(read(packed({"w": pieces}))["w"], array.reshape(4, 6), strict=True)


def test_parameters_are_the_averaged_ones(tmp_path, rejected):
    file = tmp_path / "checkpoint_1"
    trees = {name: {"Conv_0": {"kernel": np.full(2, value)}} for name, value in [("params", 0.0), ("params_ema", 1.0)]}
    file.write_bytes(packed({"step": np.int32(7), **trees}))
    assert {path: leaf.tolist() for path, leaf in read_parameters(file).items()} == {"Conv_0/kernel": [1, 1]}
    assert read_parameters(file, "params")["Conv_0/kernel"].tolist() == [0, 0]
    with rejected("has no parameters called params_teacher: it holds step, params, params_ema"):
        read_parameters(file, "params_teacher")
    file.write_bytes(packed({"params_ema": {"Conv_0": {"kernel": None}}}))
    with rejected("must hold arrays only; Conv_0/kernel is none"):
        read_parameters(file)
    assert flatten({"a": {"b": 1, "c": {}}, "d": 2}) == {"a/b": 1, "d": 2}


WHOLE = packed({"params_ema": {"Conv_0": {"bias": np.zeros(3, np.float32)}}, "step": 3})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "ends after 0 bytes"),
        (WHOLE[:-1], "ends after .* bytes, within a value"),
        (WHOLE + b"\x00", "1 bytes follow its end"),
        (b"PK\x03\x04", "does not start with a map of names"),
        (b"\x81\xa1x\xc1", "byte 3, 0xc1, starts no value"),
        (b"\x81\x01\x02", "a name in it is 1, which is no text"),
        (b"\x81\xa1x\xd4\x05\x00", "flax has no extension of type 5"),
        (b"\x81\xa1x" + extension(1, packed(((1,), "object", b"12345678"))), "dtype object"),
        (b"\x81\xa1x" + extension(1, packed(((3,), "float32", b"1234"))), "reshape"),
        (packed({"__msgpack_chunked_array__": True}), "an array in pieces lacks"),
        (100_000 * b"\x91" + b"\x00", "recursion"),
        (b"\x81\xa1x\xdf\xff\xff\xff\xff", "within a value"),
        (b"\x81\xa2\xff\xff\x00", "utf-8"),
    ],
)
def test_other_files_are_refused(read, content, sentence, rejected):
    with rejected(f"checkpoint_1 is not a whole flax checkpoint.*{sentence}"):
        read(content)


def test_a_missing_file_is_named(tmp_path, rejected):
    with rejected("cannot read .*nothing"):
        read_flax(tmp_path / "nothing")


def test_no_damage_raises_anything_else(read, rejected):
    for size in range(len(WHOLE)):
        with rejected("within a value"):
            read(WHOLE[:size])
    draw = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(WHOLE)
        damaged[draw.randrange(len(WHOLE))] = draw.randrange(256)
        try:
            read(bytes(damaged))
        except InputError:
            refused += 1
    assert 150 < refused < 400
