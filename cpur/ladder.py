r"""Which number of samples and which alpha explain the radii of a log.

With n samples and error probability alpha, only the radii :math:`\sigma\, \Phi^{-1}(\underline{p}(k; n, \alpha))` can
be certified, one for each number of hits k: a ladder. A printed radius is on it where one of its rungs rounds to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from cpur.bounds import certified_radius

SAMPLES = (100, 1000, 10_000, 100_000)  # numbers of samples that are tried
ALPHAS = (0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)
SIGMAS = (0.12, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # noise levels that are tried where nothing names one


@cache
def rungs(n: int, alpha: float) -> np.ndarray:
    """The radii that can be certified at sigma 1, in ascending order; the last is the ceiling, of n hits."""
    radii = certified_radius(np.arange(n // 2, n + 1), n, alpha, 1.0)
    return radii[radii > 0]


def ceiling(n: int, alpha: float, sigma: float) -> float:
    r"""The largest radius, :math:`\sigma\, \Phi^{-1}(\alpha^{1/n})`; 0 where n samples certify nothing."""
    return float(certified_radius(n, n, alpha, sigma))


@dataclass(frozen=True)
class Printed:
    """Positive radii as a log prints them, and how far each may have been rounded.

    A file prints a number of significant digits (``{:.3}``) or of decimals (``{:.4f}``): the largest numbers of both
    that occur bound what a cell can tell.
    """

    values: np.ndarray
    unit: np.ndarray  # of the last digit

    @classmethod
    def of(cls, cells: Sequence[str]) -> "Printed":
        """Reads the cells of a column of radii, and leaves out those that are 0."""
        cells = [cell for cell in cells if float(cell) > 0]
        if not cells:
            return cls(np.zeros(0), np.zeros(0))
        values = np.array([float(cell) for cell in cells])
        parts = [_digits(cell) for cell in cells]
        significant, decimals = (max(part[i] for part in parts) for i in (0, 1))
        unit = 10.0 ** (np.floor(np.log10(values)) - significant + 1)
        return cls(values, np.maximum(unit, 10.0**-decimals))

    def explained(self, n: int, alpha: float, sigma: float) -> np.ndarray:
        """Whether each radius is on the ladder."""
        first, last = self.rungs(n, alpha, sigma)
        return first <= last

    def rungs(self, n: int, alpha: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Index of the first and the last rung that rounds to each radius; where none does, first is above last."""
        # Other programs computed in float32, or ended a digit differently: a millionth is forgiven.
        slack = self.unit / 2 * (1 + 1e-6) + 1e-6 * self.values
        ladder = sigma * rungs(n, alpha)
        return np.searchsorted(ladder, self.values - slack), np.searchsorted(ladder, self.values + slack, "right") - 1


def _digits(cell: str) -> tuple[int, int]:
    """Significant digits and decimals of a printed number."""
    mantissa, _, exponent = cell.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("+-").partition(".")
    significant = len((whole + fraction).lstrip("0"))
    return max(significant, 1), max(len(fraction) - int(exponent or 0), 0)


@dataclass(frozen=True)
class Explanation:
    """What a pair of n and alpha explains."""

    n: int
    alpha: float
    share: float  # of the positive radii that are on its ladder


def explanations(
    printed: Printed, sigma: float, samples: Sequence[int] = SAMPLES, alphas: Sequence[float] = ALPHAS
) -> list[Explanation]:
    """The share of radii that each pair explains; 1 where there is no positive radius."""
    pairs = [(n, alpha) for n in samples for alpha in alphas]
    shares = [printed.explained(*pair, sigma).mean() if len(printed.values) else 1.0 for pair in pairs]
    return [Explanation(*pair, float(share)) for pair, share in zip(pairs, shares, strict=True)]


def likely_sigma(printed: Printed) -> float | None:
    """The noise level of the fewest samples, and of these the smallest, at which some alpha explains every radius."""
    for n in SAMPLES:
        for sigma in SIGMAS:
            if any(found.share == 1 for found in explanations(printed, sigma, (n,))):
                return sigma
    return None
