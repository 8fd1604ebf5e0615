"""Purifiers against closed forms."""

import json
import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cpur import load_dataset, load_purifier
from cpur.purifiers import (
    PFODE,
    Consistency,
    NoPurifier,
    OneStepDDPM,
    OneStepEDM,
    embedded_purifiers,
    load_purifiers,
)
from cpur.schedules import alphas_cumprod, consistency_scalings, edm_scalings, karras_sigmas, timestep_of

GOLDEN = Path(os.environ.get("CPUR_GOLDEN", "/nowhere")) / "05_edm_sampler"
S = 0.3  # standard deviation of the Gaussian data, on [0, 1] pixels with mean 0


def gaussian_mean(x, sigma):
    """The posterior mean of N(0, S^2) data."""
    return x * (S**2 / (S**2 + sigma.view(-1, 1, 1, 1) ** 2))


def two_points(x, sigma):
    """The posterior mean of data at -1 and +1: tanh(x / sigma^2)."""
    return torch.tanh(x / sigma.view(-1, 1, 1, 1) ** 2)


class Exact(nn.Module):
    """A network F that makes the preconditioned denoiser equal to the posterior mean of Gaussian data on [-1, 1]."""

    def __init__(self, scalings, std):
        super().__init__()
        self.scalings, self.std = scalings, std

    def forward(self, x, t, labels=None):
        level = (t / 250).exp()
        c_skip, c_out, c_in = (c.view(-1, 1, 1, 1) for c in self.scalings(level))
        y = x / c_in
        mean = y * (self.std**2 / (self.std**2 + level.view(-1, 1, 1, 1) ** 2))
        return (mean - c_skip * y) / c_out


class ExactNoise(nn.Module):
    """The network that predicts the posterior mean of the noise for Gaussian data on [-1, 1]."""

    def __init__(self, abar, std):
        super().__init__()
        self.abar, self.std = abar, std

    def forward(self, x, s, labels=None):
        abar = self.abar[s.long()].to(x.dtype).view(-1, 1, 1, 1)
        return torch.cat([x * (1 - abar).sqrt() / (abar * self.std**2 + 1 - abar)] * 2, dim=1)  # and a variance


