"""The cascade's certificate: exact classifiers on a line, reference decisions, and its errors."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.stats import norm

from cpur.bounds import upper_confidence_bound
from cpur.cascade import cascade_radii, certify_bounds, certify_counts, level_bounds
from cpur.characteristics import worst_error
from cpur.plans import fixed, sequential
from cpur.smooth import ABSTAIN
from studies.cascade_errors import CASES, false_certificates

GOLDEN = Path(os.environ.get("CPUR_GOLDEN", "/nowhere")) / "08_multiscale_cascade" / "cascade.json"
ROUNDING = 1e-14  # of the exact probabilities, on which a radius can hang where one of them is near 1


class Lines:
    """Many random classifiers of the line, one a level: sorted cuts, and the class of each piece between them."""

    def __init__(self, rng, cases, levels, classes, pieces=5):
        grid = np.geomspace(0.25, 1.0, levels)[None] * rng.uniform(0.7, 1.4, (cases, levels))
        self.sigmas = rng.permuted(grid, axis=1)
        spread = rng.choice([0.3, 1.0, 2.0], (cases, 1, 1))
        self.cuts = np.sort(rng.normal(0, spread, (cases, levels, pieces - 1)), -1)
        labels = rng.integers(0, classes, (cases, levels, pieces))
        self.one_hot = (labels[..., None] == np.arange(classes)).astype(float)

    def probabilities(self, x):
        """p_k(x, c), one point x a case: cases, levels, classes."""
        below = norm.cdf((self.cuts - x[:, None, None]) / self.sigmas[..., None])
        mass = np.diff(below, axis=-1, prepend=0, append=1)
        return (mass[..., None, :] @ self.one_hot)[..., 0, :].clip(0, 1)

    def answers(self, x, threshold):
        """F, one point x a case; ABSTAIN where no level halts."""
        p = self.probabilities(x)
        halts = np.where(p.max(-1) > threshold, self.sigmas, 0)
        answer = np.take_along_axis(p, halts.argmax(1)[:, None, None], 1)[:, 0].argmax(1)
        return np.where(halts.any(1), answer, ABSTAIN)


def unguarded(lower, upper, sigmas, threshold):
    """The radii as published, for any p0; written another way than cascade_radii, by loops over levels."""
    z_lower, z_upper, t = norm.ppf(lower), norm.ppf(upper), norm.ppf(threshold)
    radii = np.empty_like(lower)
    levels, classes = lower.shape[1:]
    for k in range(levels):
        for y in range(classes):
            radius = sigmas[:, k] * (z_lower[:, k, y] - t)
            for j in range(levels):
                others = np.delete(z_upper[:, j], y, 1).max(1)
                radius = np.where(sigmas[:, j] > sigmas[:, k], np.minimum(radius, sigmas[:, j] * (t - others)), radius)
            radii[:, k, y] = radius
    return radii


def violations(levels, classes, threshold, cases, radii_of=cascade_radii):
    """Exact certificates that are positive and finite, and how many of them are false somewhere inside."""
    lines = Lines(np.random.default_rng(0), cases, levels, classes)
    p = lines.probabilities(np.zeros(cases))
    radii = radii_of((p - ROUNDING).clip(0), (p + ROUNDING).clip(max=1), lines.sigmas, threshold)
    radius, y = radii.max((1, 2)), radii.max(1).argmax(1)
    certified = (radius > 0) & (radius < np.inf)
    false = np.zeros(cases, bool)
    for share in np.linspace(-1, 1, 21):
        false |= lines.answers(np.where(certified, share * radius * (1 - 1e-9), 0), threshold) != y
    return int(certified.sum()), int((certified & false).sum())


@pytest.mark.parametrize("threshold", [0.35, 0.5, 0.7])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_no_exact_certificate_is_false(levels, classes, threshold):
    certified, false = violations(levels, classes, threshold, 12_000)
    assert certified > 4000  # in all, well above 100,000
    assert false == 0


def test_without_the_guard_a_small_threshold_is_not_sound():
    certified, false = violations(3, 3, 0.35, 2000, unguarded)
    assert false > 0.1 * certified


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_radii_are_those_of_the_loops(threshold):
    lines = Lines(np.random.default_rng(1), 200, 3, 4)
    p = lines.probabilities(np.zeros(200))
    lower, upper = (p - 0.02).clip(0), (p + 0.02).clip(max=1)
    ours, loops = (f(lower, upper, lines.sigmas, threshold) for f in (cascade_radii, unguarded))
    np.testing.assert_allclose(ours, loops, atol=1e-12)
    for one, (a, b, sigmas) in enumerate(zip(lower, upper, lines.sigmas, strict=True)):
        found = certify_bounds(a, b, sigmas, threshold)
        assert found.radius == max(ours[one].max(), 0)
        assert found.level is None or ours[one, found.level, found.prediction] == found.radius


@pytest.mark.skipif(not GOLDEN.is_file(), reason="CPUR_GOLDEN does not name the folder of the reference vectors")
def test_decisions_and_radii_are_those_of_the_reference():
    for case in json.loads(GOLDEN.read_text())["cases"]:
        levels = case["levels"]
        counts, sigmas, selected = ([level[key] for level in levels] for key in ("counts", "sigma", "selected_class"))
        rigorous = case["rigorous"]
        for rule, expected in {
            "max": rigorous["improved_rule"],
            "first": rigorous["first_level_rule"],
            "released": case["published"],
        }.items():
            found = certify_counts(counts, sigmas, 0.001, selected=selected, rule=rule)
            assert found.prediction == max(expected["decision"], ABSTAIN), case["name"]
            assert found.radius == pytest.approx(expected["radius"], abs=1e-12), case["name"]


SURE, SPREAD = [0, 0, 1000], [300, 350, 350]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_levels_may_come_in_any_order(order):
    counts, sigmas = np.array([SURE, SPREAD])[order], np.array([0.25, 1.0])[order]
    found = certify_counts(counts, sigmas, 0.001, selected=[2, 2])
    assert found.prediction == 2
    assert sigmas[found.level] == 0.25
    assert 0 < found.radius <= 0.25 * norm.ppf(0.001 ** (1 / 1000))


def test_an_unsampled_level_blocks_only_smaller_sigmas():
    sigmas = [0.25, 1.0]
    assert certify_counts([SURE, [0, 0, 0]], sigmas, 0.001, selected=[2, -1]).prediction == ABSTAIN
    assert certify_counts([[0, 0, 0], SURE], sigmas, 0.001, selected=[-1, 2]).prediction == 2


def test_the_complement_of_a_selected_class_sharpens_at_no_cost():
    # Zero hits each of nine classes: at alpha/(2KC) they are bounded more loosely than all together at alpha/(2K).
    counts = np.zeros((1, 10), np.int64)
    counts[0, 3] = 1000
    lower, upper = level_bounds(counts, np.array([3]), 0.001)
    assert upper[0, 0] == 1 - lower[0, 3] < upper_confidence_bound(0, 1000, 0.001 / 20)
    assert upper[0, 3] == 1


def test_bounds_that_certify_two_classes_abstain():
    lower = np.array([[0.9, 0.0], [0.0, 0.9]])
    assert certify_bounds(lower, np.full((2, 2), 0.2), [0.25, 1.0]).prediction == ABSTAIN


def test_max_is_never_smaller_than_first():
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(400):
        shares = rng.dirichlet(np.full(4, 1.0)) ** np.array([[8], [3], [1]])  # less noise is more sure
        shares /= shares.sum(1, keepdims=True)
        counts = rng.multinomial(1000, shares)
        first, best = (
            certify_counts(counts, [0.25, 0.5, 1.0], 0.001, selected=shares.argmax(1), rule=rule)
            for rule in ("first", "max")
        )
        assert best.radius >= first.radius
        gains.append(best.radius - first.radius)
    assert np.mean(gains) > 0.01


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("plan", [fixed, sequential])
def test_errors_of_all_bounds_sum_to_alpha_at_most(plan, alpha):
    levels, classes = 3, 10
    chosen = plan(100, 1000, alpha)

    def error(bounds):
        shared = dataclasses.replace(chosen, alphas=tuple(a / bounds for a in chosen.alphas))
        return worst_error(shared, np.linspace(0, 3, 13))[0]

    # An upper bound of p errs as a lower bound of 1 - p does.
    assert levels * error(2 * levels) + levels * classes * error(2 * levels * classes) <= alpha


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("way", "runs"), [("max", 400), ("first", 400), ("released", 100), ("steered", 40)])
def test_false_certificates_of_sampled_counts(way, runs, name, alpha, record_property):
    false = false_certificates(way, name, 300, alpha, runs)
    record_property("false", false)
    if way != "released":  # whose statistics promise nothing
        assert stats.binom.sf(false - 1, runs, alpha) > 1e-6


def test_peeking_at_bounds_of_a_fixed_n_is_caught():
    false = false_certificates("peeking", "one level that does not quite halt", 300, 0.05, 500)
    assert stats.binom.sf(false - 1, 500, 0.05) < 1e-6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"counts": [[1, 2], [3, 4], [5, 6]]}, "counts must be K x C for the K = 2 sigmas"),
        ({"counts": [[1, -2], [3, 4]]}, "counts must be whole numbers"),
        ({"counts": [[1, 2.5], [3, 4]]}, "counts must be whole numbers"),
        ({"sigmas": [0.5, 0.5]}, "sigmas must all be different"),
        ({"sigmas": [0.5, -1.0]}, "sigmas must be a list of positive"),
        ({"alpha": 0.0}, r"alpha must lie in \(0, 1\); got 0.0"),
        ({"selected": [0, 2]}, "selected must name one of the 2 classes"),
        ({"selected": [0]}, "selected must name one of the 2 classes"),
        ({"threshold": 1.0}, r"threshold must lie in \(0, 1\)"),
        ({"rule": "best"}, "rule must be one of max, first, released"),
    ],
)
def test_bad_counts_are_named(change, sentence, rejected):
    good = {"counts": [[1, 2], [3, 4]], "sigmas": [0.5, 1.0], "alpha": 0.001, "selected": [0, 1]}
    with rejected(sentence):
        certify_counts(**(good | change))


def test_bad_bounds_are_named(rejected):
    with rejected("lower and upper must be K x C"):
        certify_bounds([[0.1, 0.2]], [[0.1, 0.2]], [0.5, 1.0])
    with rejected("bounds must lie in"):
        certify_bounds([[0.1, 0.2]], [[0.1, 1.2]], [0.5])
