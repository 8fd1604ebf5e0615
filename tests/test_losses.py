"""Distances: closed forms, the form of LPIPS, and LPIPS itself with a backbone of random weights."""

import pytest
import torch
from torch import nn
from torchvision import models

from cpur.losses import LOSSES, LPIPS, WEIGHTS, Features, load_loss

MAKE = {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(0)
    return torch.rand(3, 1, 8, 8, generator=rng), torch.rand(3, 1, 8, 8, generator=rng)


def test_l1_and_l2(pair):
    x, y = pair
    assert torch.allclose(load_loss("l1")(x, y), (x - y).abs().mean((1, 2, 3)), atol=1e-7)
    assert torch.allclose(load_loss("l2")(x, y), ((x - y) ** 2).mean((1, 2, 3)), atol=1e-7)


class Known(nn.Module):
    """Two maps: the image beside a constant, and the image alone at half the size."""

    def features(self, x):
        return [torch.cat([x, torch.ones_like(x)], dim=1), nn.functional.avg_pool2d(x, 2)]


def test_features_are_a_distance_between_unit_vectors():
    x, y = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), -3.0)
    # First map: (3, 1)/sqrt(10) against (-3, 1)/sqrt(10), squared distance 36/10; second: 1 against -1, that is 4.
    assert Features(Known())(x, y).item() == pytest.approx(3.6 + 4, rel=1e-6)
    assert Features(Known())(x, 2 * x).item() == pytest.approx(2 - 2 * (18 + 1) / (10 * 37) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["features", "features-random", "features-autoencoder"])
def test_embedded_features(name, pair):
    distance, (x, y) = load_loss(name), pair
    assert torch.equal(distance(x, x), torch.zeros(3))
    assert (distance(x, y) > 0.1).all()
    x = x.clone().requires_grad_()
    distance(x, y).sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_the_networks_are_different_ones(pair):
    values = [load_loss(name)(*pair) for name in LOSSES if name.startswith("features")]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(values[one], values[two], rtol=0.05)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


def backbone(cache, net):
    """Random weights in the layout of torchvision, where torch's cache holds them."""
    torch.manual_seed(0)
    torch.save(MAKE[net]().state_dict(), cache / WEIGHTS[net].url.rsplit("/", 1)[1])


def test_lpips_with_its_backbone(cache, pair):
    backbone(cache, "squeeze")
    x, y = pair
    distance = load_loss("lpips", "squeeze")
    x = x.requires_grad_()
    value = distance(x, y)
    assert value.shape == (3,)
    assert (value > 0).all()
    assert torch.equal(distance(y, y), torch.zeros(3))
    value.sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()  # through the resize
    large = [nn.functional.interpolate(2 * z - 1, size=224, mode="bilinear").repeat(1, 3, 1, 1) for z in (x, y)]
    assert torch.allclose(value, distance.model(*large).flatten(), atol=1e-6)


@pytest.mark.parametrize("net", WEIGHTS)
def test_lpips_without_its_backbone_says_what_to_fetch(cache, net, rejected):
    with rejected(f"there is no {cache}.*download https://.*{WEIGHTS[net].url.rsplit('/', 1)[1]}"):
        LPIPS(net)


def test_a_damaged_backbone(cache, rejected):
    (cache / WEIGHTS["squeeze"].url.rsplit("/", 1)[1]).write_bytes(b"<html>not found</html>")
    with rejected("weights of the backbone squeeze in .* cannot be loaded"):
        LPIPS("squeeze")


def test_unknown_names(rejected):
    with rejected("loss must be one of l1, l2, lpips"):
        load_loss("L2")
    with rejected("lpips_net must be one of vgg"):
        load_loss("lpips", "resnet")
