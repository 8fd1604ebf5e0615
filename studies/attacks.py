"""Attacks 200 certified digits of every method of the book: ``python -m studies.attacks``.

The certificates are those of the committed records; the probability-flow ODE has one of its own for this, in
``records/attacks``. ``records/attacks.csv`` holds a row a method, with the hash of its records.
"""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from cpur import paths
from cpur.aces import CERTIFIED, combined, entropy_selector
from cpur.attack import Level, counts_at, failure_bound, pgd
from cpur.cascade import certify_counts
from cpur.classifiers import BaseClassifier, load_classifier
from cpur.config import CertifyConfig, recorded
from cpur.data import load_dataset
from cpur.engine import record_file
from cpur.noise import NoiseKey
from cpur.purifiers import load_purifier
from cpur.records import PACKED, load_record, standing
from cpur.smooth import ABSTAIN, majority
from studies.ablation import pack
from studies.baselines import Baselines
from studies.records import configurations

SIGMA = 0.5
CAREFUL = 200  # alpha over this is what PREDICT may err by at an attacked point
# At 15 network calls a sample: enough images that 200 are certified, and no more.
PF_ODE = CertifyConfig(purifier="pf-ode", sigma=SIGMA, n=1000, num_images=240, records_dir="runs/attacks/records")
PURPOSE = "attacked"  # of the noise: fresh keys


@dataclass(frozen=True)
class Subject:
    """A certified method: its levels, its certificates, and what it returns at a point.

    ``returns(x, index, n, alpha)`` is a class, or ABSTAIN where n samples do not tell it with error alpha.
    """

    name: str
    sigma: str
    levels: list[Level]
    certificates: pd.DataFrame  # index, prediction, radius
    returns: Callable[[torch.Tensor, int, int, float], int]


def _votes(levels: list[Level], x: torch.Tensor, index: int, n: int) -> np.ndarray:
    keys = [NoiseKey(0, PURPOSE, index, k) for k in range(len(levels))]
    return np.stack([counts_at(level, x, n, 10, key) for level, key in zip(levels, keys, strict=True)])


def smoothed(name: str, file: Path) -> Subject:
    """A method with one noise level, from its record."""
    header, frame = load_record(file)
    config = recorded(header["config"])
    levels = [Level(_base(config, config.sigma), config.sigma)]

    def returns(x: torch.Tensor, index: int, n: int, alpha: float) -> int:
        return majority(_votes(levels, x, index, n)[0], alpha)

    return Subject(name, f"{config.sigma:g}", levels, frame, returns)


def cascade(name: str, file: Path) -> Subject:
    """A cascade, from its record; at a point it returns what its counts certify there."""
    header, frame = load_record(file)
    config = recorded(header["config"])
    levels = [Level(_base(config, sigma), sigma) for sigma in config.sigmas]

    def returns(x: torch.Tensor, index: int, n: int, alpha: float) -> int:
        counts = _votes(levels, x, index, n)
        selected = _votes(levels, x, index + 10_000, 100).argmax(1)  # other keys: samples of their own
        return certify_counts(counts, config.sigmas, alpha, selected=selected, threshold=config.threshold).prediction

    return Subject(name, "-".join(f"{sigma:g}" for sigma in config.sigmas), levels, frame, returns)


def aces() -> Subject:
    """ACES: at a point, the class of the model that the selector takes."""
    ours, selection = Baselines().certifications("aces", SIGMA, None)
    core = load_classifier()
    images = load_dataset("digits").images[: ours.num_images]
    with torch.inference_mode():
        said = core(images).argmax(1).numpy()
    records = [load_record(file) for file in Baselines().files("aces", SIGMA)]
    levels = [Level(_base(ours, SIGMA), SIGMA)]
    selector = [Level(entropy_selector(selection.classifier_checkpoint).eval(), SIGMA)]

    def returns(x: torch.Tensor, index: int, n: int, alpha: float) -> int:
        taken = majority(_votes(selector, x, index, n)[0], alpha / 2)
        if taken == ABSTAIN:
            return ABSTAIN
        if taken == CERTIFIED:
            return majority(_votes(levels, x, index, n)[0], alpha / 2)
        return int(core(x[None].float()).argmax())

    return Subject("ACES", f"{SIGMA:g}", levels, combined(*records, said)[1], returns)


