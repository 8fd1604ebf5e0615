r"""The statistics of the published multi-scale code, for comparison. They are no certificate at 1 - alpha.

- The level visited as number s = 0, 1, ... uses :math:`\alpha/(s+1)`. Over all places where the cascade can halt the
  errors sum to more than alpha: :math:`\alpha\,(1 + 2/2 + 2/3) = 2.67\,\alpha` for three levels.
- The other classes of an earlier level are bounded by Goodman's simultaneous intervals, which hold asymptotically,
  on classes that are merged by looking at the counts.
- Nothing guards :math:`p_0 < 1/2`.

Source: the code released with Jeong & Shin (2023), restated from its formulas; Goodman (1965).
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.special import ndtri

from cpur.bounds import lower_confidence_bound, upper_confidence_bound
from cpur.cascade import ABSTENTION, CascadeCertificate

FEWEST = 5  # counts that Goodman's interval wants in a group


def released(
    counts: Int[np.ndarray, "K C"],
    sigmas: Float[np.ndarray, "K"],
    alpha: float,
    selected: Int[np.ndarray, "K"],
    threshold: float,
) -> CascadeCertificate:
    """The class and radius that the published code reports.

    A level whose interval contains p0 ends the whole cascade in abstention; one whose upper bound is below p0 is
    passed. The arguments are those of :func:`cpur.cascade.certify_counts`.

    Guarantee: none.
    """
    t = ndtri(threshold)
    order = np.argsort(-sigmas)
    for visited, k in enumerate(order):
        share, n = alpha / (visited + 1), counts[k].sum()
        lower = lower_confidence_bound(counts[k, selected[k]], n, share)
        if lower < threshold:
            if upper_confidence_bound(counts[k, selected[k]], n, share) >= threshold:
                return ABSTENTION
            continue
        y = int(selected[k])
        others = [_others(counts[j], y, int(selected[j]), share) for j in order[:visited]]
        passing = [sigmas[j] * (t - ndtri(p)) for j, p in zip(order[:visited], others, strict=True)]
        radius = min([sigmas[k] * (ndtri(lower) - t), *passing])
        return CascadeCertificate(y, float(radius), int(k)) if radius >= 0 else ABSTENTION
    return ABSTENTION


def _others(counts: Int[np.ndarray, "C"], y: int, selected: int, alpha: float) -> float:
    """The bound on the classes other than y at a level that was passed."""
    groups = _merged(counts, y)
    if len(groups) <= 2:
        return 1 - lower_confidence_bound(counts[selected], counts.sum(), alpha)
    return goodman_upper(groups, 2 * alpha)[1:].max()


def _merged(counts: Int[np.ndarray, "C"], y: int) -> Int[np.ndarray, "G"]:
    """The count of y, then those of the others from the largest down, small ones joined until they make FEWEST."""
    groups, joined = [counts[y]], 0
    for count in np.sort(np.delete(counts, y))[::-1]:
        joined += count
        if joined >= FEWEST:
            groups.append(joined)
            joined = 0
    groups[-1] += joined
    return np.array(groups)


def goodman_upper(counts: Int[np.ndarray, "G"], alpha: float) -> Float[np.ndarray, "G"]:
    r"""Upper limits of Goodman's simultaneous intervals of a multinomial distribution.

    .. math:: \frac{2 n_g + \chi^2 + \sqrt{\chi^2 (\chi^2 + 4 n_g (n - n_g)/n)}}{2 (n + \chi^2)},
        \quad \chi^2 = \chi^2_1\text{'s quantile at } 1 - \alpha/G.

    Guarantee: asymptotic. Source: Goodman (1965).
    """
    n, chi2 = counts.sum(), stats.chi2.ppf(1 - alpha / len(counts), 1)
    root = np.sqrt(chi2 * (chi2 + 4 * counts * (n - counts) / n))
    return (2 * counts + chi2 + root) / (2 * (n + chi2))
