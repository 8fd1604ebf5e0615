"""Re-certifies images of committed records and compares the counts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cpur.config import CertifyConfig
from cpur.engine import certify_image, prepare
from cpur.errors import InputError
from cpur.paths import shown
from cpur.records import load_record


def tolerance(n: int) -> float:
    """How far a count may move between machines: their float32 kernels round differently."""
    return max(2, n / 1000)


def recertify(file: Path, images: int = 5) -> Iterator[tuple[int, int]]:
    """Certifies the first images of a record again; yields each index and the largest move of a count.

    Raises:
        InputError: the record's models are not those of this checkout, or a count moved too far.
    """
    header, frame = load_record(file)
    config = CertifyConfig(**header["config"])
    job = prepare(config)
    changed = [key for key, value in job.identity.items() if header["identity"].get(key) != value]
    if changed:
        raise InputError(f"{shown(file)} was made with another {', '.join(changed)}: make it again")
    for line in frame.head(images).itertuples():
        again = certify_image(job, line.index)
        moved = int(np.abs(np.subtract(again["counts"], line.counts)).max())
        if moved > tolerance(line.n):
            raise InputError(
                f"{shown(file)}: a count of image {line.index} moved by {moved}; expected {tolerance(line.n):g} at most"
            )
        yield line.index, moved
