"""Records: written, torn, resumed, refused, read."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cpur import CertifyConfig, certify_dataset, load_record
from cpur.bounds import certified_radius
from cpur.engine import header, prepare, record_file
from cpur.paths import root
from cpur.records import COLUMNS, Record, pack, record_files, standing
from cpur.shares import Share
from studies.records import configurations

SMALL = CertifyConfig(n=200, n0=20, num_images=6, batch_size=64)


@pytest.fixture
def config(tmp_path):
    return replace(SMALL, records_dir=str(tmp_path))


def lines(record):
    return [json.loads(line) for line in record.file.read_text().splitlines()]


def test_a_record_holds_what_it_should(config):
    record = certify_dataset(config)
    first, *rows = lines(record)
    assert record.file.name.startswith("digits-onestep-edm-s0.5-")
    assert CertifyConfig(**first["config"]) == config
    assert sorted(row["index"] for row in rows) == list(range(6))
    for row in rows:
        assert list(row) == COLUMNS
        assert sum(row["counts"]) == 200
        assert row["radius"] == certified_radius(row["counts"][row["selected"]], 200, 0.001, 0.5)
        assert row["prediction"] == (row["selected"] if row["radius"] > 0 else -1)


class Killed(Exception):
    """Stands for a kill in mid-run."""


def interrupted(stop_after):
    def progress(indices, done, total):
        for count, index in enumerate(indices):
            if count == stop_after:
                raise Killed
            yield index

    return progress


@pytest.mark.parametrize("torn", [0, 1, 20])
def test_resume_loses_nothing_and_repeats_nothing(config, torn, tmp_path):
    whole = certify_dataset(replace(config, records_dir=str(tmp_path / "whole")))
    with pytest.raises(Killed):
        certify_dataset(config, progress=interrupted(3))
    (file,) = tmp_path.glob("*.jsonl")
    text = file.read_bytes()
    file.write_bytes(text[: len(text) - torn])  # what a crash in mid-write leaves
    kept = file.read_bytes()[: file.read_bytes().rfind(b"\n") + 1]
    resumed = certify_dataset(config)
    assert resumed.file.read_bytes().startswith(kept)

    def strip(row):
        return {key: value for key, value in row.items() if key not in ("seconds", "config")}

    def images(record):
        return sorted((strip(row) for row in lines(record)[1:]), key=lambda row: row["index"])

    assert images(resumed) == images(whole)


def test_a_packed_record_is_read_in_place_and_resumed(config, tmp_path):
    with pytest.raises(Killed):
        certify_dataset(config, progress=interrupted(3))
    (file,) = record_files(tmp_path)
    before = load_record(file)[1]
    packed = pack(file, tmp_path)
    assert packed.stat().st_size < file.stat().st_size
    file.unlink()
    pd.testing.assert_frame_equal(load_record(file)[1], before)
    frame = load_record(certify_dataset(config).file)[1]
    assert record_files(tmp_path) == [file]
    assert frame["index"].tolist() == list(range(6))
    pack(file, tmp_path)
    file.unlink()
    assert certify_dataset(config).file == packed
    assert record_files(tmp_path) == [packed]
    pd.testing.assert_frame_equal(load_record(packed)[1], frame)


def test_a_torn_header_is_written_again(config):
    record = certify_dataset(replace(config, num_images=1))
    whole = record.file.read_text()
    record.file.write_text(whole[:40])
    again = certify_dataset(replace(config, num_images=1))
    assert lines(again)[0] == json.loads(whole.splitlines()[0])


def test_another_configuration_is_another_file(config):
    jobs = [
        prepare(replace(config, **change))
        for change in (
            {},
            {"sigma": 0.25},
            {"n": 300},
            {"n0": 30},
            {"alpha": 0.01},
            {"seed": 1},
            {"batch_size": 32},
            {"num_images": 5},
            {"subset": "every-2"},
            {"purifier": "consistency"},
            {"epsilons": (0.0,)},
        )
    ]
    assert len({record_file(job.config) for job in jobs}) == len(jobs)
    assert len({json.dumps(job.identity) for job in jobs}) == len(jobs)


def test_a_file_named_by_hand_is_refused(config, rejected):
    record = certify_dataset(replace(config, num_images=1))
    other = prepare(replace(config, sigma=0.25))
    with rejected("another configuration"):
        Record(record.file, header(other, Share()))


def test_unwritable_folder(config, rejected, tmp_path):
    (tmp_path / "file").write_text("")
    with rejected("cannot write the record"):
        certify_dataset(replace(config, records_dir=str(tmp_path / "file")))


def test_damaged_records_are_named(config, rejected, tmp_path):
    record = certify_dataset(replace(config, num_images=2))
    text = record.file.read_text()
    file = tmp_path / "damaged.jsonl"
    head, row, *_ = text.splitlines()
    changed = json.loads(row) | {"radius": 3.0}
    for damage, match in [
        ("idx\tlabel\tpredict\n", "not a record"),
        (head.replace("cpur-record/1", "cpur-record/9") + "\n", "format 'cpur-record/9'"),
        (f"{head}\n{json.dumps(changed)}\n", "do not give its prediction and radius"),
        (f'{head}\n{{"index": 0}}\n', "without the keys"),
    ]:
        file.write_text(damage)
        with rejected(match):
            load_record(file)
    with rejected("cannot read"):
        load_record(tmp_path / "missing.jsonl")


def test_counts_do_not_depend_on_batch_size_or_prefix(config, tmp_path):
    """Batch shapes are part of the record's identity, but this network votes alike at each of them."""
    _, small = load_record(certify_dataset(replace(config, batch_size=32)).file)
    _, large = load_record(certify_dataset(replace(config, batch_size=200)).file)
    _, prefix = load_record(certify_dataset(replace(config, num_images=3)).file)
    moved = np.abs(np.array(small.counts.tolist()) - np.array(large.counts.tolist())).max()
    assert moved <= 2
    _, same = load_record(certify_dataset(config).file)
    assert prefix.counts.tolist() == same.counts.tolist()[:3]


def test_committed_records_are_those_of_the_campaign():
    jobs = [prepare(configuration) for configuration in configurations()]
    folder = root() / "records"
    committed = {*record_files(folder), *record_files(folder / "cascade")}
    assert {standing(record_file(job.config)) for job in jobs} == committed
    for job in jobs:
        first, frame = load_record(record_file(job.config))
        assert first["identity"] == job.identity
        assert frame["index"].tolist() == list(range(job.config.num_images))
        assert frame.label.tolist() == job.data.labels[: len(frame)].tolist()
