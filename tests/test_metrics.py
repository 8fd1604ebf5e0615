"""FID, KID and nearest images against definitions; measures of a set of images."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

from cpur import load_dataset, load_purifier
from cpur.measures import floor, measure, measured, purified_images
from cpur.metrics import EXTRACTORS, INCEPTION, fid, kid, load_extractor, nearest


class Flat(nn.Module):
    """Pixels as features."""

    num_features = 4

    def forward(self, x):
        return x.flatten(1)


@pytest.fixture
def sets():
    rng = torch.Generator().manual_seed(0)
    return torch.rand(60, 1, 2, 2, generator=rng), torch.rand(60, 1, 2, 2, generator=rng) ** 2


def test_fid_is_the_formula(sets):
    one, two = (images.flatten(1).double().numpy() for images in sets)
    first, second = np.cov(one.T), np.cov(two.T)
    cross = np.trace(linalg.sqrtm(first @ second).real)
    gap = np.square(one.mean(0) - two.mean(0)).sum()
    assert fid(*sets, Flat()) == pytest.approx(gap + np.trace(first) + np.trace(second) - 2 * cross, rel=1e-5)
    assert fid(sets[0], sets[0], Flat()) == pytest.approx(0, abs=1e-5)


def test_kid_is_the_unbiased_formula(sets):
    one, two = (images.flatten(1).double().numpy() for images in sets)

    def kernel(a, b):
        return (a @ b.T / 4 + 1) ** 3

    m = len(one)
    within = [(kernel(a, a).sum() - np.trace(kernel(a, a))) / (m * (m - 1)) for a in (one, two)]
    assert kid(*sets, Flat()) == pytest.approx(sum(within) - 2 * kernel(one, two).mean(), rel=1e-6)


def test_kid_is_unbiased():
    """Zero on average for equal distributions, also for small sets: within five standard errors."""
    rng = torch.Generator().manual_seed(1)
    values = [kid(*torch.rand(2, 10, 1, 2, 2, generator=rng), Flat()) for _ in range(400)]
    assert abs(np.mean(values)) < 5 * np.std(values) / 20


def test_unequal_or_few_images_are_refused(sets, rejected):
    for metric in (fid, kid):
        with rejected("give equal ones; got 60 and 59"):
            metric(sets[0], sets[1][:59], Flat())
    with rejected("more images than the 4 features; got 4"):
        fid(sets[0][:4], sets[1][:4], Flat())


def test_nearest():
    pool = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
    assert nearest(torch.full((1, 1, 1, 1), 2.2), pool).item() == pytest.approx(0.8)
    assert nearest(pool, pool).tolist() == [0, 0, 0]
    assert nearest(pool, pool, own=True).tolist() == [1, 1, 2]


def test_inception_says_what_to_fetch(tmp_path, monkeypatch, rejected):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with rejected(f"there is no {tmp_path}.*download {INCEPTION}"):
        load_extractor("inception")
    with rejected("features must be one of digits-fid, inception"):
        load_extractor("vgg")


def test_inception_with_weights_of_its_layout(tmp_path, monkeypatch):
    """Random weights where torch's cache would hold the real ones."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    # Its constructor wants weights: an empty object of the class has none to give, so the layers are asked one by one.
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
    file = tmp_path / "hub/checkpoints" / INCEPTION.rsplit("/", 1)[1]
    torch.save({}, file)
    torch.manual_seed(0)
    network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file))
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save(network.state_dict(), file)
    features = load_extractor("inception")
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    out = features(images)
    assert out.shape == (2, features.num_features)
    eight_bit = (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    assert torch.equal(out, network.eval()(eight_bit)[0])


@pytest.fixture(scope="module")
def digits():
    return (
        load_dataset("digits", "test", subset="every-5"),
        load_dataset("digits", "train"),
        EXTRACTORS["digits-fid"]().eval(),
    )


def test_purified_images_depend_on_the_seed_alone(digits):
    clean, purifier = digits[0], load_purifier("onestep-edm")
    first = purified_images(purifier, clean, 0.5, 0)
    assert torch.allclose(first, purified_images(purifier, clean, 0.5, 0, batch_size=33), atol=1e-6)
    assert not torch.allclose(first, purified_images(purifier, clean, 0.5, 1), atol=1e-2)


def test_measures_of_clean_and_of_purified_images(digits):
    clean, train, features = digits
    same = measure(clean.images, clean, train, features)
    assert (same["T"], same["squared"]) == (0, 0)
    assert same["W1"] == pytest.approx(0, abs=1e-6)
    assert same["FID"] == pytest.approx(0, abs=1e-3)
    frame = measured({"onestep-edm": load_purifier("onestep-edm")}, clean, train, features, (0.25, 0.5), (0, 1))
    assert len(frame) == 4
    assert (frame["T"] + 1e-9 >= frame.W1).all()  # a theorem, for the pairs of a sample
    assert (frame["T"] ** 2 <= frame.squared).all()
    assert frame["T"][frame.sigma == 0.5].min() > frame["T"][frame.sigma == 0.25].max()
    assert floor(clean, train, features)["FID"] > 0
