r"""Exact confidence bounds of a probability from counts, and the radius they certify.

All are one-sided Clopper-Pearson bounds in float64 on the CPU: quantiles of the Beta distribution,
exact also where no sample or every sample hits.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cpur.errors import InputError


def _checked(hits: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    hits, n, alpha = np.broadcast_arrays(
        np.asarray(hits, np.float64), np.asarray(n, np.float64), np.asarray(alpha, np.float64)
    )
    if not (np.all(n >= 1) and np.all(n == np.floor(n)) and np.all(np.isfinite(n))):
        raise InputError(f"n must be a whole number of samples, at least 1; got {n}")
    if not (np.all(hits >= 0) and np.all(hits <= n) and np.all(hits == np.floor(hits))):
        raise InputError(f"hits must be a whole number from 0 to n; got {hits} of {n}")
    if not np.all((alpha > 0) & (alpha < 1)):
        raise InputError(f"alpha must lie in (0, 1); got {alpha}")
    return hits, n, alpha


def upper_confidence_bound(hits: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> np.ndarray | float:
    r"""Upper bound of p from ``hits`` of ``n`` samples.

    .. math:: \overline{p} = \mathrm{Beta}^{-1}(1 - \alpha;\, \mathrm{hits} + 1,\, n - \mathrm{hits}),

    and 1 where every sample hits.

    Guarantee: P(p <= bound) >= 1 - alpha for every p, when hits is Binomial(n, p).

    Args:
        hits: number of hits, a scalar or an array.
        n: number of samples.
        alpha: error probability of this one bound.

    Raises:
        InputError: hits outside 0..n, n below 1, or alpha outside (0, 1).

    Source: Clopper & Pearson (1934).
    """
    hits, n, alpha = _checked(hits, n, alpha)
    misses = n - hits
    bound = stats.beta.isf(alpha, hits + 1, np.maximum(misses, 1))
    bound = np.where(hits == 0, -np.expm1(np.log(alpha) / n), bound)
    return np.where(misses == 0, 1.0, bound)[()]


def lower_confidence_bound(hits: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> np.ndarray | float:
    r"""Lower bound of p from ``hits`` of ``n`` samples.

    .. math:: \underline{p} = \mathrm{Beta}^{-1}(\alpha;\, \mathrm{hits},\, n - \mathrm{hits} + 1),

    which is :math:`\alpha^{1/n}` where every sample hits and 0 where none does.

    Guarantee: P(p >= bound) >= 1 - alpha for every p, when hits is Binomial(n, p).

    Args:
        hits: number of hits, a scalar or an array.
        n: number of samples.
        alpha: error probability of this one bound.

    Raises:
        InputError: hits outside 0..n, n below 1, or alpha outside (0, 1).

    Source: Clopper & Pearson (1934); Cohen et al. (2019), LowerConfBound.
    """
    hits, n, alpha = _checked(hits, n, alpha)
    bound = stats.beta.ppf(alpha, np.maximum(hits, 1), n - hits + 1)
    bound = np.where(hits == n, np.exp(np.log(alpha) / n), bound)
    return np.where(hits == 0, 0.0, bound)[()]


def certified_radius(hits: ArrayLike, n: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> np.ndarray | float:
    r"""The l2 radius that ``hits`` of ``n`` samples certify, 0.0 where they certify none.

    .. math:: R = \sigma\, \Phi^{-1}(\underline{p}) \text{ if } \underline{p} > 1/2.

    Computed from the upper bound of the misses, :math:`R = -\sigma\, \Phi^{-1}(\overline{p}(n -
    \mathrm{hits}))`, which is the same number and keeps its digits where :math:`\underline{p}` is near 1.

    Guarantee: with probability at least 1 - alpha over the samples, the smoothed classifier returns the
    class counted in ``hits`` at every point closer than R.

    Args:
        hits: samples of the selected class, drawn afresh after it was selected.
        n: number of samples.
        alpha: error probability.
        sigma: standard deviation of the noise, in the unit of the radius.

    Raises:
        InputError: as for the bounds, or sigma not positive and finite.

    Source: Cohen et al. (2019), Theorem 1 and Algorithm Certify.
    """
    sigma = np.asarray(sigma, np.float64)
    if not np.all((sigma > 0) & np.isfinite(sigma)):
        raise InputError(f"sigma must be positive and finite; got {sigma}")
    hits, n, alpha = _checked(hits, n, alpha)
    radius = sigma * stats.norm.isf(upper_confidence_bound(n - hits, n, alpha))
    return np.maximum(radius, 0.0)[()]
