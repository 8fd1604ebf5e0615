"""The committed records behind the book, made where they are missing: ``python -m studies.records``."""

import time
from itertools import product

import tyro

from cpur.config import PURIFIERS, CertifyConfig, MultiscaleConfig
from cpur.engine import certify_dataset
from cpur.progress import certification_bar
from cpur.records import PACKED, pack

SIGMAS = (0.25, 0.5, 1.0)
TUNED = "models/digits-consistency-features"
CALIBRATED = "models/digits-ddpm-calibrated"


def configurations(records_dir: str = "records") -> list[CertifyConfig | MultiscaleConfig]:
    """The records of the digits: all 500 test images at n = 10,000, and untuned purifiers at n = 1,000 on 100.

    The probability-flow ODE, at 15 network calls a sample, has the second kind only. One purifier has a cascade.
    """
    shared = {"num_images": 500, "records_dir": records_dir}
    large = [
        CertifyConfig(purifier=purifier, sigma=sigma, **shared)
        for sigma, purifier in product(SIGMAS, PURIFIERS)
        if purifier != "pf-ode"
    ]
    large += [
        CertifyConfig(purifier=purifier, checkpoint=checkpoint, sigma=sigma, **shared)
        for purifier, checkpoint in (("consistency", TUNED), ("onestep-ddpm", CALIBRATED))
        for sigma in SIGMAS
    ]
    small = [
        CertifyConfig(purifier=purifier, sigma=sigma, num_images=100, n=1000, records_dir=records_dir)
        for sigma, purifier in product(SIGMAS, PURIFIERS)
    ]
    tuned = {"purifier": "consistency", "checkpoint": TUNED, "n": 10_000, **shared}
    cascade = [
        MultiscaleConfig(**tuned),
        CertifyConfig(**tuned | {"records_dir": f"{records_dir}/cascade"}, sigma=0.12),
    ]
    return large + small + cascade


def main(records_dir: str = "records") -> None:
    """Makes the records that are missing or unfinished, one after the other.

    Args:
        records_dir: folder of records.
    """
    start = time.perf_counter()
    made = [certify_dataset(config, certification_bar).file for config in configurations(records_dir)]
    for file in made:
        if file.suffix != PACKED:
            pack(file, file.parent)
            file.unlink()
    print(f"{len(made)} records in {records_dir}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    tyro.cli(main)
