r"""The cascade of several noise levels, and its certificate.

From the largest :math:`\sigma` down, the first level k at which some class has :math:`p_k(x, c) = P[f_k(Q(x +
\sigma_k e)) = c] > p_0` halts, and the cascade F returns that level's most probable class; it abstains where no level
halts. With :math:`t = \Phi^{-1}(p_0)`, F = y at every point closer to x than

.. math:: R = \max_k \min\Big\{ \sigma_k\big[\Phi^{-1}(\underline{p}_k(y)) - t\big],\;
    \min_{j: \sigma_j > \sigma_k} \sigma_j\big[t - \max_{c \ne y} \Phi^{-1}(\overline{p}_j(c))\big] \Big\},

since :math:`\Phi^{-1}(p_j(x, c))` is :math:`1/\sigma_j`-Lipschitz in x: closer than R, level k still has y above
:math:`p_0`, and no earlier level can halt at another class. Where :math:`p_0 < 1/2` two classes can be above it, and
level k must also prefer y: a third term, :math:`\frac{\sigma_k}{2} [\Phi^{-1}(\underline{p}_k(y)) - \max_{c \ne y}
\Phi^{-1}(\overline{p}_k(c))]`, joins the minimum.

Source: Jeong & Shin (2023), theorem 3.1, for one level k; the maximum over k, the third term and the finite-sample
bounds are this project's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import ndtri

from cpur.bounds import lower_confidence_bound, upper_confidence_bound
from cpur.errors import InputError, choose
from cpur.smooth import ABSTAIN


@dataclass(frozen=True)
class CascadeCertificate:
    """What the cascade certifies of one image."""

    prediction: int  # the certified class, or ABSTAIN
    radius: float  # in the unit of the sigmas; 0.0 where it abstains
    level: int | None  # index, among the sigmas as given, of the level whose minimum is the radius


RULES = ("max", "first", "released")
ABSTENTION = CascadeCertificate(ABSTAIN, 0.0, None)


def level_bounds(
    counts: Int[np.ndarray, "... K C"], selected: Int[np.ndarray, "... K"], alpha: float | np.ndarray
) -> tuple[Float[np.ndarray, "... K C"], Float[np.ndarray, "... K C"]]:
    r"""Bounds on the class probabilities of every level, from its counts.

    .. math:: \underline{p}(s) \text{ at } \frac{\alpha}{2K}, \qquad
        \overline{p}(c) \text{ at } \frac{\alpha}{2KC} \text{ for every } c,
        \qquad \overline{p}(c) \le 1 - \underline{p}(s) \text{ for } c \ne s.

    Guarantee: with probability at least 1 - alpha, all bounds of all K levels hold at once; so any choice of levels,
    of their order and of the class to certify that is made from them is paid for. Levels may even share noise.

    Args:
        counts: of the estimation samples; for a level without samples the bounds are 0 and 1.
        selected: the class s of each level that its own selection samples favour.
        alpha: error probability of the whole cascade; an array gives a share of it to every level ``... K``.
    """
    levels, classes = counts.shape[-2:]
    n = counts.sum(-1, keepdims=True)
    share = np.broadcast_to(alpha, n.shape[:-1])[..., None] / (2 * levels)
    own = np.arange(classes) == selected[..., None]
    hits = np.where(own, counts, 0).sum(-1, keepdims=True)
    bound = lower_confidence_bound(hits, np.maximum(n, 1), share)
    lower = np.where(own, bound, 0.0)
    upper = np.where(n > 0, upper_confidence_bound(counts, np.maximum(n, 1), share / classes), 1.0)
    return lower, np.where(own, upper, np.minimum(upper, 1 - bound))


def terms(
    lower: Float[np.ndarray, "... K C"],
    upper: Float[np.ndarray, "... K C"],
    sigmas: Float[np.ndarray, "... K"],
    threshold: float,
) -> tuple[Float[np.ndarray, "... K C"], Float[np.ndarray, "... K C"]]:
    """The terms of R: the radius that each level allows itself for each class, and that it allows smaller sigmas."""
    t, sigma = ndtri(threshold), sigmas[..., None]
    best = upper.argmax(-1)[..., None] == np.arange(upper.shape[-1])
    second = np.where(best, -1, upper).max(-1, keepdims=True)
    z_others = ndtri(np.where(best, second, upper.max(-1, keepdims=True)))  # the largest bound of another class
    z_lower = ndtri(lower)
    halting = sigma * (z_lower - t)
    if threshold < 0.5:
        with np.errstate(invalid="ignore"):  # infinite minus infinite: no bound at all
            halting = np.fmin(halting, sigma / 2 * (z_lower - z_others))
    return halting, sigma * (t - z_others)


def cascade_radii(
    lower: Float[np.ndarray, "... K C"],
    upper: Float[np.ndarray, "... K C"],
    sigmas: Float[np.ndarray, "... K"],
    threshold: float,
) -> Float[np.ndarray, "... K C"]:
    """The minimum in R for every level k and class y; where it is not positive, that level does not certify y.

    Guarantee: where all bounds hold, that of the formula above.
    """
    halting, passing = terms(lower, upper, sigmas, threshold)
    larger = sigmas[..., None, :] > sigmas[..., :, None]
    earlier = np.where(larger[..., None], passing[..., None, :, :], np.inf).min(-2)
    return np.minimum(halting, earlier)


def certify_bounds(
    lower: ArrayLike,
    upper: ArrayLike,
    sigmas: Sequence[float] | np.ndarray,
    threshold: float = 0.5,
    *,
    rule: str = "max",
) -> CascadeCertificate:
    """The certificate of the cascade from bounds on every level's class probabilities.

    Guarantee: where all bounds hold, the cascade returns the class at every point closer than the radius.

    Args:
        lower: K x C lower bounds, 0 where there is none, in the order of ``sigmas``.
        upper: K x C upper bounds, 1 where there is none.
        sigmas: noise levels in any order, all different.
        threshold: p0.
        rule: ``max`` takes the level that gives the largest radius; ``first`` the level that halts, that is the first
            from the largest sigma down whose lower bound is above p0.

    Raises:
        InputError: shapes that do not fit, bounds outside [0, 1], a sigma or threshold out of range.
    """
    lower, upper, sigma = np.asarray(lower, float), np.asarray(upper, float), _sigmas(sigmas, threshold)
    choose("rule", rule, RULES[:2])
    if lower.ndim != 2 or lower.shape != upper.shape or len(lower) != len(sigma) or lower.shape[1] < 2:
        raise InputError(
            f"lower and upper must be K x C for the K = {len(sigma)} sigmas and two classes or more; got shapes "
            f"{lower.shape} and {upper.shape}"
        )
    if not all(np.all((bound >= 0) & (bound <= 1)) for bound in (lower, upper)):
        raise InputError("bounds must lie in [0, 1]")
    radii = cascade_radii(lower, upper, sigma, threshold)
    certified = np.flatnonzero((radii > 0).any(axis=0))
    if len(certified) != 1:  # none; or two, so that some bound has failed
        return ABSTENTION
    y = certified[0]
    halts = np.where((lower > threshold).any(axis=1), sigma, 0)
    k = (halts if rule == "first" else radii[:, y]).argmax()
    return CascadeCertificate(int(y), float(radii[k, y]), int(k)) if radii[k, y] > 0 else ABSTENTION


def certify_counts(
    counts: ArrayLike,
    sigmas: Sequence[float] | np.ndarray,
    alpha: float,
    *,
    selected: Sequence[int] | np.ndarray,
    threshold: float = 0.5,
    rule: str = "max",
) -> CascadeCertificate:
    """The certificate of the cascade from class counts, where every number of samples was fixed beforehand.

    Guarantee: with rule ``max`` or ``first``, false with probability at most alpha: of :func:`level_bounds` and
    :func:`certify_bounds`. Rule ``released`` computes the statistics of the published code, for comparison; it is
    no certificate at 1 - alpha (see :mod:`cpur.released`).

    Args:
        counts: K x C estimation counts in the order of ``sigmas``; a level without samples has a row of zeros.
        sigmas: noise levels in any order, all different.
        alpha: error probability of the whole cascade.
        selected: one class a level, from selection samples of its own.
        threshold: p0.
        rule: ``max``, ``first`` or ``released``.

    Raises:
        InputError: shapes that do not fit, counts that are none, a class, sigma, alpha or threshold out of range.
    """
    counts, sigma = np.asarray(counts), _sigmas(sigmas, threshold)
    choose("rule", rule, RULES)
    if counts.ndim != 2 or len(counts) != len(sigma) or counts.shape[1] < 2:
        raise InputError(f"counts must be K x C for the K = {len(sigma)} sigmas; got shape {counts.shape}")
    if not np.all((counts >= 0) & (counts == np.floor(counts))):
        raise InputError("counts must be whole numbers of samples, none negative")
    counts, selected = counts.astype(np.int64), np.asarray(selected)
    named = selected.shape == sigma.shape and (selected >= 0) & (selected < counts.shape[1])
    if not np.all(named | (counts.sum(1) == 0)):
        raise InputError(f"selected must name one of the {counts.shape[1]} classes for each level; got {selected}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie in (0, 1); got {alpha!r}")
    if rule == "released":
        from cpur.released import released

        return released(counts, sigma, alpha, selected, threshold)
    return certify_bounds(*level_bounds(counts, selected, alpha), sigma, threshold, rule=rule)


def _sigmas(sigmas: Sequence[float] | np.ndarray, threshold: float) -> np.ndarray:
    sigma = np.asarray(sigmas, float)
    if sigma.ndim != 1 or not len(sigma) or not np.all((sigma > 0) & np.isfinite(sigma)):
        raise InputError(f"sigmas must be a list of positive noise levels; got {sigmas!r}")
    if len(np.unique(sigma)) != len(sigma):
        raise InputError(f"sigmas must all be different; got {sigmas!r}")
    if not 0 < threshold < 1:
        raise InputError(f"threshold must lie in (0, 1), commonly 0.5; got {threshold!r}")
    return sigma
