"""Paired differences: by hand, coverage by simulation, and a planted fault."""

import numpy as np
import pytest
from scipy import stats

from cpur.paired import Difference, accuracy_difference, certified_shares, difference_table, seed_difference


def test_certified_shares_by_hand():
    radii = np.array([[[0.3, 0.1, -1.0, 0.6], [0.9, -1.0, -1.0, 0.9]]])  # one seed, two sigmas
    assert certified_shares(radii, (0.0, 0.25, 0.75)).tolist() == [[75.0, 50.0, 50.0]]


def test_equal_methods_do_not_differ():
    radii = np.random.default_rng(0).normal(0.3, 0.4, (3, 2, 100))
    difference = accuracy_difference(radii, radii, (0.0, 0.5))
    assert (difference.estimate, difference.low, difference.high) == (0, 0, 0)
    assert difference.verdict == "undecided"


def test_verdicts():
    assert Difference(1.0, 0.1, 2.0).verdict == "held"
    assert Difference(1.0, -0.1, 2.0).verdict == "undecided"
    assert Difference(-1.0, -2.0, -0.1).verdict == "did not hold"
    assert str(Difference(1.234, -0.5, 2.0)) == "+1.23 [-0.50, +2.00]"


def covered(runs, draw, truth, **options):
    rng = np.random.default_rng(0)
    intervals = [accuracy_difference(*draw(rng), (0.0,), **options) for _ in range(runs)]
    return sum(interval.low <= truth <= interval.high for interval in intervals)


def test_coverage_over_images():
    """Right with probability 0.8 and 0.7, in pairs that share their luck: about 95% of intervals hold 10 points."""

    def draw(rng):
        luck = rng.random(200)
        return (np.where(luck < p, 0.1, -1.0)[None, None] for p in (0.8, 0.7))

    runs = 200
    missed = runs - covered(runs, draw, 10.0)
    assert stats.binom.sf(missed - 1, runs, 0.06) > 1e-6  # the bootstrap is asymptotic: 6%, not 5%


def test_pairing_makes_the_interval_shorter():
    luck = np.random.default_rng(0).random(400)
    ours, theirs = (np.where(luck < p, 0.1, -1.0)[None, None] for p in (0.8, 0.7))
    paired = accuracy_difference(ours, theirs, (0.0,))
    unpaired = accuracy_difference(ours, theirs[..., np.random.default_rng(1).permutation(400)], (0.0,))
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)
    assert paired.estimate == pytest.approx(unpaired.estimate)


def test_training_seeds_widen_the_interval():
    """Seeds that disagree: the images alone would make the difference look sure."""
    shares = np.array([0.9, 0.5, 0.5])
    ours = np.stack([np.where(np.arange(1000) < 1000 * share, 0.1, -1.0)[None] for share in shares])
    theirs = np.stack([np.where(np.arange(1000) < 550, 0.1, -1.0)[None]] * 3)
    assert accuracy_difference(ours, theirs, (0.0,)).verdict == "undecided"
    pooled = accuracy_difference(*(a.reshape(1, 1, -1) for a in (ours, theirs)), (0.0,))
    assert pooled.verdict == "held"  # what would be said if seeds were taken for images


def test_seed_difference():
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 3))
    assert seed_difference(noise + 1, noise).verdict == "held"
    assert seed_difference(noise + 1, noise).estimate == pytest.approx(1)
    assert seed_difference(np.array([[1.0], [1.0], [-1.5]]), np.zeros((3, 1))).verdict == "undecided"


def test_shapes_must_pair(rejected):
    with rejected("same seeds, sigmas and images"):
        accuracy_difference(np.zeros((1, 2, 3)), np.zeros((1, 2, 4)), (0.0,))
    with rejected("same seeds on both sides"):
        seed_difference(np.zeros((2, 2)), np.zeros((3, 2)))


def test_table_has_each_sigma_and_the_best():
    radii = np.random.default_rng(0).normal(0.3, 0.4, (1, 2, 50))
    table = difference_table(radii + 0.1, radii, (0.25, 0.5), (0.0, 0.5))
    assert list(table) == ["eps 0", "eps 0.5", "mean over eps"]
    assert list(table.index) == ["sigma 0.25", "sigma 0.5", "best sigma"]
    assert table.loc["best sigma", "eps 0"] == str(accuracy_difference(radii + 0.1, radii, (0.0,)))
