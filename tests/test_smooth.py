"""The smoothed classifier: Cohen's interface, closed forms, coverage, invariance."""

import numpy as np
import pytest
import torch
from conftest import HalfSpace
from scipy import stats
from torch import nn

from cpur import load_classifier, load_dataset, load_purifier
from cpur.bounds import certified_radius
from cpur.classifiers import BaseClassifier
from cpur.smooth import ABSTAIN, Smooth


class Constant(nn.Module):
    """Always the same logits."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


X = torch.full((1, 2, 2), 0.5)


def test_constant_classifier_reaches_the_ceiling():
    prediction, radius = Smooth(Constant(0.0, 1.0, 0.5), 3, sigma=0.5).certify(X, 10, 1000, 0.001, 100)
    assert prediction == 1
    assert radius == pytest.approx(0.5 * stats.norm.ppf(0.001 ** (1 / 1000)), rel=1e-12)
    assert isinstance(prediction, int)
    assert isinstance(radius, float)


def test_abstains_where_no_class_has_a_majority():
    smooth = Smooth(HalfSpace(torch.ones(4), b=2.0), 2, sigma=0.5)  # x lies on the boundary
    assert smooth.certify(X, 100, 1000, 0.001, 100) == (ABSTAIN, 0.0)
    assert smooth.predict(X, 1000, 0.001, 100) == ABSTAIN
    assert Smooth.ABSTAIN == -1


def test_counts():
    counts = Smooth(Constant(0.0, 1.0, 0.5), 3, sigma=0.5).counts(X, 130, 100)
    assert counts.tolist() == [0, 130, 0]
    assert counts.dtype == np.int64


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_half_space_radius_is_at_most_the_distance(alpha):
    """P(radius > distance) <= alpha over seeds: fails only where P(Bin(N, alpha) >= observed) < 1e-6."""
    runs, n, sigma, distance = 400, 200, 0.5, 0.4
    smooths = [Smooth(HalfSpace(torch.tensor([1.0]), b=0.5 - distance), 2, sigma, seed=s) for s in range(runs)]
    results = [s.certify(torch.full((1, 1, 1), 0.5), 20, n, alpha, n) for s in smooths]
    wrong = sum(radius > distance for _, radius in results)
    assert stats.binom.sf(wrong - 1, runs, alpha) >= 1e-6
    assert sum(prediction == 1 for prediction, _ in results) > 0.5 * runs
    assert max(radius for _, radius in results) > 0.6 * distance  # the bound is not vacuous


def test_bounding_the_selection_samples_is_caught():
    """Planted fault: the best of 20 equal classes, bounded on the samples that selected it, at alpha = 0.05."""
    runs, n, alpha = 2000, 100, 0.05
    counts = np.random.default_rng(0).multinomial(n, [0.5, 0.5], size=runs)
    planted = (certified_radius(counts.max(1), n, alpha, 1.0) > 0).sum()
    fresh = np.random.default_rng(1).binomial(n, 0.5, size=runs)
    honest = (certified_radius(fresh, n, alpha, 1.0) > 0).sum()
    assert stats.binom.sf(planted - 1, runs, alpha) < 1e-6
    assert stats.binom.sf(honest - 1, runs, alpha) >= 1e-6


def test_radius_approaches_the_distance():
    smooth = Smooth(HalfSpace(torch.tensor([1.0]), b=0.1), 2, sigma=0.5)
    _, radius = smooth.certify(torch.full((1, 1, 1), 0.5), 100, 200_000, 0.001, 10_000)
    assert 0.98 * 0.4 < radius < 0.4


def test_selection_and_estimation_are_fresh():
    smooth = Smooth(HalfSpace(torch.ones(4), b=1.5), 2, sigma=1.0)
    draws = {tuple(smooth.counts(X, 1000, 100, purpose=p)) for p in ("selection", "estimation", "prediction")}
    assert len(draws) > 1


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    return data, BaseClassifier(load_purifier("onestep-edm"), load_classifier(), 0.5)


@pytest.mark.parametrize("n", [130, 512])
def test_counts_do_not_depend_on_the_order_of_images(digits, n):
    data, base = digits
    smooth = Smooth(base, 10, 0.5)
    forward = [smooth.counts(data[i][0], n, 64, index=i).tolist() for i in range(3)]
    backward = [smooth.counts(data[i][0], n, 64, index=i).tolist() for i in reversed(range(3))]
    assert forward == backward[::-1]


@pytest.mark.parametrize("name", ["none", "onestep-ddpm", "onestep-edm", "consistency", "pf-ode"])
def test_a_row_ignores_its_position_and_its_neighbours(name, digits):
    data, _ = digits
    base = BaseClassifier(load_purifier(name), load_classifier(), 0.5).eval()
    generator = torch.Generator().manual_seed(0)
    batch = data.images[:250] + 0.5 * torch.randn(250, 1, 8, 8, generator=generator)
    order = torch.randperm(250, generator=generator)
    others = torch.cat([batch[:100], torch.zeros(150, 1, 8, 8)])
    with torch.inference_mode():
        logits = base(batch)
        assert torch.equal(base(batch[order]), logits[order])
        assert torch.equal(base(others)[:100], logits[:100])


@pytest.mark.parametrize(
    ("logits", "match"),
    [((float("nan"), 1.0, 0.0), "not finite"), ((0.0, 1.0), "num_classes")],
)
def test_bad_logits(logits, match, rejected):
    with rejected(match):
        Smooth(Constant(*logits), 3, 0.5).certify(X, 10, 100, 0.001, 50)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"n": 0}, "n must"), ({"batch_size": 0}, "batch_size"), ({"index": -1}, "index"), ({"alpha": 2.0}, "alpha")],
)
def test_bad_arguments(change, match, rejected):
    arguments = {"n0": 10, "n": 100, "alpha": 0.001, "batch_size": 50, "index": 0} | change
    with rejected(match):
        Smooth(Constant(0.0, 1.0), 2, 0.5).certify(X, **arguments)
    for bad in ({"sigma": 0.0}, {"num_classes": 1}, {"seed": -1}):
        with rejected(next(iter(bad))):
            Smooth(Constant(0.0, 1.0), **({"num_classes": 2, "sigma": 0.5} | bad))
