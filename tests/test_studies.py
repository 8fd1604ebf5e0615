"""Training: what is minimised, that it falls, and that a seed gives the same weights."""

from dataclasses import replace

import pytest
import torch

from cpur import load_dataset
from cpur.augment import jitter
from cpur.purifiers import Consistency, OneStepEDM
from studies import pretrain


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", "train")


def test_posterior_mean_is_bayes_rule(data):
    images = data.images[:50].double()
    z, t = images[:3] + 0.3, torch.tensor([0.2, 0.5, 2.0], dtype=torch.float64)
    for row, level, mean in zip(z, t, pretrain.posterior_mean(z, t, images), strict=True):
        weight = torch.exp(-(row - images).square().flatten(1).sum(1) / (2 * level**2))
        expected = (weight.view(-1, 1, 1, 1) * images).sum(0) / weight.sum()
        assert torch.allclose(mean, expected, atol=1e-12)


SHORT = {
    "classifier": (pretrain.train_classifier, replace(pretrain.CLASSIFIER, steps=60, warmup=10)),
    "ddpm": (pretrain.train_ddpm, replace(pretrain.DDPM, steps=60, warmup=10, batch_size=64)),
    "edm": (pretrain.train_edm, replace(pretrain.EDM, steps=60, warmup=10, batch_size=64)),
}


@pytest.mark.parametrize("name", SHORT)
def test_loss_falls_and_a_seed_repeats(name, data):
    train, recipe = SHORT[name]
    first, again = train(data, recipe, seed=3), train(data, recipe, seed=3)
    assert first.history.loss.iloc[-10:].mean() < 0.7 * first.history.loss.iloc[0]
    for one, two in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    other = train(data, replace(recipe, steps=20), seed=4)
    assert any(not torch.equal(a, b) for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True))


def test_training_leaves_the_global_generator_alone(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain.train_edm(data, replace(pretrain.EDM, steps=8, warmup=2, batch_size=8))
    assert torch.equal(torch.rand(3), expected)


def test_consistency_tuning_starts_from_the_denoiser(data):
    edm = OneStepEDM(pretrain.new_network(), pretrain.SIGMA_DATA)
    before = [parameter.clone() for parameter in edm.parameters()]
    recipe = replace(pretrain.CONSISTENCY, steps=30, warmup=5, batch_size=32)
    tuned = pretrain.train_consistency(data, edm, recipe)
    assert isinstance(tuned.model, Consistency)
    assert all(torch.equal(a, b) for a, b in zip(before, edm.parameters(), strict=True))  # the EDM is kept
    assert tuned.history.loss.notna().all()


def test_consistency_loss_is_zero_for_a_consistency_function():
    """For one training image y, f = y everywhere is consistent: the loss vanishes."""
    images = torch.full((1, 1, 8, 8), 0.75)
    model = Consistency(torch.nn.Identity(), pretrain.SIGMA_DATA, pretrain.SIGMA_MIN)
    model.precondition = lambda y, t, scalings: (2 * images - 1).expand_as(y)
    loss = pretrain.consistency_loss(model, images)
    for progress in (0.0, 0.5, 0.99):
        assert loss(torch.zeros(16, dtype=torch.long), progress).item() == pytest.approx(0, abs=1e-6)


def test_classifier_never_sees_noise(data):
    """Its training images stay between the pixels of real ones."""
    jittered = jitter(data.images[:64])
    assert jittered.shape == (64, 1, 8, 8)
    assert jittered.min() >= 0
    assert jittered.max() <= 1
