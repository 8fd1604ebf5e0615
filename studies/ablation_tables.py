"""The tables of the ablations, from their records, over training seeds.

``<folder>/<variant>/<training seed>/`` holds a record a noise level and classifier, and ``measures.json``;
``python -m studies.ablation`` makes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from cpur.checkpoints import read_json
from cpur.compare import signed_radii
from cpur.errors import InputError
from cpur.paired import accuracy_difference, certified_shares, seed_difference
from cpur.paths import anchored, shown
from cpur.records import load_record, record_files

EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLASSIFIER = "digits-cnn"

Named = Mapping[str, tuple[str, str]]  # a row's name: variant and classifier


@dataclass(frozen=True)
class Ablation:
    """The records below a folder.

    Raises:
        InputError: a variant has no complete set of records.
    """

    folder: Path
    made_by: ClassVar[str] = "python -m studies.ablation"

    def seeds(self, variant: str) -> list[int]:
        """Training seeds of a variant, of those that are complete."""
        folders = sorted((anchored(self.folder) / variant).glob("*/"), key=lambda folder: int(folder.name))
        found = [int(folder.name) for folder in folders if record_files(folder)]
        if not found:
            raise InputError(
                f"there is no record of {variant} in {shown(anchored(self.folder))}: make them with `{self.made_by}`"
            )
        return found

    def common_seeds(self, variants: Sequence[str]) -> list[int]:
        """Training seeds that all these variants have."""
        return sorted(set.intersection(*(set(self.seeds(variant)) for variant in variants)))

    def radii(
        self, variant: str, seeds: Sequence[int], classifier: str = CLASSIFIER
    ) -> Float[np.ndarray, "seeds sigmas images"]:
        """Certified radii, -1 where the prediction is wrong or abstains; noise levels in ascending order."""
        return np.stack([_radii(anchored(self.folder) / variant / str(seed), classifier) for seed in seeds])

    def measures(self, variant: str, column: str, seeds: Sequence[int], sigmas: Sequence[float] = ()) -> np.ndarray:
        """A measure by training seed and noise seed, averaged over the noise levels asked for (none: all)."""
        rows = []
        for seed in seeds:
            frame = pd.DataFrame(read_json(anchored(self.folder) / variant / str(seed) / "measures.json")["rows"])
            kept = frame[frame.sigma.isin(sigmas)] if sigmas else frame
            rows.append(kept.groupby("seed")[column].mean().to_numpy())
        return np.stack(rows)


@cache
def _radii(folder: Path, classifier: str) -> np.ndarray:
    records = [load_record(file) for file in record_files(folder)]
    chosen = [(h["config"]["sigma"], frame) for h, frame in records if h["config"]["classifier"] == classifier]
    if not chosen:
        raise InputError(f"{shown(folder)} has no record with the classifier {classifier}")
    return np.stack([signed_radii(frame) for _, frame in sorted(chosen, key=lambda pair: pair[0])])


def accuracy_table(ablation: Ablation, rows: Named, baseline: str) -> pd.DataFrame:
    """Certified accuracy in percent, best over sigma, mean over training seeds; the difference from the first row.

    Rows are compared on the images that all of them have. The last column is the paired difference from ``baseline``,
    averaged over epsilons, with its 95% interval.
    """
    seeds = ablation.common_seeds([variant for variant, _ in rows.values()])
    radii = {name: ablation.radii(variant, seeds, classifier) for name, (variant, classifier) in rows.items()}
    images = min(found.shape[2] for found in radii.values())
    radii = {name: found[..., :images] for name, found in radii.items()}
    table = {}
    for name, found in radii.items():
        shares = certified_shares(found, EPSILONS)
        cells = {f"eps {e:g}": f"{mean:.1f}" for e, mean in zip(EPSILONS, shares.mean(0), strict=True)}
        difference = "" if name == baseline else str(accuracy_difference(found, radii[baseline], EPSILONS))
        table[name] = cells | {"mean": f"{shares.mean():.2f}", f"minus {baseline}": difference}
    frame = pd.DataFrame(table).T
    frame.attrs["caption"] = f"training seeds: {len(seeds)}, test images: {images}"
    return frame


def measure_table(
    ablation: Ablation, variants: Sequence[str], column: str, baseline: str, sigmas: Sequence[float] = (0.25, 0.5, 1.0)
) -> pd.DataFrame:
    """A measure at each noise level, mean over training and noise seeds, and the difference from a variant."""
    seeds = ablation.common_seeds(variants)
    table = {}
    for name in variants:
        by_sigma = {f"sigma {s:g}": f"{ablation.measures(name, column, seeds, [s]).mean():.3f}" for s in sigmas}
        ours, theirs = (ablation.measures(variant, column, seeds) for variant in (name, baseline))
        table[name] = by_sigma | {f"minus {baseline}": "" if name == baseline else str(seed_difference(ours, theirs))}
    return pd.DataFrame(table).T
