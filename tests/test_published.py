"""The published figures: well formed, each with a source, and beside a row that exists."""

import pytest
import yaml

from cpur.errors import InputError
from cpur.paths import root
from studies import published as module
from studies.published import FILE, Paper, beside, published
from studies.result_tables import TABLES

RESULTS = {result.key: result for result in TABLES}
ENTRIES = published()


def test_every_entry_has_a_source():
    assert len(ENTRIES) >= 10
    for entry in ENTRIES:
        assert entry.where
        assert entry.paper.version
        assert entry.source.startswith(f"arXiv {entry.paper.arxiv}" if entry.paper.arxiv else entry.paper.title)


def test_every_paper_is_used_and_has_its_number():
    text = yaml.safe_load((root() / FILE).read_text())
    assert {entry["paper"] for entry in text["figures"]} == set(text["papers"])
    for paper in text["papers"].values():
        assert isinstance(paper["arxiv"], str | None)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.table}-{entry.row}")
def test_every_entry_stands_beside_a_row(entry):
    result = RESULTS[entry.table]
    assert entry.row in result.rows
    assert set(entry.figures) <= set(result.columns)
    assert all(0 <= figure <= 100 for figure in entry.figures.values())


def test_certified_accuracy_falls_with_the_radius():
    for entry in ENTRIES:
        figures = [figure for name, figure in entry.figures.items() if name.startswith("eps ")]
        assert figures == sorted(figures, reverse=True)


def test_no_row_twice():
    places = [(entry.table, entry.row, entry.paper) for entry in ENTRIES]
    assert len(places) == len(set(places))


def test_beside_is_of_one_row():
    (entry,) = beside("cp-baselines", "Randomized Smoothing")
    assert entry.figures["eps 0.5"] == 42.8  # 214 of the 500 rows of the public log
    assert beside("cp-baselines", "no such method") == []


def test_a_broken_entry_is_named(rejected):
    papers = {"a": Paper("A", None, "1")}
    with rejected("an entry of book/published.yml is not whole: 'b'"):
        module._entry({"table": "t", "row": "r", "figures": {}, "paper": "b", "where": "w"}, papers)
    with pytest.raises(InputError, match="where"):
        module._entry({"table": "t", "row": "r", "figures": {}, "paper": "a"}, papers)
