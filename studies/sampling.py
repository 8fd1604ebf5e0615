"""Samplers of more and more steps on the digits: choices on validation images, certificates, transport.

``records/sampling`` holds a record a sampler and noise level, ``choices.csv`` what was tried on validation images, and
``transport.csv`` what each sampler moves. ``python -m studies.sampling`` makes what is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from cpur import load_classifier, load_purifier, paths
from cpur.classifiers import BaseClassifier
from cpur.config import CertifyConfig
from cpur.data import load_dataset
from cpur.engine import record_file
from cpur.errors import InputError
from cpur.measures import purified_images
from cpur.purifiers import Purifier
from cpur.records import PACKED, load_record, standing
from cpur.sampling import Draw, Sampler, Task, once
from cpur.transport import displacement
from studies.ablation import pack
from studies.records import TUNED
from studies.samplers import Spec

SIGMAS = (0.5, 0.25)  # certified, in the order of sampling
MEASURED = (0.25, 0.5, 1.0)  # whose transport is measured
NOISE_SEEDS = (0, 1, 2)  # of the transport
STEPS = {"heun": (2, 3, 5, 8), "euler": (2, 3, 5, 9), "consistency": (2, 3), "features": (2,)}
SIGMA_MINS = (0.001, 0.01, 0.05)  # tried for the last level of the ODE before 0; EDM's own is the first
MARGIN = 0.001  # of the share of right votes: less than that is no reason to leave the first value
RATIOS = (0.1, 0.25, 0.5)  # tried for the noise that multi-step consistency sampling adds, over that before
VALUES = {"heun": SIGMA_MINS, "euler": SIGMA_MINS, "consistency": RATIOS, "features": RATIOS}
TITLES = {
    "onestep-edm": "one-step EDM",
    "heun": "PF-ODE, Heun",
    "euler": "PF-ODE, Euler",
    "consistency": "consistency model",
    "features": "consistency model, fine-tuned",
}
CHOICES, TRANSPORT = "choices.csv", "transport.csv"
RECORDS = "records/sampling"
# The purifiers of the other pages: those of one network call, and Heun's method on EDM's own grid.
ONE_CALL = {
    "onestep-edm": {"purifier": "onestep-edm"},
    "consistency": {"purifier": "consistency"},
    "features": {"purifier": "consistency", "checkpoint": TUNED},
}
PF_ODE = ("heun", 8, SIGMA_MINS[0])


@dataclass(frozen=True)
class Row:
    """A sampler at a noise level."""

    family: str
    steps: int
    sigma: float
    value: float | None = None  # of its schedule; None where one step has none

    @property
    def purifier(self) -> Purifier:
        """The sampler, loaded."""
        if self.value is None:
            given = ONE_CALL[self.family]
            return load_purifier(given["purifier"], given.get("checkpoint"))
        return Spec(self.family, self.steps, self.value).purifier()

    @property
    def calls(self) -> int:
        """Network calls a sample."""
        return 2 * self.steps - 1 if self.family == "heun" else self.steps

    @property
    def title(self) -> str:
        """Its name in tables."""
        return TITLES[self.family] + (f", {self.steps} steps" if self.value is not None else "")

    @property
    def named(self) -> str:
        """Its name in sentences."""
        name = {"heun": "Heun", "euler": "Euler", "features": "the fine-tuned consistency model"}.get(self.family)
        name = name or ("the " if self.family == "consistency" else "") + TITLES[self.family]
        return f"{name} with {self.steps} steps" if self.value is not None else name

    @property
    def subject(self) -> dict[str, str]:
        """The part of its configuration that names it."""
        if self.value is None:
            return ONE_CALL[self.family]
        if (self.family, self.steps, self.value) == PF_ODE:
            return {"purifier": "pf-ode"}
        text = f"{Spec(self.family, self.steps, self.value)}@{self.sigma:g}"
        return {"purifier": "none", "classifier": "studies.samplers:sampled", "classifier_checkpoint": text}


@dataclass(frozen=True)
class Study:
    """Makes and reads the records of the samplers.

    Args:
        records: where the records are put.
        work: where unfinished records are put.
        sigmas: noise levels to certify.
        n: noise samples of a certificate.
        num_images: test images, from the first.
        votes: noisy copies of each validation image, for the choices.
    """

    records: str = RECORDS
    work: str = "runs/sampling"
    sigmas: tuple[float, ...] = SIGMAS
    n: int = 1000
    num_images: int = 100
    votes: int = 20

    @property
    def folder(self) -> Path:
        """Where the records are put."""
        return paths.anchored(self.records)

    def rows(self, sigma: float) -> list[Row]:
        """The samplers at a noise level, the cheap ones first; their schedules as chosen on validation images."""
        best = chosen(self.folder / CHOICES)
        several = [
            Row(family, steps, sigma, best[f"{family}-{steps}", sigma])
            for family, all_ in STEPS.items()
            for steps in all_
        ]
        return sorted([Row(name, 1, sigma) for name in ONE_CALL] + several, key=lambda row: row.calls)

    def config(self, row: Row) -> CertifyConfig:
        """How a row is certified."""
        shared = {"sigma": row.sigma, "n": self.n, "num_images": self.num_images, "records_dir": f"{self.work}/records"}
        return CertifyConfig(**row.subject, **shared)

    def file(self, row: Row) -> Path:
        """Where the record of a row stands: with those of the other pages, where it is one of them."""
        name = record_file(self.config(row)).name
        shared = standing(paths.root() / "records" / name)
        return shared if shared.is_file() else self.folder / f"{name}{PACKED}"

    def load(self, row: Row) -> tuple[dict, pd.DataFrame]:
        """The record of a row.

        Raises:
            InputError: it is missing.
        """
        if not (file := self.file(row)).is_file():
            raise InputError(f"{paths.shown(file)} is missing: `python -m studies.sampling` makes it")
        return load_record(file)

    def make_all(self) -> None:
        """Makes what is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / CHOICES).is_file():
            tried = pd.DataFrame(self.tries())
            tried.round(5).to_csv(self.folder / CHOICES, index=False)
        for row in (row for sigma in self.sigmas for row in self.rows(sigma)):
            if not self.file(row).is_file():
                pack(self.config(row), self.folder)
                print(row.title, row.sigma, flush=True)
        if not (self.folder / TRANSPORT).is_file():
            moved = pd.DataFrame(measure for sigma in MEASURED for measure in transports(self.rows(sigma)))
            moved.round(5).to_csv(self.folder / TRANSPORT, index=False)

    def tries(self) -> Iterator[dict]:
        """Every value of every schedule: the share of votes for the right class, on validation images."""
        for sigma in MEASURED:
            for family, all_ in STEPS.items():
                for steps in all_:
                    for value in VALUES[family]:
                        share = right_votes(Spec(family, steps, value).purifier(), sigma, self.votes)
                        yield {"sampler": f"{family}-{steps}", "value": value, "sigma": sigma, "right": share}


