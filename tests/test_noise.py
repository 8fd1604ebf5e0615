"""The lattice and the keyed noise."""

import numpy as np
import pytest
import torch
from scipy import stats

from cpur.noise import BLOCK, LATTICE, NoiseKey, NoiseStream, from_lattice, lattice_noise, noisy_images, to_lattice

CPU = torch.device("cpu")


def draw(n, sigma=0.5, x=None, **key):
    x = torch.full((1, 4, 4), 0.25) if x is None else x
    return noisy_images(x, sigma, n, NoiseKey(**{"seed": 0, "purpose": "estimation", "image": 3, **key}))


def test_lattice_holds_bytes_and_sixteenths():
    for values in (torch.arange(256, dtype=torch.float64) / 255, torch.arange(17, dtype=torch.float64) / 16):
        points = values * LATTICE
        assert torch.equal(points.round(), points)
        assert torch.equal(from_lattice(to_lattice(values.float())), values.float())


@pytest.mark.parametrize("sizes", [[1000], [1] * 70, [7] * 100, [64] * 5, [63, 65, 1, 127], [999, 1]])
def test_same_noise_however_it_is_taken(sizes):
    key = NoiseKey(0, "estimation", 3)
    stream = NoiseStream(key, (1, 4, 4), 0.5, CPU)
    taken = torch.cat([stream.take(size) for size in sizes])
    assert [len(taken)] == [sum(sizes)]
    assert torch.equal(taken, NoiseStream(key, (1, 4, 4), 0.5, CPU).take(1000)[: len(taken)])


def test_keys_never_share_noise():
    keys = [{}, {"seed": 1}, {"purpose": "selection"}, {"image": 4}, {"level": 1}]
    draws = [draw(2 * BLOCK, **key).flatten() for key in keys]
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
    m = lattice_noise(NoiseKey(0, "estimation", 0), range(1), (1, 2, 2), 0.5, CPU)
    assert m.shape == (BLOCK, 1, 2, 2)
    assert m[0].flatten().tolist() == PINNED


PINNED = [43573, 16649, -8958, 5951]


def test_noisy_image_is_a_function_of_the_integer_sum():
    """Two images and two noises with one sum are one input: no rounding tells them apart."""
    generator = np.random.default_rng(0)
    for pixels in (generator.integers(0, 256, (1, 8, 8)) / 255, generator.integers(0, 17, (1, 8, 8)) / 16):
        x = torch.from_numpy(pixels).float()
        noisy = draw(300, x=x)
        points = (noisy.double() * LATTICE).round().long()
        assert torch.equal(from_lattice(points), noisy)
        key = NoiseKey(0, "estimation", 3)
        blocks = lattice_noise(key, range(5), x.shape, 0.5, CPU)[:300]
        assert torch.equal(points, to_lattice(x) + blocks)


def millions(sigma, blocks, purpose, shape=(125, 125)):
    """Draws in blocks of a million, each under an image of its own."""
    for image in range(blocks):
        yield lattice_noise(NoiseKey(7, purpose, image), range(1), shape, sigma, CPU).flatten().numpy()


def exact_law(edges, s):
    """Probabilities that round(s e), e standard normal, falls between half-integer edges."""
    return np.diff(np.concatenate([[0.0], stats.norm.cdf(edges / s), [1.0]]))


def test_law_of_the_rounded_gaussian_point_by_point():
    """Ten million draws with so small a sigma that each lattice point has a probability that can be counted."""
    edges = np.arange(-12, 12) + 0.5
    observed = sum(np.histogram(m, [-np.inf, *edges, np.inf])[0] for m in millions(3 / LATTICE, 10, "points"))
    assert observed.sum() == 10_000_000
    assert stats.chisquare(observed, exact_law(edges, 3) * observed.sum()).pvalue > 1e-6


def test_a_hundred_million_draws_follow_the_law():
    """Chi-square over 2,000 cells, moments, and tails, at sigma 0.5: each fails only below p = 1e-6."""
    s = 0.5 * LATTICE
    cell = 80  # lattice points a cell, within 5 sigma: the exact probabilities are those of half-integer edges
    edges = np.arange(-2000, 2001) * cell + 0.5
    cells, moments, tails, n = np.zeros(len(edges) + 1, dtype=np.int64), np.zeros(4), np.zeros(3, dtype=np.int64), 0
    depths = np.array([4, 5, 5.5])
    for m in millions(0.5, 100, "law"):
        cells += np.bincount(np.searchsorted(edges, m), minlength=len(cells))
        z = m / s
        square = z * z
        moments += [z.sum(), square.sum(), (square * z).sum(), (square * square).sum()]
        tails += [np.count_nonzero(square >= depth * depth) for depth in depths]
        n += len(m)
    assert n >= 100_000_000
    law = exact_law(edges, s)
    likely = law * n >= 20
    observed = np.append(cells[likely], cells[~likely].sum())
    expected = np.append(law[likely], law[~likely].sum()) * n
    assert stats.chisquare(observed, expected).pvalue > 1e-6
    # Moments of a standard normal; rounding adds 1 / (12 s^2), which is 1e-10.
    spread = np.sqrt(np.array([1, 2, 15, 96]) / n)
    assert (np.abs(moments / n - [0, 1, 0, 3]) < stats.norm.isf(5e-7) * spread).all()
    for depth, count in zip(depths, tails, strict=True):
        p = 2 * stats.norm.sf((np.ceil(depth * s) - 0.5) / s)
        assert stats.binomtest(int(count), n, p).pvalue > 1e-6


def test_keys_are_independent():
    """The same rows and columns under keys that differ in one word: their product has the law of independence."""
    keys = [{}, {"seed": 1}, {"purpose": "selection"}, {"image": 4}, {"level": 1}]
    pixels = torch.zeros(1, 32, 32)
    draws = [draw(1024, x=pixels, **key).flatten().double() * 2 for key in keys]
    n = draws[0].numel()
    draws += [draws[0].roll(1), draws[0].roll(1024)]  # and neighbours of one stream
    for i, one in enumerate(draws):
        for other in draws[:i]:
            for f in (lambda e: e, lambda e: (e * e - 1) / 2**0.5):  # correlation of values, and of squares
                z = float((f(one) * f(other)).sum()) / n**0.5
                assert 2 * stats.norm.sf(abs(z)) > 1e-6


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