def _base(config, sigma: float) -> BaseClassifier:
    purifier = load_purifier(config.purifier, config.checkpoint)
    classifier = load_classifier(config.classifier, config.classifier_checkpoint)
    return BaseClassifier(purifier, classifier, sigma).eval().requires_grad_(False)


@dataclass(frozen=True)
class Target:
    """A method before anything of it is loaded: the records that hold its certificates, and how it is made."""

    records: list[Path]
    make: Callable[[], Subject]

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits of the SHA-256 of its records, unpacked."""
        digest = hashlib.sha256()
        for file in map(standing, self.records):
            digest.update(gzip.decompress(file.read_bytes()) if file.suffix == PACKED else file.read_bytes())
        return digest.hexdigest()[:8]


def targets() -> dict[str, Target]:
    """Every method of the book, at sigma 0.5 or over all levels, by name."""
    made = {}
    for config in configurations():
        name = Path(config.checkpoint).name if config.checkpoint else config.purifier
        if hasattr(config, "sigmas"):
            made[f"cascade of {name}"] = cascade, record_file(config)
        elif (config.sigma, config.n) == (SIGMA, 10_000):
            made[name] = smoothed, record_file(config)
    made[PF_ODE.purifier] = smoothed, pack(PF_ODE, paths.anchored("records/attacks"))
    for method, title in (("gaussian", "Randomized Smoothing"), ("consistency", "Consistency Regularization")):
        made[title] = smoothed, Baselines().files(method, SIGMA)[0]
    found = {name: Target([file], partial(make, name, file)) for name, (make, file) in made.items()}
    return found | {"ACES": Target(Baselines().files("aces", SIGMA), aces)}


def attacked(
    subject: Subject, images: int = 200, n: int = 1000, alpha: float = 0.001, steps: int = 20, copies: int = 16
) -> dict[str, object]:
    """Attacks the first images that are certified with a positive radius, and counts failures."""
    data = load_dataset("digits")
    frame = subject.certificates[subject.certificates.radius > 0].head(images)
    failures = abstentions = 0
    for rows in np.array_split(np.arange(len(frame)), max(1, len(frame) // 16)):
        part = frame.iloc[rows]
        chosen = part["index"].tolist()
        classes, radii = torch.tensor(part.prediction.tolist()), torch.tensor(part.radius.tolist())
        points = pgd(subject.levels, data.images[chosen], classes, radii, steps, copies, seed=chosen[0])
        for index, x, certified in zip(chosen, points, part.prediction, strict=True):
            found = subject.returns(x, index, n, alpha / CAREFUL)
            abstentions += found == ABSTAIN
            failures += found not in (ABSTAIN, certified)
    return {
        "method": subject.name,
        "sigma": subject.sigma,
        "images": len(frame),
        "failures": failures,
        "abstentions": abstentions,
        "rate at most": round(failure_bound(failures, len(frame)), 4),
        "mean radius": round(float(frame.radius.mean()), 3),
    }


def main(out: str = "records/attacks.csv", images: int = 200, n: int = 1000, steps: int = 20, copies: int = 16) -> None:
    """Attacks every method that the table lacks: half an hour on one core for all.

    A row is kept where it was made with the same parameters from the same records.

    Args:
        out: file for the table.
        images: certified digits of each method.
        n: samples of PREDICT at an attacked point.
        steps: of PGD.
        copies: noisy copies of an image a step.
    """
    file = paths.anchored(out)
    before = pd.read_csv(file, dtype={"record": str}).to_dict("records") if file.is_file() else []
    rows = []
    for name, target in targets().items():
        made = {"n": n, "steps": steps, "copies": copies, "record": target.hash}
        same = {"method": name, "images": images} | made
        known = [row for row in before if same.items() <= row.items()]
        rows.append(known[0] if known else attacked(target.make(), images, n, steps=steps, copies=copies) | made)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    table.to_csv(file, index=False)


if __name__ == "__main__":
    tyro.cli(main)
