"""The lattice and the keyed noise."""

import numpy as np
import torch
from scipy import stats

from cpur.noise import BLOCK, LATTICE, NoiseKey, from_lattice, lattice_noise, noisy_batches, to_lattice

CPU = torch.device("cpu")


def draw(n, batch_size, sigma=0.5, x=None, **key):
    x = torch.full((1, 4, 4), 0.25) if x is None else x
    name = NoiseKey(**{"seed": 0, "purpose": "estimation", "image": 3, **key})
    return torch.cat([batch[:count] for batch, count in noisy_batches(x, sigma, n, batch_size, name)])


def test_lattice_holds_bytes_and_sixteenths():
    for values in (torch.arange(256, dtype=torch.float64) / 255, torch.arange(17, dtype=torch.float64) / 16):
        points = values * LATTICE
        assert torch.equal(points.round(), points)
        assert torch.equal(from_lattice(to_lattice(values.float())), values.float())


def test_same_noise_for_any_batch_size():
    whole = draw(1000, 1000)
    for batch_size in (1, 7, 64, 250, 999, 4096):
        assert torch.equal(draw(1000, batch_size), whole)
    assert torch.equal(draw(130, 100), whole[:130])


def test_batches_have_one_shape():
    shapes = {batch.shape for batch, _ in noisy_batches(torch.zeros(1, 2, 2), 1.0, 130, 50, NoiseKey(0, "a", 0))}
    counts = [count for _, count in noisy_batches(torch.zeros(1, 2, 2), 1.0, 130, 50, NoiseKey(0, "a", 0))]
    assert shapes == {(50, 1, 2, 2)}
    assert counts == [50, 50, 30]


def test_keys_never_share_noise():
    keys = [{}, {"seed": 1}, {"purpose": "selection"}, {"image": 4}, {"level": 1}]
    draws = [draw(2 * BLOCK, BLOCK, **key).flatten() for key in keys]
    seen = torch.stack([block for one in draws for block in one.chunk(2)])
    assert len(seen.unique(dim=0)) == 2 * len(keys)
    correlation = torch.corrcoef(seen) - torch.eye(len(seen))
    assert correlation.abs().max() < 5 / seen.shape[1] ** 0.5


def test_every_word_of_the_key_arrives_whole():
    for word in ({"seed": 2**63 - 1}, {"image": 2**40 + 1}, {"level": 2**32 - 1}):
        key = NoiseKey(**{"seed": 0, "purpose": "estimation", "image": 0} | word)
        state = key.philox(2**33 + 1).bit_generator.state["state"]
        assert state["counter"].tolist() == [0, 0, 2**33 + 1, key.image]
        assert int(state["key"][0]) == key.seed
        assert int(state["key"][1]) % 2**32 == key.level


def test_pinned_values():
    """The noise is part of every record: a change is a new NOISE_VERSION and a minor version of cpur."""
    m = lattice_noise(NoiseKey(0, "estimation", 0), 0, (1, 2, 2), 0.5, CPU)
    assert m.shape == (BLOCK, 1, 2, 2)
    assert m[0].flatten().tolist() == PINNED


PINNED = [43573, 16649, -8958, 5951]


def test_noisy_image_is_a_function_of_the_integer_sum():
    """Two images and two noises with one sum are one input: no rounding tells them apart."""
    generator = np.random.default_rng(0)
    for pixels in (generator.integers(0, 256, (1, 8, 8)) / 255, generator.integers(0, 17, (1, 8, 8)) / 16):
        x = torch.from_numpy(pixels).float()
        noisy = draw(300, 100, x=x)
        points = (noisy.double() * LATTICE).round().long()
        assert torch.equal(from_lattice(points), noisy)
        key = NoiseKey(0, "estimation", 3)
        blocks = torch.cat([lattice_noise(key, b, x.shape, 0.5, CPU) for b in range(5)])[:300]
        assert torch.equal(points, to_lattice(x) + blocks)


def test_law_of_the_rounded_gaussian():
    """Four million draws against the exact probabilities of rounded normals (chi-square, p >= 1e-6)."""
    sigma = 3 / LATTICE  # few lattice points, so that each has a probability that can be counted
    m = torch.cat([lattice_noise(NoiseKey(7, "law", i), 0, (64, 64), sigma, CPU).flatten() for i in range(16)])
    points = np.arange(-12, 13)
    edges = stats.norm.cdf((np.arange(-12, 12) + 0.5) / 3)
    probability = np.diff(np.concatenate([[0.0], edges, [1.0]]))
    observed = np.bincount(np.clip(m.numpy(), -12, 12) + 12, minlength=len(points))
    assert stats.chisquare(observed, probability * len(m)).pvalue > 1e-6


def test_torch_seeds_differ_between_keys():
    seeds = {
        NoiseKey(seed, purpose, image, level).torch_seed(block)
        for seed in range(3)
        for purpose in ("selection", "estimation")
        for image in range(20)
        for level in range(3)
        for block in range(20)
    }
    assert len(seeds) == 3 * 2 * 20 * 3 * 20
    assert max(seeds) < 2**63
