"""What is made of the baselines: choices, records, tables, at tiny size; and the committed ones."""

import gzip

import numpy as np
import pandas as pd
import pytest

from cpur import load_record
from cpur.engine import record_file
from cpur.paths import root
from studies import attacks, baseline_tables
from studies.attacks import PF_ODE, Target, attacked, main, smoothed, targets
from studies.audits import COLUMNS
from studies.baselines import METHODS, SEEDS, SIGMAS, Baselines, aces_radii, certified_shares, chosen


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Records of one noise level and training seed, from networks that were trained for an epoch."""
    folder = tmp_path_factory.mktemp("baselines")
    made = Baselines(
        *(str(folder / name) for name in ("work", "records", "models")), epochs=2, n=60, small=40, num_images=5
    )
    (folder / "records").mkdir()
    rows = [{"method": m, "sigma": 0.5, "value": v, "mean over eps": s} for m, v, s in CHOICES]
    pd.DataFrame(rows).to_csv(folder / "records" / "choices.csv", index=False)
    made.publish(0.5)
    for method in METHODS:
        for seed in (None, 0):
            made.certify(method, 0.5, seed)
    return made


CHOICES = [("consistency", 1.0, 10.0), ("consistency", 5.0, 20.0), ("aces", 0.3, 30.0), ("aces", 0.7, 25.0)]


def test_the_best_on_validation_images_is_taken(bench):
    assert chosen(bench.records) == {("consistency", 0.5): 5.0, ("aces", 0.5): 0.3}
    assert bench.config(0.5, 5.0, 0).copies == 2
    assert bench.config(0.5, 0.0, 0).eta == 0


def test_choices_are_tried_in_turn(bench):
    table = bench.choose(0.5, n=20)
    assert table.method.value_counts().to_dict() == {"gaussian": 1, "consistency": 4, "aces": 9}
    assert table["mean over eps"].between(0, 100).all()


def test_aces_has_two_records_at_half_of_alpha(bench):
    ours, selector = bench.certifications("aces", 0.5, None)
    assert ours.alpha == selector.alpha == 0.0005
    (_, frame), (_, selected) = (load_record(file) for file in bench.files("aces", 0.5))
    assert frame["index"].equals(selected["index"])
    assert all(sum(counts[2:]) == 0 for counts in selected.counts)
    (only,) = bench.certifications("gaussian", 0.5, None)
    assert only.alpha == 0.001


def test_radii_of_training_seeds(bench, monkeypatch):
    monkeypatch.setattr(baseline_tables, "SEEDS", (0,))
    monkeypatch.setattr(baseline_tables, "COMPARED", (0.5,))
    for method in METHODS:
        assert baseline_tables.seeds_radii(method, bench.records).shape == (1, 1, 5)


def test_certified_selection_on_votes():
    """On four validation images: taken, passed to the core, in doubt, and wrong."""
    count, n = 200, 1000
    labels = baseline_tables.load_dataset("digits", "val").labels.numpy()
    sure = np.zeros((count, 10), np.int64)
    sure[np.arange(count), labels] = n
    sure[3] = np.roll(sure[3], 1)
    selected = np.zeros((count, 10), np.int64)
    selected[:, 1] = n
    selected[1] = [n] + [0] * 9
    selected[2] = [n // 2, n // 2] + [0] * 8
    radii = aces_radii(sure, selected, 0.5, 0.001)
    assert radii[0] > 1
    assert radii[1] == 0  # the core model knows this image
    assert radii[2] == 0
    assert radii[3] == -1
    assert certified_shares(radii[:4])["eps 0"] == 75


def test_an_attack_is_counted(bench):
    (file,) = bench.files("gaussian", 0.5)
    subject = smoothed("Randomized Smoothing", file)
    row = attacked(subject, images=3, n=100, steps=2, copies=2)
    assert row["images"] == (subject.certificates.radius > 0).sum().clip(max=3)
    assert row["failures"] == 0


def test_what_was_attacked_is_not_attacked_again(tmp_path, capsys):
    known = (root() / "records" / "attacks.csv").read_text()
    (tmp_path / "attacks.csv").write_text(known)
    main(str(tmp_path / "attacks.csv"))
    assert (tmp_path / "attacks.csv").read_text() == known
    assert "ACES" in capsys.readouterr().out


def test_a_row_of_other_parameters_or_records_is_made_anew(bench, tmp_path, monkeypatch):
    (file,) = bench.files("gaussian", 0.5)
    copied = tmp_path / file.name
    copied.write_bytes(file.read_bytes())
    calls = []

    def counted(*given, **values):
        calls.append(values)
        return {"method": "a", "images": 3}

    monkeypatch.setattr(attacks, "targets", lambda: {"a": Target([copied], lambda: None)})
    monkeypatch.setattr(attacks, "attacked", counted)
    small = {"images": 3, "n": 100, "steps": 2, "copies": 2}
    runs = [{}, {"images": 2}, {}, {"n": 50}, {"n": 50}, {"steps": 3}, {"copies": 1}]
    made = []
    for change in [*runs, {"copies": 1}]:
        before = len(calls)
        main(str(tmp_path / "attacks.csv"), **small | change)
        made.append(len(calls) - before)
    assert made == [1, 1, 0, 1, 0, 1, 1, 0]
    header, *lines = gzip.decompress(copied.read_bytes()).splitlines(keepends=True)
    copied.write_bytes(gzip.compress(b"".join([header, *lines[:-1]])))
    main(str(tmp_path / "attacks.csv"), **small | {"copies": 1})
    assert len(calls) == sum(made) + 1


def test_committed_records_are_whole():
    bench = Baselines()
    for method in METHODS:
        for sigma in SIGMAS:
            for file in bench.files(method, sigma):
                assert len(load_record(file)[1]) == 500
    for method in METHODS:
        assert baseline_tables.seeds_radii(method).shape == (len(SEEDS), 2, 500)
    assert set(baseline_tables.best_sigmas()) == set(baseline_tables.all_records())
    table = pd.read_csv(root() / "records" / "attacks.csv", dtype={"record": str})
    assert (table.failures <= table.images).all()
    assert (table.images == 200).all()
    assert dict(zip(table.method, table.record, strict=True)) == {name: one.hash for name, one in targets().items()}
    frame = load_record(root() / "records/attacks" / f"{record_file(PF_ODE).name}.gz")[1]
    radius = table.set_index("method")["mean radius"]["pf-ode"]
    assert radius == pytest.approx(frame.radius[frame.radius > 0].head(200).mean(), abs=5e-4)
    assert list(pd.read_csv(root() / "records" / "audits.csv")) == list(COLUMNS)
