"""Records chosen by their headers, so that those of no interest need not be read and checked."""

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cpur.accuracy import Records
from cpur.errors import InputError
from cpur.paths import anchored, shown
from cpur.records import PACKED, load_record, record_files

Header = dict[str, Any]


def header_of(file: Path) -> Header:
    """The first line of a record."""
    with gzip.open(file) if file.suffix == PACKED else file.open("rb") as lines:
        return json.loads(lines.readline())


def find_files(folder: str | Path, keep: Callable[[Header], bool]) -> list[tuple[Header, Path]]:
    """The records in a folder whose header is to be kept, unread.

    Raises:
        InputError: there are none.
    """
    headers = [(header_of(file), file) for file in record_files(anchored(folder))]
    found = [(header, file) for header, file in headers if keep(header)]
    if not found:
        raise InputError(f"there is no such record in {shown(anchored(folder))}")
    return found


def find(folder: str | Path, keep: Callable[[Header], bool]) -> Records:
    """The complete records of single noise levels in a folder whose header is to be kept, by noise level.

    Raises:
        InputError: there are none.
    """
    found = find_files(folder, lambda header: "sigma" in header["config"] and keep(header))
    records = [_loaded(file) for _, file in found]
    whole = [(header, frame) for header, frame in records if len(frame) == header["identity"]["num_images"]]
    if not whole:
        raise InputError(f"there is no complete record of this kind in {shown(anchored(folder))}")
    return sorted(whole, key=lambda record: record[0]["config"]["sigma"])


@cache
def _loaded(file: Path):
    return load_record(file)


def like(**wanted: Any) -> Callable[[Header], bool]:
    """Headers whose configuration has these values; one that a configuration lacks counts as None."""
    return lambda header: all(header["config"].get(key) == value for key, value in wanted.items())
