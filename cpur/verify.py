"""Re-certifies images of committed records and compares the counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cpur.config import recorded
from cpur.engine import certify_images, prepare
from cpur.errors import InputError
from cpur.paths import shown
from cpur.records import LEVEL, LOOKS, load_record


def tolerance(n: int) -> float:
    """How far a count may move between machines: their float32 kernels round differently."""
    return max(2, n / 1000)


def recertify(file: Path, images: int = 5) -> Iterator[tuple[int, int]]:
    """Certifies the first images of a record again; yields each index and the largest move of a count.

    Raises:
        InputError: the record's models are not those of this checkout, or a count moved too far.
    """
    header, frame = load_record(file)
    job = prepare(recorded(header["config"]))
    changed = [key for key, value in job.identity.items() if header["identity"].get(key) != value]
    if changed:
        raise InputError(f"{shown(file)} was made with another {', '.join(changed)}: make it again")
    frame = frame.head(images)
    again = sorted(certify_images(job, frame["index"].tolist()), key=lambda line: line["index"])
    for line, new in zip(frame.to_dict("records"), again, strict=True):
        # Where a count moved, sampling may go on elsewhere: the looks that both took are compared.
        ours, theirs = _looks(line), _looks(new)
        moved = max((int(np.abs(np.subtract(ours[at], theirs[at])).max()) for at in ours.keys() & theirs), default=0)
        if moved > tolerance(line["n"]):
            raise InputError(
                f"{shown(file)}: a count of image {line['index']} moved by {moved}; expected "
                f"{tolerance(line['n']):g} at most"
            )
        yield line["index"], moved


def _looks(line: dict[str, Any]) -> dict[tuple[int, int], list[int]]:
    """The counts of a line by level and look."""
    looks = line.get(LOOKS, [line["counts"]])
    levels = looks if LEVEL in line else [looks]
    return {(k, i): counts for k, taken in enumerate(levels) for i, counts in enumerate(taken)}
