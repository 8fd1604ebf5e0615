"""The auditor: public logs, logs made here, and logs with one thing wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cpur import CertifyConfig, certify_dataset, cli
from cpur.audit import RADII, audit_log
from cpur.audit_report import as_json, as_text
from cpur.bounds import certified_radius
from cpur.export import tsv
from cpur.ladder import Printed, ceiling, rungs
from cpur.logs import read_log
from cpur.records import load_record

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def made_up(n=10_000, alpha=0.001, sigma=0.5, rows=60, seed=0, step=20):
    """The rows of a log: hits of n samples at alpha, radii with three significant digits, a tenth abstain."""
    rng = np.random.default_rng(seed)
    hits = np.minimum(n, (n * rng.beta(6, 1, rows)).astype(int) + n // 20)
    hits[::3] = n - rng.integers(0, 20, len(hits[::3]))  # where the rungs lie far apart
    radii = certified_radius(hits, n, alpha, sigma)
    labels = rng.integers(0, 10, rows)
    wrong = rng.random(rows) < 0.2
    predicted = np.where(radii > 0, (labels + wrong) % 10, -1)
    return [
        [str(step * i), str(label), str(cls), format(radius, ".3"), str(int(cls == label)), "0:00:12.5"]
        for i, (label, cls, radius) in enumerate(zip(labels, predicted, radii, strict=True))
    ]


def written(folder, rows, name="log_sigma_0.50.tsv", header=HEADER):
    file = folder / name
    file.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    return file


def audited(file, **options):
    return audit_log(read_log(file), **options)


@pytest.mark.parametrize(("n", "alpha"), [(1000, 0.001), (10_000, 0.01), (100_000, 0.001), (100_000, 0.0005)])
def test_a_log_tells_its_n_and_alpha(n, alpha, tmp_path):
    found = audited(written(tmp_path, made_up(n, alpha, rows=300)))
    assert (found.n_consistent, found.alpha_consistent) == ([n], [alpha])
    assert found.alpha_excluded == [a for a in (0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001) if a != alpha]
    assert found.problems == []
    assert found.ceiling == ceiling(n, alpha, 0.5)


def test_few_rows_exclude_no_alpha_that_explains_them(tmp_path):
    """Ten radii of 100,000 samples, all below the ceiling of 10,000: no n is preferred, and the true alpha is named."""
    hits = np.linspace(60_000, 90_000, 10).astype(int)
    radii = certified_radius(hits, 100_000, 0.001, 0.5)
    rows = [[str(i), "1", "1", format(radius, ".3"), "1", "1"] for i, radius in enumerate(radii)]
    found = audited(written(tmp_path, rows))
    assert 0.001 in found.alpha_consistent
    assert 100_000 in found.n_consistent
    assert found.problems == []
    assert "the radii do not tell n" in as_text(found) or found.n_consistent == [100_000]


def test_figures_by_hand(tmp_path):
    rows = [
        ["0", "1", "1", "0.5", "1", "12.5"],
        ["20", "1", "2", "0.7", "0", "12.5"],
        ["40", "3", "3", "0.25", "1", "12.5"],
        ["60", "3", "-1", "0.0", "0", "12.5"],
    ]
    found = audited(written(tmp_path, rows), radii=(0.0, 0.25, 0.4, 0.5))
    assert found.certified_accuracy == {"0": 0.5, "0.25": 0.5, "0.4": 0.25, "0.5": 0.25}
    assert found.acr == pytest.approx(0.75 / 4)
    assert (found.rows, found.abstentions, found.max_radius) == (4, 1, 0.7)
    assert found.ties == {"0.25": 1, "0.5": 1}
    assert found.hours == pytest.approx(50 / 3600)


def test_sigma_is_read_and_said(tmp_path):
    rows = made_up(sigma=0.25, rows=200)
    found = {name: audited(written(tmp_path, rows, name)) for name in ("sigma_0.25", "a_noise0.25.tsv", "plain.tsv")}
    assert {audit.sigma for audit in found.values()} == {0.25}
    assert found["sigma_0.25"].sigma_from == "the name of the file (sigma_0.25)"
    assert found["a_noise0.25.tsv"].sigma_from == "the name of the file (noise0.25)"
    assert found["plain.tsv"].sigma_from.startswith("the radii")
    assert audited(tmp_path / "sigma_0.25", sigma=0.3).sigma_from == "the option"


def test_a_running_count_is_undone(tmp_path):
    rows = made_up()
    plain = audited(written(tmp_path, rows))
    for row, count in zip(rows, np.cumsum([int(row[4]) for row in rows]), strict=True):
        row[4] = str(count)
    found = audited(written(tmp_path, rows))
    assert found.cumulative_correct
    assert found.certified_accuracy == plain.certified_accuracy
    assert found.problems == []


def test_columns_are_known_by_name(tmp_path):
    rows = made_up()
    frame = pd.DataFrame(rows, columns=HEADER.split("\t"))
    shuffled = (
        frame[["radius", "time", "idx", "predict", "label"]].assign(pA="x").rename(columns={"predict": "Prediction"})
    )
    file = tmp_path / "noise_0.50.csv"
    file.write_text(shuffled.to_csv(index=False))
    found = audited(file)
    assert found.certified_accuracy == audited(written(tmp_path, rows)).certified_accuracy
    assert found.notes == ["columns that were not read: pa"]


@pytest.mark.parametrize("form", [".3", ".4f", ".6g", ".17g"])
def test_rounding_is_read_from_the_digits(form, tmp_path):
    rows = made_up(100_000)
    exact = certified_radius(np.array([99_000, 100_000, 60_000]), 100_000, 0.001, 0.5)
    for row, radius in zip(rows, exact, strict=False):
        row[2:5] = [row[1], format(radius, form), "1"]
    found = audited(written(tmp_path, rows[:3]))
    assert 0.001 in found.alpha_consistent
    printed = Printed.of([row[3] for row in rows[:3]])
    assert (np.abs(printed.values - exact) <= printed.unit / 2).all()


def test_scored_again(tmp_path):
    """Radii of n hits: at another alpha, their ceiling; rounded down, below a radius that they were lifted to."""
    top = format(ceiling(10_000, 0.001, 0.5), ".3")
    rows = [[str(i), "1", "1", top, "1", "1"] for i in range(3)] + [["3", "1", "1", "0.337", "1", "1"]]
    file = written(tmp_path, rows)
    assert top == "1.6"  # 1.59929 is printed as 1.6
    found = audited(file, radii=(0.0, 1.55, 1.6), rescore=0.0001, n=10_000, alpha=0.001)
    assert found.rounded_up >= 3
    assert found.rescored["certified_accuracy"]["1.6"] == 0
    assert found.rescored["certified_accuracy"]["1.55"] == (ceiling(10_000, 0.0001, 0.5) >= 1.55) * 0.75
    down = audited(file, radii=(1.59, 1.6), floored=True, n=10_000, alpha=0.001).rescored
    assert down["certified_accuracy"] == {"1.59": 0.75, "1.6": 0.0}


def test_a_claimed_alpha_is_held_against_the_radii(tmp_path):
    file = written(tmp_path, made_up(100_000, 0.01, rows=300))
    found = audited(file, alpha=0.001)
    assert found.alpha_consistent == [0.01]
    assert "at alpha = 0.001, leaves" in found.problems[0]
    assert audited(file, alpha=0.01).problems == []


def test_rungs_are_radii_of_hits():
    ladder = rungs(1000, 0.001)
    assert ladder[-1] == certified_radius(1000, 1000, 0.001, 1.0)
    assert ladder[0] == certified_radius(550, 1000, 0.001, 1.0)  # the fewest hits of 1000 that certify
    assert len(ladder) == 451
    assert ceiling(9, 0.001, 1.0) == 0


def changed(change):
    rows = made_up(100_000)
    change(rows)
    return rows


WRONG = {
    "above the ceiling": (lambda rows: rows[7].__setitem__(3, "1.97"), "line 9 with 1.97 first"),
    "shuffled": (lambda rows: rows.reverse(), "the rows are not in order"),
    "missing": (lambda rows: rows.__delitem__(slice(10, 12)), "2 rows are missing from the pattern of every 20th"),
    "twice": (lambda rows: rows.insert(5, list(rows[4])), "idx 80 occurs 2 times"),
    "abstention": (lambda rows: rows[3].__setitem__(slice(2, 5), ["-1", "0.3", "0"]), "line 5: an abstention"),
}  # fmt: skip

UNREADABLE = {
    "text in a number": (lambda rows: rows[9].__setitem__(3, "n/a"), "line 11: radius is 'n/a'; expected a number"),
    "text in a label": (lambda rows: rows[2].__setitem__(1, "cat"), "line 4: label is 'cat'; expected a whole number"),
    "negative": (lambda rows: rows[9].__setitem__(3, "-0.5"), "line 11: radius is '-0.5'"),
    "torn": (lambda rows: rows[-1].__delitem__(slice(2, None)), "line 61: 2 cells, where the header has 6"),
    "correct": (lambda rows: rows[0].__setitem__(4, "7"), "line 2: correct is 7"),
    "time": (lambda rows: rows[0].__setitem__(5, "soon"), "line 2: time is 'soon'; expected seconds or H:MM:SS"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name, tmp_path, capsys):
    change, sentence = WRONG[name]
    file = written(tmp_path, changed(change))
    with pytest.raises(SystemExit) as stopped:
        cli.audit(file)
    assert stopped.value.code == 1
    assert sentence in capsys.readouterr().out


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(name, tmp_path, rejected):
    change, sentence = UNREADABLE[name]
    with rejected(sentence):
        read_log(written(tmp_path, changed(change)))


def test_other_files_are_named(tmp_path, rejected):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, text, sentence in (
        ("other", "epoch,loss\n1,0.5\n", "no certification log: it has no column predict and no radius"),
        ("header", HEADER + "\n", "a header and no rows"),
        ("unlabelled", "idx\tpredict\tradius\n0\t1\t0.5\n", "neither a column label nor a column correct"),
        ("uncheckable", "idx\tpredict\tradius\tcorrect\n0\t1\t0.5\t3\n", "no label to check it by"),
    ):
        (tmp_path / name).write_text(text)
        with rejected(sentence):
            read_log(tmp_path / name)
    for name, sentence in (("empty", "is empty"), ("binary", "it is not text"), ("none", "No such file")):
        with rejected(sentence):
            read_log(tmp_path / name)
    (tmp_path / "odd").write_text("idx\tlabel\tpredict\tradius\n0\t1\t1\t50\n")
    with rejected("neither its name nor its radii tell sigma"):
        audited(tmp_path / "odd")


def test_command_prints_json(tmp_path, monkeypatch, capsys):
    file = written(tmp_path, made_up(100_000))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cpur", "audit", file.name, "--json"])
    cli.main()
    found = json.loads(capsys.readouterr().out)
    keys = {"rows", "max_radius", "acr", "certified_accuracy", "alpha_consistent", "alpha_excluded", "ties"}
    assert keys | {"cumulative_correct", "missing_rows"} <= set(found)
    assert found["alpha_consistent"] == [0.001]
    assert set(found["certified_accuracy"]) == {f"{r:g}" for r in RADII}
    (tmp_path / "empty").write_text("")
    monkeypatch.setattr("sys.argv", ["cpur", "audit", "empty"])
    with pytest.raises(SystemExit, match="is empty"):
        cli.main()
    assert capsys.readouterr().out == ""


def test_own_records_and_their_export(tmp_path, capsys):
    config = CertifyConfig(n=500, n0=20, num_images=6, purifier="none", records_dir=str(tmp_path))
    file = certify_dataset(config).file
    cli.audit(file, json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["sigma"], found["alpha_consistent"]) == (6, 0.5, [0.001])
    log = tmp_path / "sigma_0.5.tsv"
    log.write_text(tsv(load_record(file)[1]))
    again = audited(log, n=500)
    assert again.certified_accuracy == found["certified_accuracy"]
    assert again.acr == pytest.approx(found["acr"])
    assert again.alpha_consistent == [0.001] or not any(again.certified_accuracy.values())
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(SystemExit):
        cli.audit(file)
    assert "1 images are missing" in capsys.readouterr().out


GOLDEN = Path(os.environ.get("CPUR_GOLDEN", "/nowhere")) / "07_certification_logs"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="CPUR_GOLDEN does not name the folder of the reference vectors"
)


@needs_golden
def test_public_logs():
    for name, expected in json.loads((GOLDEN / "expected.json").read_text())["files"].items():
        found = json.loads(as_json(audited(GOLDEN / "logs" / name)))
        assert found["sigma"] == expected["sigma"]
        assert found["rows"] == expected["rows"]
        assert found["abstentions"] == expected["abstentions"]
        assert found["certified_accuracy"] == pytest.approx(expected["certified_accuracy"], abs=1e-12)
        assert found["acr"] == pytest.approx(expected["acr"], abs=1e-9)
        assert found["max_radius"] == expected["max_radius"]
        assert found["ties"] == expected["rows_tied_exactly_at_radius"]
        assert found["alpha_consistent"] == [expected["alpha_whose_n100000_ladder_explains_every_radius"]]
        assert found["problems"] == found["missing_rows"] == []


@needs_golden
def test_public_logs_of_aces(capsys):
    folder = GOLDEN / "aces"
    main = folder / "cifar10_consistency_025_certification"
    for threshold, expected in json.loads((folder / "expected_aces.json").read_text())["expected"].items():
        selection = folder / f"cifar10_consistency_025_selection_{threshold}"
        cli.audit(main, selection=selection, core=folder / "lanet_core_prediction", json=True)
        found = json.loads(capsys.readouterr().out)
        shares = {r: share / 100 for r, share in expected["certified_accuracy"].items()}
        assert {r: found["certified_accuracy"][r] for r in shares} == pytest.approx(shares)
        assert found["acr"] == pytest.approx(expected["acr"])
        assert found["aces"]["natural_accuracy"] == pytest.approx(expected["natural_accuracy"] / 100)
        assert found["aces"]["strict_at_0"] == pytest.approx(expected["certified_accuracy_at_0_strict"] / 100)
        assert found["alpha_consistent"] == [0.0005]  # alpha is shared with the selector


def aces_logs(folder, selected):
    """Two images: the certified model is right on the first, the core model on the second."""
    main = "idx\tlabel\tpredict\tradius\tcorrect\tunperturbed correct\n0\t1\t1\t0.5\t1\t1\n20\t2\t1\t0.7\t0\t0\n"
    logs = {
        "main_sigma0.5": main,
        "selection": "idx\tpredict\tradius\tunperturbed predict\n"
        + "".join(f"{20 * i}\t{s}\t0.3\t{s}\n" for i, s in enumerate(selected)),
        "core": "idx\tlabel\tpredict\tcorrect\n0\t1\t3\t0\n20\t2\t2\t1\n",
    }
    for name, text in logs.items():
        (folder / name).write_text(text)
    return [folder / name for name in logs]


@pytest.mark.parametrize(
    ("selected", "at_0", "strict", "at_quarter"),
    [((1, 0), 1.0, 1.0, 0.5), ((0, 1), 0.0, 0.0, 0.0), ((-1, -1), 0.5, 0.0, 0.0)],
)
def test_aces_by_hand(selected, at_0, strict, at_quarter, tmp_path, capsys):
    main, selection, core = aces_logs(tmp_path, selected)
    cli.audit(main, n=1000, selection=selection, core=core, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["certified_accuracy"]["0"] == at_0
    assert found["certified_accuracy"]["0.25"] == at_quarter
    assert found["certified_accuracy"]["0.5"] == 0
    assert found["aces"]["strict_at_0"] == strict


def test_aces_logs_must_fit(tmp_path, rejected):
    main, selection, core = aces_logs(tmp_path, (1, 0))
    selection.write_text(selection.read_text().replace("20", "40"))
    with rejected("has other rows than"):
        cli.audit(main, n=1000, selection=selection, core=core)
    with rejected("give --selection and --core"):
        cli.audit(main, n=1000, selection=selection)


def test_report_says_it_in_words(tmp_path):
    text = as_text(audited(written(tmp_path, made_up(100_000, 0.01, rows=300)), alpha=0.001, rescore=None))
    assert "sigma 0.5, from the name of the file" in text
    assert "n = 100,000 with alpha = 0.01 explains all radii" in text
    assert "PROBLEM: " in text
