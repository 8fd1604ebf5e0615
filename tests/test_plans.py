"""Sampling plans: their boundaries, their exact error, and what they cost."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from cpur.bounds import certified_radius, lower_confidence_bound
from cpur.characteristics import GRID, family_wise_error, simulate, worst_error
from cpur.paths import root
from cpur.plans import FRACTIONS, WEIGHTS, Plan, StoppingRule, fixed, minimum_hits, sequential


def test_sequential_looks_and_alphas():
    plan = sequential(100, 100_000, 0.001)
    assert plan.looks == (200, 500, 1000, 2000, 5000, 10_000, 25_000, 50_000, 100_000)
    assert sum(plan.alphas) == pytest.approx(0.001, rel=1e-12)
    assert len(FRACTIONS) == len(WEIGHTS)
    assert sum(WEIGHTS) == pytest.approx(1, rel=1e-12)
    assert plan.n == 100_000


@pytest.mark.parametrize("n", [1, 2, 11, 100, 137, 1000, 12_345])
def test_any_n_has_a_plan_that_spends_alpha_once(n):
    plan = sequential(100, n, 0.001)
    assert list(plan.looks) == sorted(set(plan.looks))
    assert plan.looks[-1] == n
    assert sum(plan.alphas) == pytest.approx(0.001, rel=1e-12)


# By epsilon / sigma, the fewest hits at each look that certify it, n = 100,000, alpha = 0.001, and the exact error
# there: made independently, in high precision. None: not even all hits do.
BOUNDARIES = {
    0: ([132, 300, 568, 1096, 2652, 5206, 12826, 25460, 50495], 9.598e-04),
    0.5: ([167, 391, 754, 1471, 3596, 7104, 17587, 34997, 69603], 9.560e-04),
    1: ([190, 455, 890, 1751, 4316, 8563, 21270, 42402, 84495], 9.623e-04),
    2: ([None, None, 995, 1981, 4929, 9832, 24527, 48998, 97872], 9.143e-04),
    3: ([None, None, None, None, None, 9999, 24988, 49964, 99901], 7.494e-04),
}


@pytest.mark.parametrize("z", BOUNDARIES)
def test_boundaries_and_error_are_the_known_ones(z):
    plan = sequential(100, 100_000, 0.001)
    hits, error = BOUNDARIES[z]
    found = StoppingRule(plan, 0.5, [0.5 * z]).certified[:, 0]
    assert [None if h > n else h for h, n in zip(found, plan.looks, strict=True)] == hits
    assert family_wise_error(plan, np.nextafter(stats.norm.cdf(z), 0)) == pytest.approx(error, abs=5e-8)


def test_boundaries_of_the_shared_table():
    file = root().parent / "shared/facts/groupseq_9look_boundaries.txt"
    if not file.is_file():
        pytest.skip("the table of boundaries is not here")
    plan = sequential(100, 100_000, 0.001)
    for line in file.read_text().splitlines():
        z = float(line.split()[0].removeprefix("z="))
        wanted = eval(line[line.index("[") : line.index("]") + 1], {"None": None})
        found = StoppingRule(plan, 1.0, [z]).certified[:, 0]
        assert [None if h > n else h for h, n in zip(found, plan.looks, strict=True)] == wanted


def test_error_is_that_of_enumeration():
    """Four looks of two samples each: every path of hits counted with fractions."""
    plan = Plan(1, (2, 4, 6, 8), (0.2, 0.1, 0.05, 0.15))
    p = Fraction(3, 5)
    error = Fraction(0)
    for path in itertools.product((0, 1), repeat=8):
        bounds = [
            lower_confidence_bound(sum(path[:n]), n, alpha) for n, alpha in zip(plan.looks, plan.alphas, strict=True)
        ]
        if max(bounds) > p:
            error += p ** sum(path) * (1 - p) ** (8 - sum(path))
    assert 0 < error < 0.5
    assert family_wise_error(plan, float(p)) == pytest.approx(float(error), rel=1e-12)


@pytest.mark.parametrize(("n", "alpha"), [(100_000, 0.001), (10_000, 0.001), (1000, 0.05), (50, 0.01)])
def test_exact_error_is_at_most_alpha_for_every_p(n, alpha):
    error, _ = worst_error(sequential(100, n, alpha), np.linspace(0, 4, 60))
    assert error <= alpha
    assert error > 0.5 * alpha  # alpha is used, not wasted
    assert GRID[0] == 0
    assert len(GRID) >= 200


def test_peeking_is_caught():
    """Planted fault: all of alpha at each of the nine looks."""
    honest = sequential(100, 10_000, 0.05)
    peeking = Plan(100, honest.looks, (0.05,) * len(honest.looks))
    assert worst_error(peeking, np.linspace(0, 2, 20))[0] > 0.1


def test_radius_is_the_running_maximum():
    plan = sequential(100, 1000, 0.001)
    hits = [2, 5, 10, 20, 50, 100, 250, 500, 600]
    assert plan.radius(hits[:8], 0.5) == max(
        certified_radius(h, n, a, 0.5) for h, n, a in zip(hits[:8], plan.looks, plan.alphas, strict=False)
    )
    assert plan.radius(hits, 0.5) == plan.radius(hits[:8], 0.5)  # a worse look takes nothing back
    assert fixed(100, 1000, 0.001).radius([990], 0.5) == certified_radius(990, 1000, 0.001, 0.5)


def test_minimum_hits():
    for n, alpha, z, hits in [(100_000, 0.001, 0, 50_490), (10_000, 0.001, 1, 8526), (1000, 0.001, 2, 991)]:
        assert minimum_hits(n, alpha, 0.25, 0.25 * z) == hits
    assert minimum_hits(1000, 0.001, 0.25, 0.25 * 2.5) == 1001


def rule(n=1000, epsilons=(0.0, 0.5, 1.0)):
    plan = sequential(100, n, 0.001)
    return plan, StoppingRule(plan, 0.5, epsilons)


@pytest.mark.parametrize("p", [0.4, 0.6, 0.8, 0.95, 0.999])
def test_stops_when_every_epsilon_is_decided_and_not_before(p):
    plan, stopping = rule()
    increments = np.diff(plan.looks, prepend=0)
    for hits in np.random.default_rng(0).binomial(increments, p, size=(30, len(increments))).cumsum(axis=1):
        for taken in range(1, len(hits) + 1):
            radius = plan.radius(hits[:taken], 0.5)
            given_up = (hits[:taken, None] <= stopping.futile[:taken]).any(axis=0)
            decided = [(radius >= e and radius > 0) or g for e, g in zip(stopping.epsilons, given_up, strict=True)]
            assert stopping.stops(hits[:taken]) == all(decided)
        assert stopping.stops(hits)  # the last look decides all
    assert not StoppingRule(plan, 0.5, ()).stops([2, 5])  # with no epsilon of interest it goes on


def test_what_is_given_up_could_hardly_be_certified():
    """From the most hits at which an epsilon is given up, with p at its boundary, certifying has probability 1%."""
    plan, stopping = rule(n=2000, epsilons=(0.25,))
    p = stats.norm.cdf(0.5)
    for look, n in enumerate(plan.looks[:-1]):
        futile = int(stopping.futile[look, 0])
        unreachable = all(
            futile + later - n < need
            for later, need in zip(plan.looks[look + 1 :], stopping.certified[look + 1 :, 0], strict=True)
        )
        assert unreachable or stats.binom.cdf(futile, n, p) <= 0.0101


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("z", [0.3, 1.0])
def test_coverage_by_simulation(alpha, z):
    """P(radius > truth) <= alpha: fails only where P(Bin(runs, alpha) >= observed) < 1e-6."""
    runs = 40_000
    plan = sequential(100, 5000, alpha)
    truth = 0.5 * z
    # The radius is compared with the truth itself, which lies just above the true radius here.
    stopping = StoppingRule(plan, 0.5, [truth])
    outcome = simulate(plan, stopping, float(stats.norm.cdf(z)) - 1e-12, runs, np.random.default_rng(1), alpha)
    wrong = int(outcome.certified.sum())
    assert stats.binom.sf(wrong - 1, runs, alpha) >= 1e-6
    assert wrong > 0.3 * alpha * runs  # the simulation would see an error
    assert outcome.samples.max() <= 5000


def test_simulation_of_an_easy_and_a_hopeless_image():
    plan, stopping = rule(n=100_000, epsilons=(0.0, 0.25, 0.5))
    rng = np.random.default_rng(0)
    easy = simulate(plan, stopping, 0.9999, 200, rng, 0.001)
    hopeless = simulate(plan, stopping, 0.05, 200, rng, 0.001)
    assert easy.certified.all()
    assert not hopeless.certified.any()
    assert easy.samples.max() <= 1000
    assert hopeless.samples.max() == 200
    assert (easy.certified_fixed == easy.certified).all()
