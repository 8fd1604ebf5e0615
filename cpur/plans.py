r"""Sampling plans: when the counts are looked at, and how alpha is spent on the looks.

A plan is fixed before sampling. At look i, after :math:`n_i` samples in total, the bound
:math:`\underline{p}_i` is Clopper and Pearson's at :math:`\alpha_i`, and the certificate uses the largest one so
far. Since :math:`P(\exists i: \underline{p}_i > p) \le \sum_i \alpha_i = \alpha`, it holds for all radii at
once, wherever sampling stops.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cpur.bounds import certified_radius, upper_confidence_bound

FRACTIONS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)  # of n, at which `sequential` looks
WEIGHTS = (0.005, 0.005, 0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.9)  # of alpha: nearly all is kept for the end
FUTILITY = 0.01  # error of the bound that gives an image up; it costs power only, never soundness


@dataclass(frozen=True)
class Plan:
    """Samples that select the class, and the looks at fresh ones with the alpha that each may spend."""

    n0: int
    looks: tuple[int, ...]  # estimation samples in total at each look, increasing
    alphas: tuple[float, ...]

    @property
    def n(self) -> int:
        """Estimation samples at most."""
        return self.looks[-1]

    def radius(self, hits: Sequence[int], sigma: float) -> float:
        r"""The radius certified by the hits at the looks taken so far, 0.0 where they certify none.

        .. math:: R = \max_i \sigma\, \Phi^{-1}(\underline{p}_i)

        Guarantee: false with probability at most :math:`\sum_i \alpha_i`, wherever sampling stops.
        """
        taken = len(hits)
        return float(np.max(certified_radius(hits, self.looks[:taken], self.alphas[:taken], sigma)))

    def ceiling(self, sigma: float) -> float:
        """The radius where every sample hits."""
        return self.radius(self.looks, sigma)


def fixed(n0: int, n: int, alpha: float) -> Plan:
    """Cohen's plan: n0 samples select, n fresh ones estimate, one look."""
    return Plan(n0, (n,), (alpha,))


def sequential(n0: int, n: int, alpha: float) -> Plan:
    """Nine looks at growing shares of n; where n is so small that two fall together, they are one.

    Nearly all of alpha is kept for the end: at n = 100,000 the last look asks for a few more hits than the fixed
    plan does, and an easy image stops long before it. Source: group-sequential tests, Pocock (1977).
    """
    spent: dict[int, float] = {}
    for fraction, weight in zip(FRACTIONS, WEIGHTS, strict=True):
        look = max(1, round(n * fraction))
        spent[look] = spent.get(look, 0.0) + alpha * weight
    return Plan(n0, tuple(spent), tuple(spent.values()))


PLANS = {"fixed": fixed, "sequential": sequential}


def minimum_hits(n: int, alpha: float, sigma: float, epsilon: float) -> int:
    """The fewest of n hits that certify the radius epsilon, n + 1 where none do.

    A radius of 0 asks for a prediction, a lower bound above one half.
    """

    def certifies(hits: int) -> bool:
        radius = certified_radius(hits, n, alpha, sigma)
        return bool(radius >= epsilon and radius > 0)

    return bisect_left(range(n + 1), True, key=certifies)


class StoppingRule:
    """Stops a plan when every radius of interest is decided: certified, or out of reach.

    A radius is out of reach where the upper bound of p at error :data:`FUTILITY` is below what it needs, or where
    not even hits alone from now on could certify it. Giving up early loses power, never truth.

    Args:
        plan: the plan.
        sigma: standard deviation of the noise.
        epsilons: the radii of interest; with none, sampling goes on to the last look.
    """

    def __init__(self, plan: Plan, sigma: float, epsilons: Sequence[float]) -> None:
        self.sigma = sigma
        self.epsilons = tuple(epsilons)
        shape = (len(plan.looks), len(self.epsilons))
        # By look and epsilon: from how many hits it is certified, and up to how many it is out of reach.
        self.certified = np.array(
            [
                [minimum_hits(n, alpha, sigma, epsilon) for epsilon in self.epsilons]
                for n, alpha in zip(plan.looks, plan.alphas, strict=True)
            ],
            dtype=np.int64,
        ).reshape(shape)
        self.futile = np.array(
            [[self._futile(plan, i, e) for e in range(shape[1])] for i in range(shape[0])], dtype=np.int64
        ).reshape(shape)

    def _futile(self, plan: Plan, look: int, e: int) -> int:
        n, later = plan.looks[look], range(look + 1, len(plan.looks))
        needed = stats.norm.cdf(self.epsilons[e] / self.sigma)
        unlikely = bisect_left(range(n + 1), needed, key=lambda hits: upper_confidence_bound(hits, n, FUTILITY)) - 1
        return max([unlikely, min((self.certified[j, e] - 1 - (plan.looks[j] - n) for j in later), default=n)])

    def decided(self, hits: np.ndarray) -> np.ndarray:
        """Whether each look leaves every epsilon decided, for hits of shape ``... looks``; the last always does."""
        taken = hits.shape[-1]
        reached = np.maximum.accumulate(hits[..., None] >= self.certified[:taken], axis=-2)
        given_up = np.maximum.accumulate(hits[..., None] <= self.futile[:taken], axis=-2)
        return (reached | given_up).all(axis=-1)

    def stops(self, hits: Sequence[int]) -> bool:
        """Whether sampling ends after these looks."""
        return bool(self.epsilons) and bool(self.decided(np.asarray(hits))[-1])
