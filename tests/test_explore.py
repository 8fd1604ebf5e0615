"""What the explorer shows, against closed forms and against the rest of the package."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import HalfSpace
from scipy import stats

from cpur import Smooth
from cpur.bounds import certified_radius
from cpur.cascade import certify_counts
from cpur.classifiers import BaseClassifier
from cpur.explore import Choice, Stage, explore, load_stage, looks, path, purified
from cpur.explore_figures import cascade_figure, looks_figure, path_figure, pictures_figure
from cpur.figures import RIGHT, WRONG
from cpur.images import ImageSet
from cpur.plans import FRACTIONS
from cpur.purifiers import PFODE, NoPurifier, Purifier
from cpur.smooth import ABSTAIN
from cpur.views import Path, Pictures, Progress, cascade

MEAN, SPREAD = 0.5, 0.3


class Shrink(Purifier):
    """The posterior mean of pixels N(MEAN, SPREAD^2)."""

    def denoise(self, x, sigma):
        share = SPREAD**2 / (SPREAD**2 + torch.as_tensor(sigma, dtype=x.dtype).view(-1, 1, 1, 1) ** 2)
        return MEAN + share * (x - MEAN)


@pytest.fixture(scope="module")
def stage():
    """Half-spaces of two pixels: class 1 is right of 1/2; every probability is known."""
    pixels = torch.tensor([[160, 40], [100, 10]], dtype=torch.uint8).view(2, 1, 1, 2)
    data = ImageSet("two", "test", pixels, torch.tensor([1, 1]), num_classes=2)
    classifier = HalfSpace(torch.tensor([1.0, 0.0], dtype=torch.float64), 0.5)
    purifiers = {"none": NoPurifier(), "shrink": Shrink(), "flow": PFODE(Shrink(), steps=40)}
    return Stage(data, classifier, purifiers, n0=30, batch_size=64)


@pytest.mark.parametrize("purifier", ["none", "shrink"])
def test_the_counts_are_those_of_smooth(stage, purifier):
    choice = Choice(index=1, sigma=0.4, purifier=purifier, n=500, seed=7)
    states = []
    found = looks(stage, choice, states.append)
    base = BaseClassifier(stage.purifiers[purifier], stage.classifier, 0.4)
    smooth, image = Smooth(base, 2, 0.4, seed=7), stage.data[1][0]
    assert found.selected == smooth.counts(image, 30, 64, index=1, purpose="selection").argmax()
    assert [counts.sum() for counts in found.taken] == [round(500 * share) for share in FRACTIONS]
    for counts in found.taken:
        np.testing.assert_array_equal(counts, smooth.counts(image, int(counts.sum()), 64, index=1))
    sizes = [int(state.counts.sum()) for state in states]
    assert sizes == sorted(sizes)
    assert max(np.diff(sizes)) <= 64  # the work can be stopped at least once a batch
    assert sizes[-1] == 500


def test_looks_hold_the_bounds_of_their_plan(stage):
    found = looks(stage, Choice(0, 0.5, "none", n=2000))
    plan, hits = found.plan, [counts[1] for counts in found.taken]
    assert found.selected == found.prediction == 1
    for i, hit in enumerate(hits):
        exact = stats.binomtest(int(hit), plan.looks[i]).proportion_ci(1 - 2 * plan.alphas[i], "exact").low
        assert found.lower[i] == pytest.approx(exact, abs=1e-9)
        assert found.radii[i] == certified_radius(hit, plan.looks[i], plan.alphas[i], 0.5)
        assert found.best[i] == max(found.radii[: i + 1]) == pytest.approx(plan.radius(hits[: i + 1], 0.5))
        assert found.upto(i + 1).radius == found.best[i]
    true = 160 / 255 - 0.5  # distance to the plane: no certificate may be larger
    assert 0 < found.radius < true
    assert f"within radius {found.radius:.2f}, which is right" in found.caption


def test_an_abstention_is_said(stage):
    few = looks(stage, Choice(0, 0.5, "none", n=20))
    assert few.prediction == ABSTAIN
    assert few.radius == 0
    assert "the method abstains" in few.caption
    assert "Nothing is certified yet" in few.upto(1).caption


def test_the_cascade_is_that_of_its_counts(stage):
    choice = Choice(0, 1.0, "none", n=2000)
    levels = {sigma: looks(stage, replace(choice, sigma=sigma)) for sigma in stage.sigmas}
    view = cascade(stage.sigmas, levels, stage.alpha)
    selected = [levels[sigma].selected for sigma in stage.sigmas]
    assert view.certificate == certify_counts(view.counts, stage.sigmas, 0.001, selected=selected)
    for row, sigma in zip(view.counts, stage.sigmas, strict=True):
        base = BaseClassifier(stage.purifiers["none"], stage.classifier, sigma)
        np.testing.assert_array_equal(row, Smooth(base, 2, sigma).counts(stage.data[0][0], 2000, 64))
    # P(class 1) at sigma 1 is Phi(0.127) = 0.55: the first level that is sure is the largest with 2,000 samples.
    assert view.halts == int(np.flatnonzero(view.lower > 0.5)[0])
    assert f"halts at σ = {stage.sigmas[view.halts]:g} with class 1" in view.caption


def test_levels_not_yet_sampled_certify_nothing(stage):
    first = cascade(stage.sigmas, {1.0: looks(stage, Choice(0, 1.0, "none", n=20))}, stage.alpha)
    assert first.halts is None
    assert first.certificate.prediction == ABSTAIN
    assert first.counts.sum(1).tolist() == [20, 0, 0]
    assert first.caption == "No level has halted yet."


def test_pictures_and_path_share_their_noise(stage):
    choice = Choice(0, 0.5, "none", seed=3)
    pictures, way = purified(stage, choice), path(stage, choice)
    assert pictures.names == ("clean", "noisy", "shrink", "flow")
    assert pictures.calls == (0, 0, 1, 79)
    torch.testing.assert_close(pictures.images[0], stage.data[0][0])
    torch.testing.assert_close(pictures.images[2:3], Shrink().denoise(pictures.images[1:2], 0.5))
    torch.testing.assert_close(way.states.images[[0, -1]], pictures.images[[1, 3]])
    # The trajectory in closed form: the deviation from the mean shrinks with sqrt(SPREAD^2 + sigma^2).
    scale = SPREAD / (SPREAD**2 + 0.25) ** 0.5
    torch.testing.assert_close(way.states.images[-1], MEAN + scale * (pictures.images[1] - MEAN), atol=2e-3, rtol=0)
    assert (len(way.levels), way.levels[0], way.levels[-1]) == (41, 0.5, 0.0)
    assert way.states.calls[:3] + way.states.calls[-1:] == (0, 2, 4, 79)
    assert way.jumps.names == ("shrink",)
    assert pictures.seen == tuple((pictures.images[:, 0, 0, 0] > 0.5).long().tolist())
    assert path(replace(stage, purifiers={"none": NoPurifier()}), choice) is None


def test_explore_hands_over_the_quick_things_first(stage):
    found = []
    explore(stage, Choice(0, 0.5, "shrink", n=100), found.append)
    kinds = [type(result).__name__ for result in found]
    assert kinds[:2] == ["Pictures", "Path"]
    assert list(dict.fromkeys(kinds)) == ["Pictures", "Path", "Looks", "Progress", "CascadeView"]
    assert kinds.count("CascadeView") == len(stage.sigmas)
    assert isinstance(found[-1].certificate.radius, float)
    assert Progress("Cascade: 100 of 100 samples at σ = 0.25.") in found


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sigma": 0.0}, "sigma must lie"),
        ({"n": 0}, "n must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"index": 2}, "index must be below 2"),
        ({"purifier": "magic"}, "purifier must be one of none, shrink, flow"),
    ],
)
def test_bad_choices(stage, change, match, rejected):
    values = {"index": 0, "sigma": 0.5, "purifier": "none"} | change
    with rejected(match):
        explore(stage, Choice(**values), lambda _: None)


def test_figures_show_what_was_computed(stage):
    choice = Choice(0, 0.5, "none", n=400, seed=3)
    found = looks(stage, choice)
    votes, bound, radius = looks_figure(found).axes
    assert [bar.get_width() for bar in votes.patches] == pytest.approx((found.counts / 4).tolist())
    np.testing.assert_allclose(bound.get_lines()[0].get_ydata(), found.lower)
    np.testing.assert_allclose(radius.get_lines()[1].get_ydata(), found.best)
    pictures = purified(stage, choice)
    frames = [patch.get_edgecolor() for patch in pictures_figure(pictures).axes[0].patches]
    colors = [tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)) for color in (WRONG, RIGHT)]
    assert [frame[:3] for frame in frames] == [colors[seen == pictures.label] for seen in pictures.seen]
    way = path(replace(stage, purifiers=stage.purifiers | {"flow": PFODE(Shrink(), steps=4)}), choice)
    assert isinstance(way, Path)
    assert isinstance(way.jumps, Pictures)
    assert len(path_figure(way).axes[0].images) == 5 + 2
    levels = {sigma: looks(stage, replace(choice, sigma=sigma)) for sigma in stage.sigmas[:2]}
    texts = [text.get_text() for text in cascade_figure(cascade(stage.sigmas, levels, 0.001)).axes[0].texts]
    assert texts[-1] == "not sampled yet"


def test_the_embedded_stage():
    stage = load_stage()
    assert list(stage.purifiers)[:5] == ["none", "onestep-ddpm", "onestep-edm", "pf-ode", "consistency"]
    pictures = purified(stage, Choice(12, 0.25, "consistency"))
    assert pictures.images.shape == (7, 1, 8, 8)
    assert pictures.seen[0] == pictures.label
