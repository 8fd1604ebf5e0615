"""The page of claims: every claim is there, has a command and a verdict; figures counted again from raw counts."""

import gzip
import json
import re
from types import SimpleNamespace

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest

from cpur.errors import InputError
from cpur.paired import Difference
from cpur.paths import root
from cpur.plans import sequential
from cpur.steering import Cascade
from studies import own_claims
from studies.claims import GROUPS, MARKS, Sources, forest, summary, tally
from studies.findings import UNDECIDABLE, Claim, Measured, Missing, Proven, always, examined, table
from studies.steered import steered

ALL = [claim for claims in GROUPS.values() for claim in claims]
SOURCES = Sources()
OWN = {claim.text: claim for claim in own_claims.CLAIMS}


@pytest.fixture(scope="module")
def found():
    """Of the claims that need little reading."""
    quick = [
        claim for claim in own_claims.CLAIMS if "calibration" not in claim.command and "ablation" not in claim.command
    ]
    return {"ours": examined(quick, SOURCES)}


@pytest.mark.parametrize(
    ("difference", "seeds", "verdict"),
    [
        (Difference(0.5, 0.1, 0.9), 3, "held"),
        (Difference(-0.5, -0.9, -0.1), 3, "did not hold"),
        (Difference(0.5, -0.1, 0.9), 3, "undecided"),
        (Difference(0.5, 0.0, 0.9), 3, "undecided"),  # 0 itself is not above 0
        (Difference(0.5, 0.1, 0.9), 2, "undecided: 2 of 3 seeds"),
        (Difference(-0.5, -0.9, -0.1), 1, "undecided: 1 of 3 seeds"),
        (Difference(0.5, 0.1, 0.9), None, "held"),  # nothing was trained for it
    ],
)
def test_verdicts_on_made_up_differences(difference, seeds, verdict):
    assert Measured(difference, seeds).verdict == verdict


def test_what_a_figure_rests_on():
    measured = Measured(Difference(0.5, -0.25, 1.25), 1, 500, 10_000, 0.001, "more")
    assert measured.basis == "n = 10,000, α = 0.001, 500 images, 1 seed; more"
    assert measured.figure("points") == "+0.50 [-0.25, +1.25] points"
    assert measured.figure("radius") == "+0.500 [-0.250, +1.250] radius"


@pytest.mark.parametrize("claim", ALL, ids=lambda claim: claim.text)
def test_every_claim_is_whole(claim):
    assert claim.source
    assert claim.command.split()[0] in {"python", "pytest", "papermill", "cpur"}
    module = re.match(r"python -m (\S+)|(?:python|pytest|papermill) (\S+)", claim.command)
    if module:
        assert (root() / (f"{module[1].replace('.', '/')}.py" if module[1] else module[2])).is_file()


def test_no_claim_twice_and_none_forgotten():
    assert len({claim.text for claim in ALL}) == len(ALL)
    li, jeong = (" ".join(f"{c.text} ({c.source})" for c in claims) for claims in list(GROUPS.values())[:2])
    for place in (*(f"table {k}" for k in range(1, 8)), "figure 2", "theorem 3.3", "example 3.1", "headline"):
        assert f"({place}" in li, place
    for place in ("theorem 3.1", "abstract", "appendix E.2", "CIFAR-10-C", "CIFAR-10.1", "table 2", "table S1"):
        assert place in jeong, place


def test_every_proof_has_its_test():
    proofs = [claim.find(SOURCES) for claim in ALL if claim.command.startswith("pytest") or "audits" in claim.command]
    assert len(proofs) == 10
    for proof in proofs:
        file, function = proof.test.split("::")
        assert f"def {function}(" in (root() / "tests" / file).read_text()


def test_the_table_is_whole(found):
    frame = table(found["ours"])
    assert frame.notna().all(axis=None)
    assert not frame.apply(lambda column: column.str.contains("nan")).any(axis=None)
    assert frame["made by"].str.len().min() > 0
    assert set(frame.verdict.str.partition(":")[0]) <= {*MARKS, UNDECIDABLE}


