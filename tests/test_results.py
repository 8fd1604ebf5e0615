"""The tables of both papers: none is forgotten, no cell is empty, missing records show the command; counted again."""

import gzip
import json

import numpy as np
import pytest

from cpur.bounds import certified_radius
from cpur.paired import Difference, certified_shares
from cpur.paths import root
from studies.claims import Sources
from studies.result_rows import EPS, nowhere, recorded, shares
from studies.result_tables import TABLES
from studies.results import DASH, Result, Row, beside_figure, cell

RESULTS = {result.key: result for result in TABLES}
SOURCES = Sources()
QUICK = (
    "cp-main",
    "cp-headline",
    "cp-imagenet64",
    "cp-fid",
    "cp-steps",
    "cp-noise",
    "mdds-shift",
    "mdds-imagenet",
    "mdds-cost",
)


def test_every_table_of_both_papers_is_there():
    sources = " ".join(f"{result.paper}: {result.source};" for result in TABLES)
    for table in (*(f"Table {k}" for k in range(1, 8)), "Figure 2", "ImageNet-64"):
        assert f"Li et al. (2024): {table}" in sources or f"{table}, section 5" in sources, table
    for table in ("Table 1", "Table 2", "appendix E.2", "ablation of the two terms", "author response"):
        assert f"Jeong & Shin (2023): {table}" in sources, table


@pytest.mark.parametrize("key", QUICK)
def test_tables_have_no_empty_cell(key):
    frame = RESULTS[key].table(SOURCES)
    assert frame.notna().all(axis=None)
    assert not frame.apply(lambda column: column.str.contains("nan|^$")).any(axis=None)
    assert frame["figures of"].str.contains("published|ours").all()
    assert RESULTS[key].command in RESULTS[key].show(SOURCES).caption


def test_what_is_not_transcribed_is_said():
    frame = RESULTS["cp-main"].table(SOURCES)
    last = frame.iloc[-1]
    assert last["method"] == "all"
    assert last["source, or what they rest on"] == "Table 2, CIFAR-10: not transcribed"
    assert set(last[list(EPS)]) == {DASH}


def test_missing_records_leave_the_table(tmp_path):
    frame = RESULTS["cp-baselines"].table(Sources(str(tmp_path)))
    ours = frame[frame["figures of"] == "ours"]
    assert list(ours["source, or what they rest on"]) == ["no record"] * 4
    published = frame[frame.method == "Randomized Smoothing"].iloc[0]
    assert published["eps 0.5"] == "42.8"


def test_a_row_of_another_data_set_shows_up():
    made = Row("cifar10", {"eps 0": Difference(50.0, 48.0, 53.0)}, "one")
    result = Result(
        "x", "A", "t", "Table 0", "CIFAR-10", ("eps 0",), {"ours": lambda sources: [made], "none": nowhere}, "do"
    )
    frame = result.table(SOURCES)
    assert list(frame["figures of"]) == ["cifar10, ours", "ours", "CIFAR-10, published"]
    assert list(frame["eps 0"]) == ["50.0 ± 3.0", DASH, DASH]


def test_cells():
    assert cell(None) == DASH
    assert cell(54.78) == "54.8"
    assert cell(Difference(0.5, 0.25, 0.6), 3) == "0.500 ± 0.250"


def test_certified_accuracy_counted_again():
    """From the raw counts of the consistency model at n = 10,000: the best of three noise levels at 0.5."""
    best = 0
    for file in (root() / "records").glob("digits-consistency-s*.jsonl.gz"):
        with gzip.open(file) as text:
            header, *lines = [json.loads(line) for line in text]
        config = header["config"]
        if config["checkpoint"] or config["n"] != 10_000 or "sigma" not in config:
            continue
        hits = [line["counts"][line["selected"]] for line in lines]
        right = np.array([line["selected"] == line["label"] for line in lines])
        radii = certified_radius(np.array(hits), np.full(len(hits), 10_000), 0.001, config["sigma"])
        best = max(best, 100 * np.mean(right & (radii >= 0.5)))
    (row,) = recorded("consistency")(SOURCES)
    assert row.figures["eps 0.5"].estimate == pytest.approx(best)
    assert best > 50


def test_shares_are_those_of_the_paired_differences():
    rng = np.random.default_rng(0)
    radii = rng.uniform(-0.5, 1.2, (3, 2, 60))
    found = shares(radii)
    expected = certified_shares(radii, (0.0, 0.25, 0.5, 0.75, 1.0)).mean(0)
    assert [found[name].estimate for name in EPS] == pytest.approx(list(expected))
    assert all(found[name].low <= found[name].estimate <= found[name].high for name in EPS)
    half = 1.96 * 100 * np.sqrt(0.25 / 60)  # of one seed and one level at a share of one half
    assert 0.3 * half < found["eps 0.5"].high - found["eps 0.5"].low < 2 * half


def test_the_figure_has_both_sides():
    left, right = beside_figure(RESULTS["cp-baselines"], SOURCES).axes
    assert len(left.containers) == 2
    assert len(right.containers) == 4
    assert left.get_title() == "CIFAR-10, published"
