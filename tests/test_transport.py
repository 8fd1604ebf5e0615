"""Transport: closed forms to 1e-6, the flow against a fine Heun solution, and what is a theorem."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from cpur.purifiers import PFODE
from cpur.transport import (
    Flow,
    Mixture,
    displacement,
    gaussian_maps,
    gaussian_transport,
    two_point_transport,
    wasserstein,
)


@pytest.fixture
def mixture():
    means = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], dtype=torch.float64).view(3, 2, 1, 1)
    return Mixture(means, 0.1, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def test_posterior_mean_is_bayes_rule(mixture):
    """Against the definition, integrated on a grid."""
    x, sigma = torch.tensor([0.3, -0.2], dtype=torch.float64), 0.7
    axis = np.linspace(-2, 2, 801)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    prior = sum(
        float(w) * stats.multivariate_normal(m.flatten().numpy(), 0.01).pdf(grid)
        for w, m in zip(mixture.weights, mixture.means, strict=True)
    )
    weight = prior * np.exp(-((grid - x.numpy()) ** 2).sum(-1) / (2 * sigma**2))
    expected = (weight[..., None] * grid).sum((0, 1)) / weight.sum()
    mean = mixture.denoise(x.view(1, 2, 1, 1), sigma).flatten().numpy()
    assert np.allclose(mean, expected, atol=1e-6)


def test_two_points_give_tanh_and_sign():
    points = Mixture(torch.tensor([[-1.0], [1.0]], dtype=torch.float64).view(2, 1, 1, 1))
    y = torch.linspace(-3, 3, 12, dtype=torch.float64).view(-1, 1, 1, 1)
    for t in (0.5, 1.0, 2.0):
        assert torch.allclose(points.denoise(y, t), torch.tanh(y / t**2), atol=1e-12)
        assert torch.allclose(Flow(points).denoise(y, t), y.sign(), atol=1e-6)


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_gaussian_data_have_linear_maps(t):
    s = 0.6
    gaussian = Mixture(torch.zeros(1, 3, 1, 1, dtype=torch.float64), s)
    x = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = gaussian_maps(s, t)
    assert torch.allclose(gaussian.denoise(x, t), maps["posterior mean"] * x, atol=1e-12)
    assert torch.allclose(Flow(gaussian).denoise(x, t), maps["consistency function"] * x, atol=1e-6)


def test_flow_agrees_with_a_fine_heun_solution(mixture):
    x = mixture.sample(50) + 0.8 * torch.randn(50, 2, 1, 1, generator=torch.Generator().manual_seed(1)).double()
    heun = PFODE(mixture, steps=4000, sigma_min=1e-4).denoise(x, 0.8)
    assert (Flow(mixture).denoise(x, 0.8) - heun).abs().max() < 1e-4


def test_flow_lands_on_the_data_and_the_mean_does_not(mixture):
    rng = torch.Generator().manual_seed(1)
    x = mixture.sample(300) + 0.8 * torch.randn(300, 2, 1, 1, generator=rng).double()

    def off(points):
        return (points[:, None] - mixture.means).flatten(2).norm(dim=2).amin(1)

    # Data of standard deviation 0.1 lie within 0.37 of a mean with probability 0.999.
    assert (off(Flow(mixture).denoise(x, 0.8)) < 0.37).double().mean() > 0.95
    assert (off(mixture.denoise(x, 0.8)) > 0.37).double().mean() > 0.4


@pytest.mark.parametrize("t", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("dimension", [1, 7])
def test_gaussian_transport_by_integration(t, dimension):
    """T against the mean of a scaled chi distribution by quadrature; the squares by moments."""
    s = 0.5
    for a in gaussian_maps(s, t).values():
        std = np.hypot((1 - a) * s, a * t)
        closed = gaussian_transport(a, s, t, dimension)
        assert closed["T"] == pytest.approx(std * stats.chi(dimension).expect(lambda r: r), abs=1e-6)
        assert closed["squared"] == pytest.approx(dimension * std**2, abs=1e-9)
        assert closed["W2"] == pytest.approx(dimension**0.5 * abs(s - a * np.hypot(s, t)), abs=1e-9)


def test_consistency_function_has_no_wasserstein_distance_and_more_transport():
    maps = gaussian_maps(0.5, 1.0)
    mean, flow = (gaussian_transport(maps[name], 0.5, 1.0, 3072) for name in ("posterior mean", "consistency function"))
    assert flow["W2"] == pytest.approx(0, abs=1e-9)
    assert mean["W2"] > 1
    assert flow["squared"] > mean["squared"]  # for any data: the mean minimises it
    assert flow["T"] > mean["T"]


@pytest.mark.parametrize("t", [0.4, 1.0, 2.5])
def test_two_point_transport_by_summation(t):
    """Against Gauss-Hermite quadrature of the definition, both points."""
    closed = two_point_transport(t)
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    for power, key in ((1, "T"), (2, "squared")):
        gaps = [abs(x - np.tanh((x + t * nodes) / t**2)) ** power for x in (-1, 1)]
        assert closed["posterior mean"][key] == pytest.approx(np.mean([weights @ gap for gap in gaps]), abs=2e-4)
    flipped = stats.norm.sf(1 / t)
    assert closed["consistency function"] == pytest.approx({"T": 2 * flipped, "squared": 4 * flipped}, abs=1e-12)


def test_known_values_of_the_two_points():
    """Less transport for the consistency function, and more squared transport: the order is not a theorem."""
    at_one = two_point_transport(1.0)
    assert at_one["posterior mean"]["T"] == pytest.approx(0.450, abs=0.001)
    assert at_one["consistency function"]["T"] == pytest.approx(0.3173, abs=1e-4)
    assert at_one["posterior mean"]["squared"] < at_one["consistency function"]["squared"]


def test_wasserstein_is_the_best_of_all_pairings():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(5, 1, 2, 2, generator=rng), torch.rand(5, 1, 2, 2, generator=rng)
    best = min(displacement(x, y[list(order)]).double().mean().item() for order in itertools.permutations(range(5)))
    assert wasserstein(x, y) == pytest.approx(best, abs=1e-6)
    assert wasserstein(x, y) <= displacement(x, y).double().mean().item() + 1e-9
    assert wasserstein(x, x[[3, 1, 0, 4, 2]]) == pytest.approx(0, abs=1e-6)


def test_markov(mixture):
    """Theorem 3.3 on a sample, for which it holds exactly."""
    x = mixture.sample(400)
    noisy = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    moved = displacement(x, mixture.denoise(noisy, 0.5))
    for r in (0.1, 0.3, 1.0):
        assert (moved > r).double().mean() <= moved.mean() / r
