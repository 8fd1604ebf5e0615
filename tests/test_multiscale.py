"""Cascades from the records of single levels, their tables and figures, and the predictor."""

import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from cpur.cascade import cascade_radii
from cpur.config import CertifyConfig, MultiscaleConfig
from cpur.engine import certify_dataset, prepare
from cpur.line import EXAMPLE, line_figure
from cpur.multiscale import (
    LevelCounts,
    cascades_table,
    certify_levels,
    collective_objective,
    cost,
    error_split,
    find_cascades,
    gain,
    rules_table,
)
from cpur.multiscale_figures import cascade_curves, halting_bars
from cpur.predictor import CLEAN, accuracies, cascade_votes, clean_logits, predict, predicted
from cpur.records import load_record

SMALL = {"n": 200, "n0": 20, "num_images": 5, "batch_size": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def config(folder):
    return MultiscaleConfig(**SMALL, records_dir=folder)


@pytest.fixture(scope="module")
def levels(config):
    return certify_levels(config)


def test_levels_are_the_records_of_each_sigma(levels, folder):
    assert levels.sigmas == (0.25, 0.5, 1.0)
    assert levels.counts.shape == (5, 3, 10)
    assert (levels.counts.sum(-1) == 200).all()
    _, frame = load_record(certify_dataset(CertifyConfig(**SMALL, sigma=0.5, records_dir=folder)).file)
    assert levels.counts[:, 1].tolist() == frame.counts.tolist()
    assert levels.selected[:, 1].tolist() == frame.selected.tolist()


def test_a_larger_record_of_one_level_hides_no_cascade(levels, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "records")
    certify_dataset(CertifyConfig(**SMALL | {"n": 300}, sigma=0.5, records_dir=str(tmp_path / "records")))
    found = find_cascades(MultiscaleConfig(records_dir=str(tmp_path / "records")))
    assert found["onestep-edm"].counts.tolist() == levels.counts.tolist()


def test_a_single_level_is_at_least_the_cascade_of_itself(levels):
    alone = LevelCounts.of(levels.singles[:1])
    frame = alone.certified("max")[1]
    assert (frame.radius <= levels.singles[0][1].radius).all()  # half of alpha pays for upper bounds
    assert frame.radius.sum() > 0.8 * levels.singles[0][1].radius.sum()


def test_records_that_do_not_fit_are_named(levels, rejected, tmp_path):
    first = levels.singles[0]
    with rejected("differ in sigma, and in nothing else"):
        LevelCounts.of([first, first])
    other = load_record(certify_dataset(CertifyConfig(**SMALL | {"seed": 1}, records_dir=str(tmp_path))).file)
    with rejected("differ in sigma, and in nothing else"):
        LevelCounts.of([first, other])
    with rejected("the same images"):
        LevelCounts.of([first, (levels.singles[1][0], levels.singles[1][1].head(3))])


def made_up(shares, labels, n=1000):
    """Level counts with these shares: images, levels, classes."""
    counts = np.rint(n * np.asarray(shares)).astype(np.int64)
    index = np.arange(len(counts))
    return LevelCounts({}, [], (0.25, 0.5), index, np.asarray(labels), counts.argmax(-1), counts)


def test_collective_objective_is_the_radius_of_the_true_class():
    shares = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.9, 0.1], [0.6, 0.4]]])
    found = collective_objective(made_up(shares, [0, 1]))
    p = (1000 * shares[0] + 0.5) / 1001
    assert found[0] == cascade_radii(p, p, np.array([0.25, 0.5]), 0.5)[:, 0].max()
    assert found[1] == 0


def test_errors_are_split():
    shares = [[[0.9, 0.1], [0.45, 0.55]], [[0.4, 0.6], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]], [[0.9, 0.1], [0.7, 0.3]]]
    split = error_split(made_up(shares, [0, 0, 0, 0]))
    assert split.loc["sigma 0.25"].tolist() == [25.0, 25.0, 50.0]
    assert split.loc["sigma 0.5"].tolist() == [50.0, 25.0, 25.0]
    assert split.loc["cascade"].tolist() == [25.0, 50.0, 25.0]


def test_tables_and_figures(levels, config):
    table = rules_table(levels)
    assert list(table.index)[:3] == ["sigma 0.25 alone", "sigma 0.5 alone", "sigma 1 alone"]
    assert table.loc["cascade, rule max", "ACR"] >= table.loc["cascade, rule first", "ACR"]
    assert "sigma" in table.loc["envelope of the levels", "eps 0"]
    found = find_cascades(config)
    assert list(found) == ["onestep-edm"]
    assert len(cascades_table(found)) == 4
    assert re.fullmatch(r"mean radius of \d images: [\d.]+ by rule first, [\d.]+ by max", gain(levels))
    for figure in (cascade_curves(levels), halting_bars(found), line_figure()):
        assert isinstance(figure, Figure)


def test_probabilities_on_the_line_sum_to_one():
    p = EXAMPLE.probabilities(np.linspace(-2, 2, 9), 0.5)
    np.testing.assert_allclose(p.sum(1), 1)
    p = EXAMPLE.probabilities(np.array([-1.0, 0.3]), 1e-6)
    assert p.argmax(1).tolist() == [1, 1]


def test_cost_of_a_steered_cascade(config, levels):
    header, frame = load_record(certify_dataset(config).file)
    found = cost((header, frame), levels.certified("max")[1])
    certified = frame[frame.radius > 0]
    assert found.images == len(certified)
    assert found.samples == pytest.approx((certified.n0 + certified.n).mean() / 220)
    assert 0.8 < found.radius < 1.2
    assert "lost" in str(found)


def votes(counts, threshold=0.5):
    """What the cascade's procedure asks for, and its result, on these counts a level."""
    procedure, asked = cascade_votes((0.25, 0.5, 1.0), 10, threshold), []
    draw = next(procedure)
    while True:
        asked.append(draw.level)
        try:
            draw = procedure.send(np.array(counts[draw.level]))
        except StopIteration as stop:
            return asked, stop.value[0]


def test_votes_go_from_the_largest_sigma_down():
    assert votes([[10, 0], [6, 4], [5, 5]]) == ([2, 1], 1)
    assert votes([[10, 0], [5, 5], [6, 4]]) == ([2], 2)
    assert votes([[5, 5], [5, 5], [5, 5]]) == ([2, 1, 0], CLEAN)
    assert votes([[10, 0], [6, 4], [5, 5]], threshold=0.7) == ([2, 1, 0], 0)


def test_predictions_blend_votes_with_the_clean_logits(config):
    job = prepare(config)
    frame = predict(job, 50)
    assert frame.clean.tolist() == clean_logits(job).argmax(1).tolist()
    nowhere = predict(prepare(MultiscaleConfig(**SMALL | {"n": 5000}, threshold=0.99)), 50)
    missed = nowhere.level == CLEAN
    assert (nowhere.prediction == nowhere.clean)[missed].all()
    assert list(accuracies(frame).index) == ["clean", "cascade", "prediction"]


def test_predictions_are_kept(config, monkeypatch):
    first = predicted(config, 50)
    monkeypatch.setattr("cpur.predictor.predict", lambda *_: pytest.fail("made again"))
    assert predicted(config, 50).equals(first)
