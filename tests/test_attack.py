"""The attack: within the radius on exact classifiers, off the lattice, and able to fail."""

import numpy as np
import pytest
import torch
from conftest import HalfSpace
from scipy.stats import norm

from cpur.attack import INSIDE, Level, counts_at, failure_bound, pgd
from cpur.noise import LATTICE, NoiseKey
from cpur.smooth import ABSTAIN, majority

SIGMA = 0.5


@pytest.fixture
def half_space():
    """Class 1 where the sum of four pixels, at unit normal, exceeds 0.4."""
    return HalfSpace(torch.full((4,), 0.5), 0.4)


class Soft(torch.nn.Module):
    """The same with logits that a gradient can use."""

    def forward(self, x):
        score = 8 * (x.flatten(1) @ torch.full((4,), 0.5) - 0.4)
        return torch.stack([-score, score], 1)


def test_pgd_goes_straight_to_the_boundary():
    """Of a half-space, the point nearest to the boundary is one radius along its normal."""
    images = torch.tensor([[0.6, 0.6, 0.6, 0.6], [1.0, 0.2, 0.9, 0.5]]).view(2, 1, 2, 2)
    radii = torch.tensor([0.3, 0.1])
    found = pgd([Level(Soft(), SIGMA)], images, torch.tensor([1, 1]), radii)
    shift = (found - images).flatten(1)
    assert found.dtype == torch.float64
    torch.testing.assert_close(shift.norm(dim=1), INSIDE * radii.double(), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        shift, -radii.double()[:, None] * torch.full((2, 4), 0.5, dtype=torch.float64), atol=1e-3, rtol=0
    )
    assert (shift.norm(dim=1) < radii).all()


def test_a_sharp_certificate_holds_at_the_attacked_point_and_a_wrong_one_fails(half_space):
    """At distance d from the boundary p = Phi(d / sigma): PREDICT sees the other class just where R exceeds d."""
    image = torch.full((1, 1, 2, 2), 0.6)
    d = 0.8
    for radius, expected in ((0.7, 1), (0.9, 0)):
        attacked = pgd([Level(Soft(), SIGMA)], image, torch.tensor([1]), torch.tensor([radius]))[0]
        counts = counts_at(Level(half_space, SIGMA), attacked, 4000, 2, NoiseKey(0, "attacked", 0))
        assert counts.sum() == 4000
        assert counts[1] / 4000 == pytest.approx(norm.cdf((d - radius) / SIGMA), abs=0.04)
        assert majority(counts, 0.001 / 200) == expected


def test_off_the_lattice_the_sum_is_rounded():
    """Q(x' + sigma e), not x' + Q(sigma e): every pixel that the network sees is a lattice point."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 3)

    x = torch.full((1, 2, 2), 0.3 + 0.4 / LATTICE, dtype=torch.float64)
    counts = counts_at(Level(Spy(), 0.25), x, 130, 3, NoiseKey(1, "attacked", 5), batch_size=50)
    assert counts.tolist() == [130, 0, 0]
    assert [len(batch) for batch in seen] == [50, 50, 50]
    points = torch.cat(seen)[:130].double() * LATTICE
    torch.testing.assert_close(points, points.round(), atol=0.02, rtol=0)
    e = np.concatenate([NoiseKey(1, "attacked", 5).philox(block).standard_normal((64, 1, 2, 2)) for block in range(3)])
    np.testing.assert_allclose(points, np.rint((x.numpy() + 0.25 * e[:130]) * LATTICE), atol=0.02)


def test_keys_are_fresh(half_space):
    x = torch.full((1, 2, 2), 0.4, dtype=torch.float64)
    first, second = (counts_at(Level(half_space, SIGMA), x, 500, 2, NoiseKey(0, "attacked", i)) for i in (0, 1))
    assert first.tolist() != second.tolist()


def test_majority_abstains_in_doubt():
    assert majority(np.array([51, 49]), 0.001) == ABSTAIN
    assert majority(np.array([10, 90]), 0.001) == 1


def test_bound_by_hand():
    assert failure_bound(0, 200) == pytest.approx(1 - 0.05 ** (1 / 200))
    assert failure_bound(3, 3) == 1
