"""The committed records behind the book: which configurations they are, and how they are made."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import torch

from cpur.config import PURIFIERS, CertifyConfig
from cpur.engine import certify_dataset

SIGMAS = (0.25, 0.5, 1.0)


def configurations(records_dir: str = "records") -> list[CertifyConfig]:
    """The records of the digits: all 500 test images at n = 10,000, and all purifiers at n = 1,000 on 100.

    The probability-flow ODE, at 15 network calls a sample, has the second kind only.
    """
    large = [
        CertifyConfig(purifier=purifier, sigma=sigma, num_images=500, records_dir=records_dir)
        for sigma, purifier in product(SIGMAS, PURIFIERS)
        if purifier != "pf-ode"
    ]
    small = [
        CertifyConfig(purifier=purifier, sigma=sigma, num_images=100, n=1000, records_dir=records_dir)
        for sigma, purifier in product(SIGMAS, PURIFIERS)
    ]
    return large + small


def make_records(records_dir: str = "records", workers: int = 2) -> list[Path]:
    """Makes the records that are missing or unfinished, each on one thread, ``workers`` at a time."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(_make, configurations(records_dir)))


def _make(config: CertifyConfig) -> Path:
    return certify_dataset(config).file
