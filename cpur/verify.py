"""Re-certifies images of committed records and compares the counts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cpur.config import CertifyConfig
from cpur.engine import certify_images, prepare
from cpur.errors import InputError
from cpur.paths import shown
from cpur.records import LOOKS, load_record


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
    frame = frame.head(images)
    again = sorted(certify_images(job, frame["index"].tolist()), key=lambda line: line["index"])
    for line, new in zip(frame.to_dict("records"), again, strict=True):
        # Where a count moved, a sequential plan may stop at another look: those that both took are compared.
        looks = zip(line.get(LOOKS, [line["counts"]]), new.get(LOOKS, [new["counts"]]), strict=False)
        moved = max(int(np.abs(np.subtract(*counts)).max()) for counts in looks)
        if moved > tolerance(line["n"]):
            raise InputError(
                f"{shown(file)}: a count of image {line['index']} moved by {moved}; expected "
                f"{tolerance(line['n']):g} at most"
            )
        yield line["index"], moved
