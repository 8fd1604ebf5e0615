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

    def __str__(self) -> str:
        return f"{self.estimate:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    def __neg__(self) -> "Difference":
        return Difference(-self.estimate, -self.high, -self.low)


def certified_shares(radii: Float[np.ndarray, "seeds sigmas images"], epsilons: Sequence[float]) -> np.ndarray:
    """Certified accuracy in percent of each seed at each epsilon, best over sigma: shape ``seeds epsilons``.

    Args:
        radii: certified radius of each image, negative where the prediction is wrong or abstains.
        epsilons: radii of interest.
    """
    return _best_shares(radii, epsilons, np.full((1, radii.shape[2]), 1 / radii.shape[2]))[0]


def _best_shares(radii: np.ndarray, epsilons: Sequence[float], weights: np.ndarray) -> np.ndarray:
    """The same for several weightings ``resamples images`` of the images: ``resamples seeds epsilons``."""
    certified = radii[:, :, None, :] >= np.asarray(epsilons)[:, None]
    return 100 * np.moveaxis(certified @ weights.T, -1, 0).max(axis=2)


def accuracy_difference(
    ours: Float[np.ndarray, "seeds sigmas images"],
    theirs: Float[np.ndarray, "_ _ _"],
    epsilons: Sequence[float],
    rng_seed: int = 0,
) -> Difference:
    r"""Difference in certified accuracy (percentage points), averaged over epsilons and training seeds.

    The interval is the central 95% of a bootstrap over training seeds and images, both drawn in pairs; the best
    sigma at each epsilon is chosen anew in every resample, for each side.

    Guarantee: asymptotic in the number of images; with few training seeds the interval is rather too short, and with
    one it speaks of the images only.

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
    seeds, _, images = ours.shape
    rng = np.random.default_rng(rng_seed)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES) / images
    by_seed = (_best_shares(ours, epsilons, weights) - _best_shares(theirs, epsilons, weights)).mean(axis=2)
    drawn = rng.integers(seeds, size=(RESAMPLES, seeds))
    low, high = np.quantile(np.take_along_axis(by_seed, drawn, axis=1).mean(axis=1), (0.025, 0.975))
    estimate = (certified_shares(ours, epsilons) - certified_shares(theirs, epsilons)).mean()
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