@cache
def chosen(file: Path) -> dict[tuple[str, float], float]:
    """The value of each sampler's schedule at each noise level with the largest share of right votes.

    The first value is kept where the best one gains less than ``MARGIN``.
    """
    found = {}
    for key, tried in pd.read_csv(file).groupby(["sampler", "sigma"], sort=False):
        best = tried.loc[tried.right.idxmax()]
        found[key] = float((best if best.right - tried.right.iloc[0] >= MARGIN else tried.iloc[0]).value)
    return found


def right_votes(purifier: Purifier, sigma: float, votes: int) -> float:
    """The share of votes for the right class over noisy copies of the validation images."""
    data = load_dataset("digits", "val")
    base = BaseClassifier(purifier, load_classifier(), sigma).eval()
    tasks = (Task(i, data[i][0], once(Draw("choice", votes))) for i in range(len(data)))
    done = Sampler(base, data.num_classes, (sigma,), 0, 250).run(tasks)
    return float(np.mean([one.result[data[one.index][1]] / votes for one in done]))


def transports(rows: Sequence[Row], seeds: Sequence[int] = NOISE_SEEDS) -> Iterator[dict]:
    """How far each sampler moves the test images, beside the first row; standard errors are over images.

    ``T`` is the mean distance of an image and its purification, ``right`` the share that is classified right then,
    and ``T_more`` and ``right_more`` what is more of them than by the first row on the same noise.
    """
    data, classifier = load_dataset("digits"), load_classifier()
    reference = None
    for row in rows:
        moved, right = [], []
        for seed in seeds:
            images = purified_images(row.purifier, data, row.sigma, seed)
            moved.append(displacement(data.images, images).numpy())
            with torch.inference_mode():
                right.append((classifier(images).argmax(1) == data.labels).double().numpy())
        values = {"T": np.mean(moved, 0), "right": 100 * np.mean(right, 0)}
        reference = reference or dict(values)
        values |= {f"{name}_more": values[name] - reference[name] for name in reference}
        line = {"sampler": row.family, "steps": row.steps, "sigma": row.sigma, "calls": row.calls, "images": len(data)}
        for name, per_image in values.items():
            line |= {name: per_image.mean(), f"{name}_error": per_image.std(ddof=1) / len(data) ** 0.5}
        yield line


def main(records: str = RECORDS, work: str = "runs/sampling") -> None:
    """Chooses, certifies and measures what is missing: half an hour on one core.

    Args:
        records: where the records are put.
        work: where unfinished records are put.
    """
    Study(records, work).make_all()


if __name__ == "__main__":
    tyro.cli(main)
