"""Paired differences with intervals, and the verdict on a claim."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from cpur.errors import InputError

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A difference with its 95% interval."""

    estimate: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether a claim that the difference is positive held."""
        return "held" if self.low > 0 else "did not hold" if self.high < 0 else "undecided"

    def __format__(self, spec: str) -> str:
        return "{:+{spec}} [{:+{spec}}, {:+{spec}}]".format(self.estimate, self.low, self.high, spec=spec or ".2f")

    def __str__(self) -> str:
        return format(self)

    def __neg__(self) -> "Difference":
        return Difference(-self.estimate, -self.high, -self.low)


def certified_shares(radii: Float[np.ndarray, "seeds sigmas images"], epsilons: Sequence[float]) -> np.ndarray:
    """Certified accuracy in percent of each seed at each epsilon, best over sigma: shape ``seeds epsilons``.

    Args:
        radii: certified radius of each image, negative where the prediction is wrong or abstains.
        epsilons: radii of interest.
    """
    return _certified(radii, epsilons).mean(-1).max(1)


def _certified(radii: np.ndarray, epsilons: Sequence[float]) -> np.ndarray:
    """100 where an image is certified at an epsilon, else 0: ``seeds sigmas epsilons images``."""
    return 100.0 * (radii[:, :, None, :] >= np.asarray(epsilons)[:, None])


def accuracy_difference(
    ours: Float[np.ndarray, "seeds sigmas images"],
    theirs: Float[np.ndarray, "_ _ _"],
    epsilons: Sequence[float],
    rng_seed: int = 0,
) -> Difference:
    """Difference in certified accuracy (percentage points), averaged over epsilons and training seeds.

    The best sigma at each epsilon is taken, for each side: :func:`best_difference` of the certified images.

    Guarantee: that of :func:`best_difference`.

    Args:
        ours: radii as in :func:`certified_shares`, of one method.
        theirs: the same seeds, noise levels and images with the other.
        epsilons: radii of interest.
        rng_seed: seed of the bootstrap.

    Raises:
        InputError: shapes that do not pair.
    """
    if ours.shape != theirs.shape:
        raise InputError(
            f"a paired difference needs the same seeds, sigmas and images; got {ours.shape}, {theirs.shape}"
        )
    return best_difference(_certified(ours, epsilons), _certified(theirs, epsilons), rng_seed)


def best_difference(
    ours: Float[np.ndarray, "seeds sigmas measures images"],
    theirs: Float[np.ndarray, "_ _ _ _"],
    rng_seed: int = 0,
) -> Difference:
    r"""Difference of means over images, the largest over sigma for each measure, averaged over measures and seeds.

    The interval is the central 95% of a bootstrap over training seeds and images, both drawn in pairs; the best
    sigma for each measure is chosen anew in every resample, for each side.

    Guarantee: asymptotic in the number of images; with few training seeds the interval is rather too short, and with
    one it speaks of the images only.

    Args:
        ours: measures of each image by one method.
        theirs: those by the other, of the same seeds and images; its noise levels may be others.
        rng_seed: seed of the bootstrap.

    Raises:
        InputError: shapes that do not pair.
    """
    seeds, _, measures, images = ours.shape
    if (theirs.shape[0], *theirs.shape[2:]) != (seeds, measures, images):
        raise InputError(
            f"a paired difference needs the same seeds, measures and images; got {ours.shape}, {theirs.shape}"
        )
    rng = np.random.default_rng(rng_seed)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).T / images
    by_seed = np.mean((ours @ weights).max(1) - (theirs @ weights).max(1), axis=1).T
    drawn = rng.integers(seeds, size=(RESAMPLES, seeds))
    low, high = np.quantile(np.take_along_axis(by_seed, drawn, axis=1).mean(axis=1), (0.025, 0.975))
    estimate = (ours.mean(-1).max(1) - theirs.mean(-1).max(1)).mean()
    return Difference(float(estimate), float(low), float(high))


def seed_difference(
    ours: Float[np.ndarray, "seeds noises"], theirs: Float[np.ndarray, "_ _"], rng_seed: int = 0
) -> Difference:
    """Mean difference of a measure over training seeds and noise seeds, bootstrapped over both, in pairs.

    Guarantee: with few seeds the interval is rather too short.
    """
    if ours.shape != theirs.shape:
        raise InputError(f"a paired difference needs the same seeds on both sides; got {ours.shape}, {theirs.shape}")
    gap = ours - theirs
    rng = np.random.default_rng(rng_seed)
    rows = rng.integers(gap.shape[0], size=(RESAMPLES, gap.shape[0], 1))
    columns = rng.integers(gap.shape[1], size=(RESAMPLES, 1, gap.shape[1]))
    low, high = np.quantile(gap[rows, columns].mean(axis=(1, 2)), (0.025, 0.975))
    return Difference(float(gap.mean()), float(low), float(high))


def difference_table(
    ours: Float[np.ndarray, "seeds sigmas images"],
    theirs: Float[np.ndarray, "seeds sigmas images"],
    sigmas: Sequence[float],
    epsilons: Sequence[float],
) -> pd.DataFrame:
    """Paired differences as text: a row each noise level and the best one, a column each epsilon and their mean."""
    columns = {f"eps {epsilon:g}": [epsilon] for epsilon in epsilons} | {"mean over eps": list(epsilons)}
    rows = {f"sigma {sigma:g}": [k] for k, sigma in enumerate(sigmas)} | {"best sigma": list(range(len(sigmas)))}
    cells = {
        name: [str(accuracy_difference(ours[:, row], theirs[:, row], wanted)) for row in rows.values()]
        for name, wanted in columns.items()
    }
    return pd.DataFrame(cells, index=list(rows))