def test_missing_records_take_no_page_down(tmp_path):
    everything = {name: examined(claims, Sources(str(tmp_path), str(tmp_path))) for name, claims in GROUPS.items()}
    frame = pd.concat([table(group) for group in everything.values()])
    assert set(frame.verdict) == {"held", "did not hold", UNDECIDABLE, "undecided: no record"}
    gone = frame[frame.verdict == "undecided: no record"]
    assert len(gone) == len(ALL) - 4 - 9
    assert gone["rests on"].str.contains("no record|no such record|no predictions|missing|lacks").all()
    assert "no record: " in summary(everything)
    assert tally(everything)["claims"].sum() == len(ALL)


def test_only_missing_evidence_is_excused():
    def broken(sources):
        raise ZeroDivisionError

    def gone(sources):
        raise InputError("there is none: make it")

    assert Claim("", "", "", "", gone).found(None) == Missing("there is none")
    with pytest.raises(ZeroDivisionError):
        Claim("", "", "", "", broken).found(None)


def test_a_panel_a_unit_and_a_colour_a_verdict():
    differences = [Difference(1.0, 0.5, 1.5), Difference(-1.0, -1.5, -0.5), Difference(0.0, -0.5, 0.5)]
    claims = [Claim(f"c{k}", "", "points", "", always(Measured(d))) for k, d in enumerate(differences)]
    claims += [
        Claim("r", "", "radius", "", always(Measured(differences[0]))),
        Claim("p", "", "", "", always(Proven(True, ""))),
    ]
    figure = forest(examined(claims, None))
    points, radius = figure.axes
    assert [label.get_text() for label in points.get_yticklabels()] == ["c0", "c1", "c2"]
    assert len(radius.collections) == 1
    drawn = [matplotlib.colors.to_hex(bar.get_color()[0]) for bar in points.collections]
    assert drawn == [matplotlib.colors.to_hex(color) for _, color in MARKS.values()]
    assert [bar.get_segments()[0][:, 0].tolist() for bar in points.collections][1] == [-1.5, -0.5]


def raw(name):
    with gzip.open(root() / "records" / name) as lines:
        return [json.loads(line) for line in lines][1:]


def test_the_cost_of_the_steered_cascade_counted_again():
    """From the raw lines: samples over those of one level, and the saving over three levels."""
    lines = raw("digits-consistency-s0.25-0.5-1-78cb22b6.jsonl.gz")
    cost = (
        np.array([100 * sum(s >= 0 for s in line["selected"]) + sum(map(sum, line["counts"])) for line in lines])
        / 10_100
    )
    finding = OWN["Steering takes fewer samples at n = 10,000 too"].find(SOURCES)
    assert finding.difference.estimate == pytest.approx(3 - cost.mean())
    certified = np.array([line["radius"] > 0 for line in lines])
    assert finding.note == f"{cost[certified].mean():.2f} levels for certified images"
    assert finding.verdict == "undecided: 1 of 3 seeds"


def test_samples_saved_counted_again():
    rows = json.loads((root() / "benchmarks/results/samples.json").read_text())["simulated"]
    samples = [row["samples"] for row in rows if row["set"].startswith("cohen")]
    finding = OWN["Plan sequential takes fewer samples than plan fixed"].find(SOURCES)
    assert finding.difference.estimate == pytest.approx(100.1 - np.mean(samples) / 1000)
    assert finding.difference.low < finding.difference.estimate < finding.difference.high


def test_rates_of_false_certificates_by_hand():
    """35 of 2,000 at 0.05: 3.25 points below; the exact interval holds the estimate."""
    found = own_claims.rarely_false("max")(SOURCES).difference
    assert found.estimate == pytest.approx(3.25)
    assert found.low < found.estimate < found.high
    more = own_claims.rarely_false("peeking", -1)(SOURCES).difference
    assert more.estimate == pytest.approx(100 * (311 / 2000 - 0.05))
    assert own_claims.no_attack_succeeds(SimpleNamespace(records="records")).difference.high == pytest.approx(0.1)


def test_a_steered_replay_keeps_the_votes():
    """Of clear votes few samples are taken; a radius is certified that the full counts certify too."""
    cascade = Cascade((0.25, 0.5, 1.0), 0.5, sequential(100, 1000, 0.001))
    rng = np.random.default_rng(0)
    certificate, samples = steered(np.array([[1000, 0], [1000, 0], [1000, 0]]), cascade, rng)
    assert (certificate.prediction, certificate.level) == (0, 2)
    assert samples == 100 + 1000  # the largest sigma alone
    hopeless, few = steered(np.full((3, 2), 500), cascade, rng)
    assert hopeless.prediction == -1
    assert few < 3300
