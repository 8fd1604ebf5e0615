"""The study of steps, samples, the threshold and levels: closed forms, a tiny run, and the committed records."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from cpur.bounds import certified_radius
from cpur.cascade import level_bounds
from cpur.classifiers import classifier_hash
from cpur.errors import InputError
from cpur.multiscale import LevelCounts
from cpur.paired import accuracy_difference, best_difference
from cpur.plans import minimum_hits
from cpur.purifiers import PFODE, load_purifier
from cpur.records import record_files
from cpur.transport import Mixture
from cpur.verify import recertify
from studies import fewer, levels
from studies import sampling as study_of
from studies.fewer import EPSILONS, Hits, outcome, projected, thinned
from studies.samplers import Euler, MultiStep, Spec, keyed_noise, sampled
from studies.sampling import CHOICES, MEASURED, TRANSPORT, Row, Study, chosen
from studies.sampling_figures import steps_figure, transport_figure
from studies.sampling_tables import StepRecords, mean_accuracy, mean_interval, stated_table

COMMITTED = Study()


@pytest.fixture(scope="module")
def noisy():
    rng = torch.Generator().manual_seed(0)
    points = torch.randint(-60_000, 120_000, (6, 1, 8, 8), generator=rng)
    return points / 65_280


def test_thinning_is_hypergeometric():
    runs, hits, n, looks = 20_000, 6, 9, (2, 5, 9)
    found = thinned(np.array([hits]), n, looks, runs, np.random.default_rng(0))[:, 0]
    assert (found[:, -1] == hits).all()
    assert (np.diff(found, axis=1) >= 0).all()
    for k, look in enumerate(looks[:-1]):
        law = stats.hypergeom(n, hits, look)
        assert law.mean() == pytest.approx(hits * look / n)  # the mean is exact
        for value in range(look + 1):
            seen = int((found[:, k] == value).sum())
            assert stats.binomtest(seen, runs, law.pmf(value)).pvalue > 1e-6
    # The second look given the first: what is left is drawn from.
    given = found[found[:, 0] == 2, 1] - 2
    law = stats.hypergeom(n - 2, hits - 2, 3)
    assert stats.binomtest(int((given == 3).sum()), len(given), law.pmf(3)).pvalue > 1e-6


def test_projection_has_the_mean_of_its_posterior():
    found = projected(np.array([90]), 100, (1000, 4000), 20_000, np.random.default_rng(0))[:, 0]
    p = 90.5 / 101
    spread = math.sqrt(p * (1 - p) / 102 / len(found)) * 4000 + 1
    assert abs(found[:, 1].mean() - 4000 * p) < 5 * spread
    assert (found[:, 1] - found[:, 0] <= 3000).all()


def some_hits(n=10_000, sigma=0.5):
    hits = np.array([n, n, 9990, 8600, 5300, 4000])
    return Hits(hits, np.array([True, False, True, True, True, True]), n, 100, 0.001, sigma)


def test_all_samples_give_the_record_again():
    counted = some_hits()
    found = outcome(counted, "fixed", counted.n, runs=3)
    radius = certified_radius(counted.hits, counted.n, counted.alpha, counted.sigma)
    assert found.acr[0] == pytest.approx(radius * counted.right)
    best = [max((e for e in EPSILONS if r >= e and r > 0), default=-1) for r in radius * counted.right]
    assert found.radii[2, 0].tolist() == best
    assert (found.samples == 10_100).all()


def test_thinned_accuracy_is_that_of_the_exact_law():
    counted, runs, n = some_hits(), 4000, 100
    found = outcome(counted, "fixed", n, runs)
    for epsilon in (0.0, 0.25, 0.5):
        needed = minimum_hits(n, counted.alpha, counted.sigma, epsilon)
        for k in (2, 3, 4):
            exact = stats.hypergeom(counted.n, counted.hits[k], n).sf(needed - 1)
            seen = int((found.radii[:, 0, k] >= epsilon).sum())
            assert stats.binomtest(seen, runs, exact).pvalue > 1e-6


def test_a_sure_image_stops_early_and_loses_nothing():
    counted = some_hits()
    early, late = (outcome(counted, plan, counted.n, runs=2) for plan in ("sequential", "fixed"))
    assert (early.radii[:, 0, 0] == 1).all()
    assert (early.radii[:, 0, 1] == -1).all()  # the wrong class, however sure
    assert (early.samples[:, 0] < 2000).all()
    assert early.acr is None
    assert fewer.saving({("fixed", 10_000): late, ("sequential", 10_000): early}) > 1
    assert outcome(counted, "fixed", 100_000, runs=1).is_projected


def test_table_of_plans():
    counted = some_hits()
    found = {("fixed", n): outcome(counted, "fixed", n, 2) for n in (100, 10_000, 100_000)}
    table = fewer.plans_table(found)
    assert table.index.tolist() == [("fixed", "100"), ("fixed", "10,000"), ("fixed", "100,000, projected")]
    assert table["samples an image"].tolist() == ["200", "10,100", "100,100"]
    assert table["points minus fixed, 10,000"].iloc[1] == ""
    assert table["points minus fixed, 10,000"].iloc[0].startswith("-")


def test_a_mean_is_a_difference_from_zero():
    rng = np.random.default_rng(3)
    for shape in ((1, 40), (3, 40)):
        radii = rng.uniform(-0.3, 1, size=shape)[:, None]
        assert mean_accuracy(radii) == accuracy_difference(radii, np.full_like(radii, -1), EPSILONS)
        assert mean_interval(radii[:, 0]).low == pytest.approx(
            best_difference(radii[:, :, None], 0 * radii[:, :, None]).low
        )


def test_one_step_of_the_ode_is_the_denoiser(noisy):
    edm = load_purifier("onestep-edm")
    with torch.inference_mode():
        for one in (Euler(edm, 1), PFODE(edm, 1)):
            assert one.network_calls == 1
            assert torch.allclose(one.denoise(noisy, 0.5), edm.denoise(noisy, 0.5), atol=1e-6)


def test_both_methods_follow_the_flow_and_heun_follows_closer():
    x = torch.linspace(-2, 2, 8, dtype=torch.float64).view(2, 1, 2, 2)
    s, sigma = 0.3, 0.5
    gaussian = Mixture(torch.zeros(1, 1, 2, 2, dtype=torch.float64), std=s)
    exact = x * s / math.hypot(s, sigma)
    # 9 calls each, and then many.
    gaps = {
        name: float((solver.denoise(x, sigma) - exact).abs().max())
        for name, solver in {
            "euler": Euler(gaussian, 9),
            "heun": PFODE(gaussian, 5),
            "many": Euler(gaussian, 2000),
        }.items()
    }
    assert gaps["heun"] < gaps["euler"]
    assert gaps["many"] < 2e-3


def test_euler_takes_a_level_for_each_image(noisy):
    euler = Euler(load_purifier("onestep-edm"), 3)
    with torch.inference_mode():
        both = euler.denoise(noisy, torch.tensor([0.25, 0.5] * 3))
        assert torch.allclose(both[1::2], euler.denoise(noisy[1::2].contiguous(), 0.5), atol=1e-5)


def test_multi_step_sampling_is_a_function_of_its_input(noisy):
    model = load_purifier("consistency")
    with torch.inference_mode():
        assert torch.equal(MultiStep(model, 1, 0.1).denoise(noisy, 0.5), model.denoise(noisy, 0.5))
        two = MultiStep(model, 2, 0.25)
        found = two.denoise(noisy, 0.5)
        assert torch.allclose(found.flip(0), two.denoise(noisy.flip(0), 0.5), atol=1e-6)
        std = math.sqrt(0.125**2 - 0.001**2)
        by_hand = model.denoise(model.denoise(noisy, 0.5) + std * keyed_noise(noisy, 1), 0.125)
        assert torch.allclose(found, by_hand, atol=1e-6)
        assert not torch.allclose(found, model.denoise(noisy, 0.5), atol=1e-3)


def test_keyed_noise(noisy):
    moved = noisy.clone()
    moved[0, 0, 0, 0] += 1 / 65_280
    first, second = keyed_noise(noisy, 1), keyed_noise(moved, 1)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1:], second[1:])
    assert not torch.equal(first, keyed_noise(noisy, 2))
    many = keyed_noise(torch.arange(500).view(500, 1, 1, 1).expand(500, 1, 8, 8) / 65_280, 1).flatten()
    assert stats.kstest(many.numpy(), "norm").pvalue > 1e-6


def test_a_sampler_has_a_name_and_a_hash():
    assert str(Spec.parse("heun-3:0.01")) == "heun-3:0.01"
    texts = ("euler-2:0.01@0.5", "euler-2:0.01@0.25", "heun-2:0.01@0.5")
    assert len({classifier_hash("studies.samplers:sampled", text) for text in texts}) == 3
    assert sampled(texts[0]).sigma == 0.5
    for family, steps, calls in (("euler", 3, 3), ("heun", 3, 5), ("consistency", 2, 2)):
        assert Row(family, steps, 0.5, 0.1).purifier.network_calls == Row(family, steps, 0.5, 0.1).calls == calls


def test_the_first_value_is_kept_where_no_other_gains(tmp_path):
    table = pd.DataFrame(
        {
            "sampler": ["a"] * 3 + ["b"] * 2,
            "value": [1.0, 2.0, 3.0, 1.0, 2.0],
            "sigma": 0.5,
            "right": [0.9, 0.9005, 0.95, 0.9, 0.9005],
        }
    )
    table.to_csv(tmp_path / "choices.csv", index=False)
    assert chosen(tmp_path / "choices.csv") == {("a", 0.5): 3.0, ("b", 0.5): 1.0}


def test_records_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(study_of, "STEPS", {"euler": (2,)})
    monkeypatch.setattr(study_of, "MEASURED", (0.5,))
    monkeypatch.setattr(study_of, "ONE_CALL", {"onestep-edm": {"purifier": "onestep-edm"}})
    study = Study(str(tmp_path / "records"), str(tmp_path / "work"), (0.5,), n=50, num_images=3, votes=1)
    with pytest.raises(InputError, match="python -m studies"):
        study.load(Row("onestep-edm", 1, 0.5))
    study.make_all()
    tried = pd.read_csv(study.folder / CHOICES)
    assert len(tried) == 3
    assert tried.right.between(0.5, 1).all()
    assert len(record_files(study.folder)) == 2
    assert all(len(study.load(row)[1]) == 3 for row in study.rows(0.5))
    moved = pd.read_csv(study.folder / TRANSPORT)
    assert moved["T_more"][0] == 0
    assert moved["T_more"][1] == pytest.approx(moved["T"][1] - moved["T"][0], abs=2e-5)
    files = {file: file.stat().st_mtime_ns for file in study.folder.iterdir()}
    study.make_all()
    assert files == {file: file.stat().st_mtime_ns for file in study.folder.iterdir()}


def test_committed_rows_have_equal_images_and_samples():
    assert COMMITTED.folder.is_dir()
    headers = [COMMITTED.load(row) for sigma in COMMITTED.sigmas for row in COMMITTED.rows(sigma)]
    assert {(len(frame), header["config"]["n"]) for header, frame in headers} == {(100, 1000)}
    known = {COMMITTED.file(row) for sigma in COMMITTED.sigmas for row in COMMITTED.rows(sigma)}
    assert set(record_files(COMMITTED.folder)) <= known  # no record is left over


def test_committed_records_are_certified_again():
    rows = [COMMITTED.rows(sigma)[k] for sigma, k in ((0.25, 4), (0.5, 5))]
    for row in rows:
        assert [index for index, _ in recertify(COMMITTED.file(row), 2)] == [0, 1]


def test_tables_and_figures_of_the_committed_records():
    steps = StepRecords(COMMITTED)
    table = steps.table(0.5)
    assert table.loc["one-step EDM", "points minus one-step EDM"] == ""
    assert table["calls"].tolist() == sorted(table["calls"])
    assert set(steps.transport_table()) == {"calls", *(f"T, sigma {sigma:g}" for sigma in MEASURED)}
    moved = steps.moved("heun", 8, 0.5)
    assert moved.low < moved.estimate < moved.high
    assert len(steps.transport_comparisons()) == 3 * len(MEASURED)
    compared = steps.comparisons()
    assert len(compared) == 2 * len(steps.pairs(0.5))
    assert set(compared["points lie"]) | set(compared["ACR lies"]) <= {"above 0", "below 0", "contains 0"}
    for ours, theirs in steps.pairs(0.5):
        found, back = steps.acr_difference(ours, theirs), steps.acr_difference(theirs, ours)
        assert found.estimate == pytest.approx(-back.estimate)
    assert "At σ = 0.25" in steps.in_words()
    for figure, panels in ((steps_figure(steps), 4), (transport_figure(steps), 3)):
        assert len(figure.axes) == panels
        assert all(axes.get_xlabel() for axes in figure.axes[-2:])
        assert figure.axes[0].get_ylabel()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_level_more_never_changes_the_guarantee(count):
    alpha, classes, n = 0.001, 10, 1000
    counts = np.zeros((count, classes), np.int64)
    counts[:, 0] = n
    lower, upper = level_bounds(counts, np.zeros(count, int), alpha)
    # All hits: the bound is share^(1/n). No hits: 1 - share^(1/n), which here the complement may undercut.
    own = lower[:, 0] ** n
    zero = counts.copy()
    zero[:, 0] = 0
    zero[:, 1:3] = n // 2
    others = (1 - level_bounds(zero, np.zeros(count, int), alpha)[1][:, 5]) ** n
    assert own.sum() + classes * others.sum() == pytest.approx(alpha, rel=1e-6)
    assert (upper[:, 1:] <= 1 - lower[:, :1]).all()


def test_behaviour_of_planted_counts():
    # Three levels, from the smallest sigma up: halts at 1.0; at 0.25, wrongly; nowhere.
    counts = np.array([[[9, 1], [8, 2], [7, 3]], [[9, 1], [5, 5], [5, 5]], [[5, 5], [5, 5], [5, 5]]])
    planted = LevelCounts({}, [], (0.25, 0.5, 1.0), np.arange(3), np.array([0, 1, 0]), counts.argmax(-1), counts)
    found = levels.behaviour(planted)
    assert found["levels asked"].tolist() == [1, 3, 3]
    assert found["over-smoothing %"].tolist() == [0, 0, 100]
    assert found["over-confidence %"].tolist() == [0, 100, 0]


def test_levels_of_the_committed_counts():
    assert len(levels.subsets()) == 15
    assert all(set(fewer) < set(more) for fewer, more in zip(levels.CHAIN, levels.CHAIN[1:], strict=False))
    table = levels.levels_table()
    assert table["levels asked"].astype(float).is_monotonic_increasing
    assert (table["over-smoothing %"].astype(float).diff().dropna() <= 0).all()
    by_max, by_first = (levels.radii(levels.LARGE, levels.CHAIN[2], rule) for rule in levels.RULES)
    assert (by_max.clip(0) >= by_first.clip(0)).all()  # on the same bounds
    found = stated_table(levels.threshold_findings())
    assert set(found.verdict) <= {"held", "did not hold", "undecided"}
    assert found["rests on"].str.endswith("500 images, 3 seeds").all()
