"""Certified accuracy, its envelope, and the forms in which it is given to others."""

import io
from dataclasses import replace

import pandas as pd
import pytest

from cpur import CertifyConfig, certify_dataset, load_record
from cpur.accuracy import average_certified_radius, certified_accuracy, envelope, label, wilson
from cpur.export import tsv
from cpur.tables import ENVELOPE, envelope_overview, latex, markdown, overview, summary

SMALL = CertifyConfig(purifier="none", sigma=0.25, n=400, n0=20, num_images=12, batch_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def records(folder):
    return [load_record(certify_dataset(replace(SMALL, sigma=s, records_dir=folder)).file) for s in (0.12, 0.25)]


def test_rows_of_fine_tuned_models_are_told_apart(records):
    header, frame = records[0]
    config = header["config"] | {"checkpoint": "runs/a/tuned", "classifier_checkpoint": "models/digits-cnn-both"}
    tuned = (header | {"config": config}, frame.assign(correct=False))
    assert label(header) == "none"
    assert label(tuned[0]) == "tuned + digits-cnn-both"
    assert list(envelope([tuned, records[0]], [0.0]).purifier) == ["none", "tuned + digits-cnn-both"]


def test_certified_accuracy_counts(records):
    header, frame = records[0]
    accuracy = certified_accuracy(header, frame, [0.0, 0.25, 5.0])
    right = (frame.prediction == frame.label) & (frame.prediction >= 0)
    assert accuracy.accuracy.tolist() == [right.mean(), (right & (frame.radius >= 0.25)).mean(), 0.0]
    assert ((accuracy.low <= accuracy.accuracy) & (accuracy.accuracy <= accuracy.high)).all()
    assert average_certified_radius(header, frame) == pytest.approx(frame.radius[right].sum() / 12)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_a_sequential_record_answers_at_its_epsilons_only(folder, rejected):
    """At its own epsilons it says what the fixed plan says on the same stream; ACR and others it refuses."""
    config = replace(SMALL, records_dir=folder, epsilons=(0.0, 0.1, 0.2))
    header, frame = load_record(certify_dataset(replace(config, plan="sequential")).file)
    fixed_header, fixed = load_record(certify_dataset(config).file)
    assert frame.n.sum() < fixed.n.sum()
    assert (
        certified_accuracy(header, frame).accuracy.tolist() == certified_accuracy(fixed_header, fixed).accuracy.tolist()
    )
    assert pd.isna(average_certified_radius(header, frame))
    shown = summary([(header, frame), (fixed_header, fixed)])
    assert shown.n.tolist() == ["≤ 400", 400]
    assert shown.ACR.tolist() == ["—", f"{average_certified_radius(fixed_header, fixed):.3f}"]
    with rejected("at its own epsilons"):
        certified_accuracy(header, frame, [0.15])
    assert overview([(header, frame)], [0.0, 0.2]).columns.tolist() == ["sigma", "purifier", "eps 0", "eps 0.2"]


def test_envelope_is_the_best_at_each_radius(records):
    epsilons = [0.0, 0.1, 0.3]
    best = envelope(records, epsilons)
    single = [certified_accuracy(*record, epsilons).accuracy for record in records]
    assert best.accuracy.tolist() == pd.concat(single, axis=1).max(axis=1).tolist()
    for row, one, other in zip(best.itertuples(), *single, strict=True):
        assert row.sigma == (0.12 if one >= other else 0.25)
    assert "not one classifier" in ENVELOPE
    (row,) = envelope_overview(records, epsilons).to_dict("records")
    assert row["purifier"] == "none"
    assert row["eps 0"].endswith(f"sigma {best.sigma[0]:g}")


def test_tables_are_markdown_and_latex(records):
    table = overview(records, [0.0, 0.1])
    lines = markdown(table).splitlines()
    assert lines[0] == "| sigma | purifier | eps 0 | eps 0.1 |"
    assert len(lines) == 4
    text = latex(table)
    assert text.startswith("\\begin{tabular}{llll}\n\\toprule")
    assert text.count("\\\\") == 3
    assert "–" not in text


def test_export_is_what_an_analysis_script_reads(records):
    """The script of Cohen et al. takes the mean of correct & (radius >= r), with pandas, from tab-separated columns."""
    header, frame = records[1]
    text = tsv(frame)
    assert text.splitlines()[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    log = pd.read_csv(io.StringIO(text), delimiter="\t")
    assert log.radius.tolist() == frame.radius.tolist()  # in full: nothing is rounded up
    assert set(log.correct) <= {0, 1}
    for epsilon, accuracy in zip(
        (0.0, 0.1, 0.3), certified_accuracy(header, frame, [0.0, 0.1, 0.3]).accuracy, strict=True
    ):
        assert (log["correct"] & (log["radius"] >= epsilon)).mean() == accuracy
    assert pd.to_timedelta(log.time).dt.total_seconds().tolist() == pytest.approx(frame.seconds.tolist())
