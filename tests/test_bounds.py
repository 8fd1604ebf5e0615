"""Confidence bounds and radii: exact values, exact edges, exact coverage."""

import numpy as np
import pytest
from scipy import stats

from cpur.bounds import certified_radius, lower_confidence_bound, upper_confidence_bound

# Computed with 60 digits: hits, n, alpha, lower bound, z = Phi^-1(lower bound).
EXACT = [
    (100_000, 100_000, 0.001, 0.99993092483300939, 3.81145656338995),
    (99_999, 100_000, 0.001, 0.99990766966626545, 3.7391266685434),
    (99_990, 100_000, 0.001, 0.99975867734359116, 3.49020768014665),
    (99_000, 100_000, 0.001, 0.98898934037747476, 2.28999995521377),
    (90_000, 100_000, 0.001, 0.89703649622382911, 1.26484469033743),
    (60_000, 100_000, 0.001, 0.59520104729458455, 0.240944792234725),
    (50_490, 100_000, 0.001, 0.50000894877440356, 2.24312509451372e-5),
    (10_000, 10_000, 0.001, 0.99930946300258992, 3.19857751473833),
    (9_000, 10_000, 0.001, 0.89040973367490644, 1.22871006102999),
    (999, 1_000, 0.001, 0.99080450236461241, 2.35765057059516),
    (66, 100, 0.001, 0.50164995133687, 0.00413582646),
    (10, 10, 0.001, 0.50118723362727, 0.00297595777),
]


@pytest.mark.parametrize(("hits", "n", "alpha", "lower", "z"), EXACT)
def test_exact_values(hits, n, alpha, lower, z):
    assert lower_confidence_bound(hits, n, alpha) == pytest.approx(lower, rel=1e-13)
    relative = 1e-8 if z < 0.01 else 1e-11  # near zero the digits of p are lost in p - 1/2
    assert certified_radius(hits, n, alpha, 0.5) == pytest.approx(0.5 * z, rel=relative)


def test_fewest_hits_that_certify():
    n = 100_000
    assert certified_radius(50_490, n, 0.001, 1.0) > 0
    assert certified_radius(50_489, n, 0.001, 1.0) == 0.0
    assert certified_radius(65, 100, 0.001, 1.0) == 0.0
    assert certified_radius(9, 9, 0.001, 1.0) == 0.0
    wanted = {0.25: 60350, 0.5: 69598, 0.75: 77747, 1: 84492, 1.5: 93563, 2: 97870, 3: 99900}
    radii = certified_radius(np.arange(n + 1), n, 0.001, 1.0)
    assert {z: int(np.argmax(radii >= z)) for z in wanted} == wanted
    assert np.all(np.diff(radii) >= 0)
    assert radii[-1] < 4


def test_edges_are_exact():
    assert lower_confidence_bound(0, 10, 0.001) == 0.0
    assert upper_confidence_bound(10, 10, 0.001) == 1.0
    assert lower_confidence_bound(10, 10, 0.001) == pytest.approx(0.001**0.1, rel=1e-15)
    assert upper_confidence_bound(0, 10, 0.001) == pytest.approx(1 - 0.001**0.1, rel=1e-15)
    assert certified_radius(0, 10, 0.001, 1.0) == 0.0


def test_arrays_and_scalars_agree():
    hits = np.array([[0, 3, 10], [5, 9, 10]])
    radii = certified_radius(hits, 10, 0.01, np.array([0.25, 0.5, 1.0]))
    assert radii.shape == (2, 3)
    assert radii.dtype == np.float64
    for index, value in np.ndenumerate(radii):
        assert value == certified_radius(hits[index], 10, 0.01, [0.25, 0.5, 1.0][index[1]])


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("n", [1, 7, 50, 300])
def test_coverage_is_exact(n, alpha):
    """The error of each bound, enumerated over all outcomes for every p of a grid, never exceeds alpha."""
    p = np.linspace(0.0005, 0.9995, 400)[:, None]
    hits = np.arange(n + 1)
    weight = stats.binom.pmf(hits, n, p)
    assert np.all((weight * (lower_confidence_bound(hits, n, alpha) > p)).sum(1) <= alpha * (1 + 1e-9))
    assert np.all((weight * (upper_confidence_bound(hits, n, alpha) < p)).sum(1) <= alpha * (1 + 1e-9))


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_coverage_check_catches_a_normal_approximation(alpha):
    n, p = 50, np.linspace(0.0005, 0.9995, 400)[:, None]
    hits = np.arange(n + 1)
    share = hits / n
    planted = share - stats.norm.isf(alpha) * np.sqrt(share * (1 - share) / n)
    assert (stats.binom.pmf(hits, n, p) * (planted > p)).sum(1).max() > 2 * alpha


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((11, 10, 0.001), "hits"),
        ((-1, 10, 0.001), "hits"),
        ((2.5, 10, 0.001), "hits"),
        ((1, 0, 0.001), "n must"),
        ((1, 10, 0.0), "alpha"),
        ((1, 10, 1.0), "alpha"),
        ((float("nan"), 10, 0.1), "hits"),
    ],
)
def test_bad_input(arguments, match, rejected):
    for bound in (lower_confidence_bound, upper_confidence_bound):
        with rejected(match):
            bound(*arguments)
    with rejected("sigma"):
        certified_radius(5, 10, 0.1, 0.0)