@pytest.fixture
def x():
    return torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_none_is_the_identity(x):
    assert torch.equal(NoPurifier().denoise(x, 0.5), x)


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_onestep_edm_is_the_posterior_mean(x, sigma):
    std, sigma_data = 0.6, 0.75
    edm = OneStepEDM(Exact(lambda t: edm_scalings(t, sigma_data), std), sigma_data)
    expected = ((2 * x - 1) * std**2 / (std**2 + 4 * sigma**2) + 1) / 2
    assert torch.allclose(edm.denoise(x, sigma), expected, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_onestep_ddpm_is_the_posterior_mean(x, sigma):
    std, abar = 0.6, alphas_cumprod("squaredcos_cap_v2", 4000)
    step = timestep_of(torch.tensor([2 * sigma], dtype=torch.float64), abar)
    level = ((1 - abar[step]) / abar[step]).sqrt().item()
    assert 2 * sigma <= level < 2 * sigma * 1.003
    expected = ((2 * x - 1) * std**2 / (std**2 + level**2) + 1) / 2
    assert torch.allclose(OneStepDDPM(ExactNoise(abar, std), abar).denoise(x, sigma), expected, atol=1e-12)


def test_sigma_may_differ_between_images(x):
    sigma = torch.tensor([0.1, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    for purifier in (PFODE(gaussian_mean), OneStepEDM(Exact(lambda t: edm_scalings(t, 0.75), 0.6), 0.75)):
        together = purifier.denoise(x, sigma)
        alone = torch.cat([purifier.denoise(x[i : i + 1], float(sigma[i])) for i in range(5)])
        assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_pf_ode_of_gaussian_data(x, sigma):
    """The flow scales x by S / sqrt(S^2 + sigma^2)."""
    end = PFODE(gaussian_mean, steps=400).denoise(x, sigma)
    assert torch.allclose(end, x * S / math.sqrt(S**2 + sigma**2), atol=2e-5)


def mixture_mean(weights, means, std):
    """The posterior mean of a mixture of Gaussians in the channels of an image of one pixel."""

    def denoise(x, sigma):
        variance = std**2 + sigma.view(-1, 1) ** 2
        offsets = x[:, None, :, 0, 0] - means  # n K d
        logits = weights.log() - (offsets**2).sum(-1) / (2 * variance) - means.shape[1] / 2 * variance.log()
        each = means + (std**2 / variance)[..., None] * offsets
        return (logits.softmax(1)[..., None] * each).sum(1)[:, :, None, None]

    return denoise


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="CPUR_GOLDEN does not name the folder of the reference vectors")
def test_pf_ode_is_the_reference_sampler():
    config, arrays = json.loads((GOLDEN / "config.json").read_text()), np.load(GOLDEN / "io.npz")
    gaussian, mixture = config["gaussian"], config["mixture"]
    data = {"gaussian": ([1.0], [gaussian["mu"]], [gaussian["s"]])}
    data["mixture"] = [mixture[key] for key in ("weights", "means", "std")]
    means = {
        name: mixture_mean(*(torch.tensor(value, dtype=torch.float64) for value in values))
        for name, values in data.items()
    }
    for run in config["runs"]:
        for name, denoise in means.items():
            start, end = (torch.from_numpy(arrays[f"{run['tag']}_{name}_{what}"]) for what in ("start", "end"))
            purifier = PFODE(denoise, run["num_steps"], run["sigma_min"], float(run["rho"]))
            assert purifier.network_calls == run["denoiser_calls"]
            found = purifier.denoise(start[:, :, None, None], run["sigma_max"])[:, :, 0, 0]
            torch.testing.assert_close(found, end, rtol=1e-10, atol=1e-12)


def test_heun_is_of_second_order(x):
    """Before the last step, which is Euler's, halving the step divides the error by four."""
    sigma, low = 1.0, 0.1
    exact = x * math.sqrt((S**2 + low**2) / (S**2 + sigma**2))
    errors = []
    for steps in (20, 39, 77):  # steps - 1 intervals: doubled each time
        *_, before_last, _ = PFODE(gaussian_mean, steps=steps, sigma_min=low).path(x, sigma)
        errors.append((before_last - exact).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert 3.7 < coarse / fine < 4.3


def test_two_points_tanh_against_sign(x):
    x = x[x.abs() > 0.05].view(1, 1, 1, -1)
    sigma = torch.tensor([1.0], dtype=torch.float64)
    end = PFODE(two_points, steps=200).denoise(x, 1.0)
    assert torch.allclose(end, x.sign(), atol=1e-3)
    assert torch.equal(two_points(x, sigma), torch.tanh(x))


def test_consistency_boundary(x):
    """f(y, t_min) = y, whatever the network says."""
    sigma_min = 0.002
    model = Consistency(nn.Conv2d(1, 1, 1).double(), 0.75, sigma_min)
    model.network = type("Anything", (nn.Module,), {"forward": lambda self, y, t, labels=None: y.exp()})()
    assert torch.allclose(model.denoise(x, sigma_min / 2), x, atol=1e-15)
    assert not torch.allclose(model.denoise(x, 0.5), x, atol=0.1)


def test_discrete_consistency_takes_the_nearest_time(x):
    times = karras_sigmas(80.0, 0.002, 18)[:-1]
    seen = []
    network = type("Seen", (nn.Module,), {"forward": lambda self, y, t, labels=None: seen.append(t) or y})()
    for sigma in (0.25, 0.5, 1.0):
        Consistency(network, 0.5, 0.002, times).denoise(x, sigma)
    conditioned = [(t[0] / 250).exp().item() for t in seen]
    assert conditioned == pytest.approx([0.58535, 1.08817, 1.92334], abs=1e-4)


def test_scalings_follow_their_formulas():
    t = torch.tensor([0.002, 0.5, 3.0], dtype=torch.float64)
    c_skip, c_out, _ = edm_scalings(t, 0.5)
    assert torch.allclose(c_skip**2 * (t**2 + 0.25) + c_out**2, torch.full_like(t, 0.25))  # unit training target
    assert consistency_scalings(t, 0.5, 0.002)[0][0] == 1
    assert consistency_scalings(t, 0.5, 0.002)[1][0] == 0


def test_timestep_tables():
    t = torch.tensor([0.5, 1.0, 2.0])
    assert timestep_of(t, alphas_cumprod("squaredcos_cap_v2", 4000)).tolist() == [1158, 1984, 2809]
    assert timestep_of(t, alphas_cumprod("linear", 1000)).tolist() == [145, 259, 396]
    assert timestep_of(torch.tensor([1e9]), alphas_cumprod("linear", 1000)).tolist() == [999]


def test_karras_discretisation():
    grid = karras_sigmas(80.0, 0.002, 18)
    assert grid[0] == 80
    assert grid[-1] == 0
    assert grid[[1, 10, 17]].tolist() == pytest.approx([57.586, 1.0882, 0.002], rel=1e-4)


@pytest.mark.parametrize("name", ["onestep-ddpm", "onestep-edm", "pf-ode", "consistency"])
def test_embedded_purifiers_bring_images_closer(name):
    data = load_dataset("digits", "val")
    noisy = data.images + 0.5 * torch.randn(data.images.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        purified = load_purifier(name).denoise(noisy, 0.5)
    assert purified.shape == noisy.shape
    assert (purified - data.images).square().mean() < 0.35 * (noisy - data.images).square().mean()


def test_several_are_loaded_by_name_and_folder():
    loaded = load_purifiers(["none", "consistency@models/digits-consistency"])
    assert list(loaded) == ["none", "digits-consistency"]
    assert isinstance(loaded["digits-consistency"], Consistency)
    assert list(embedded_purifiers())[-1] == "digits-consistency-features"


def test_bad_input(rejected, x):
    with rejected("purifier must be one of"):
        load_purifier("ddpm")
    with rejected("has no checkpoint"):
        load_purifier("none", "models/digits-edm")
    with rejected("no checkpoint folder"):
        load_purifier("onestep-edm", "models/nowhere")
    with rejected("kind consistency"):
        load_purifier("consistency", "models/digits-edm")
    with rejected("digits-ddpm is a discrete diffusion model"):
        load_purifier("onestep-edm", "models/digits-ddpm")
    with rejected("sigma"):
        PFODE(gaussian_mean).denoise(x, 0.0)
