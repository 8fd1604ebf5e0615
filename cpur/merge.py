"""Joins the parts of a record that several processes wrote."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpur.errors import InputError
from cpur.paths import shown
from cpur.records import COLUMNS, LOOKS, encoded, read_lines, record_name


def parts_folder(record: Path) -> Path:
    """Where the parts of a record lie: a folder beside it."""
    return record.with_suffix(".parts")


def parts(record: Path) -> list[Path]:
    """The parts of a record that there are."""
    return sorted(parts_folder(record).glob("*.jsonl"))


@dataclass(frozen=True)
class Merged:
    """A joined record: its file, the images it holds and those it lacks."""

    file: Path
    images: int
    missing: list[int]


def merge(files: Iterable[Path], out: Path | None = None) -> Merged:
    """Joins records of one configuration into one, sorted by index; the files themselves are left alone.

    Args:
        files: records or parts; one without a whole header is passed over.
        out: file to write, replaced whole; None takes the record's own name in the folder of the first file, or in
            the folder above where that is a part.

    Raises:
        InputError: no record among the files, records of different configurations, or an image that two of them
            hold with different counts.
    """
    files = list(files)
    header, lines, source = None, {}, {}
    for file in files:
        first, rows = read_lines(file)
        if first is None:
            continue
        header = header or first
        if first["identity"] != header["identity"]:
            raise InputError(f"{shown(file)} and {shown(files[0])} are records of different configurations")
        for row in rows:
            index = row["index"]
            if index in lines and _counted(row) != _counted(lines[index]):
                raise InputError(
                    f"image {index} has different counts in {shown(source[index])} and {shown(file)}: they were made "
                    "on unlike hardware or versions; merge without one of them"
                )
            lines.setdefault(index, row)
            source.setdefault(index, file)
    if header is None:
        raise InputError(f"there is no record among {', '.join(map(shown, files)) or 'no files'}")
    folder = files[0].parent
    out = out or (folder.parent if folder.suffix == ".parts" else folder) / record_name(header["identity"])
    partial = out.with_suffix(".partial")
    try:
        partial.write_bytes(b"".join(encoded(line) for line in [header, *(lines[index] for index in sorted(lines))]))
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write the record {shown(out)}: {error.strerror}") from error
    return Merged(out, len(lines), [i for i in range(header["identity"]["num_images"]) if i not in lines])


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in (*COLUMNS, LOOKS) if key != "seconds"}
