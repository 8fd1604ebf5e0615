"""The command line: what it prints, and how it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from cpur import CertifyConfig, certify_dataset, cli
from cpur.verify import recertify

SMALL = CertifyConfig(n=300, n0=20, num_images=4, batch_size=100)


@pytest.fixture
def record(tmp_path):
    return certify_dataset(replace(SMALL, records_dir=str(tmp_path))).file


def test_show_prints_a_record(record, capsys):
    cli.show(record)
    out = capsys.readouterr().out
    for part in ("sigma = 0.5", "4 images of digits", "eps 0.25", "abstain %", "samples per second", record.name):
        assert part in out


def test_show_finds_the_record_of_a_notebook(record, tmp_path, capsys, rejected):
    parameters = {"n": 300, "n0": 20, "num_images": 4, "batch_size": 100, "records_dir": str(tmp_path)}
    notebook = tmp_path / "certify.ipynb"
    notebook.write_text(json.dumps({"metadata": {"papermill": {"parameters": parameters}}}))
    certify_dataset(replace(SMALL, sigma=0.25, records_dir=str(tmp_path)))  # newer, and not asked for
    cli.show(notebook)
    assert record.name in capsys.readouterr().out
    notebook.write_text('{"metadata": {}}')
    with rejected("was not run by papermill"):
        cli.show(notebook)


def test_table_is_markdown(record, capsys):
    cli.table(records_dir=record.parent)
    first, second, row = capsys.readouterr().out.strip().splitlines()
    assert first == "| sigma | purifier | eps 0 | eps 0.25 | eps 0.5 | eps 0.75 |"
    assert set(second) == set("| -")
    assert row.startswith("| 0.5 | `onestep-edm` | ")


def test_verify_certifies_again(record, capsys):
    cli.verify(records_dir=record.parent, images=2)
    assert "2 images, largest move of a count 0" in capsys.readouterr().out


def test_verify_catches_a_changed_count(record, rejected):
    head, row, *rest = record.read_text().splitlines()
    line = json.loads(row)
    first, second = (line["selected"] + 1) % 10, (line["selected"] + 2) % 10
    line["counts"][first] += 3  # the radius and the number of samples still fit
    line["counts"][second] -= 3
    record.write_text("\n".join([head, json.dumps(line), *rest, ""]))
    with rejected("a count of image 0 moved by 3"):
        list(recertify(record))


def test_verify_catches_another_model(record, rejected):
    head, *rest = record.read_text().splitlines()
    header = json.loads(head)
    header["identity"]["purifier_hash"] = "0" * 16
    record.write_text("\n".join([json.dumps(header), *rest, ""]))
    with rejected("made with another purifier_hash"):
        list(recertify(record))


def test_bad_input_is_one_sentence(tmp_path, monkeypatch):
    """What leaves main() is SystemExit with a text: Python prints it without a traceback, and exits with 1."""
    monkeypatch.setattr(sys, "argv", ["cpur", "show", str(tmp_path / "none.jsonl")])
    with pytest.raises(SystemExit, match=r"\Acpur: cannot read the record [^\n]*\Z"):
        cli.main()


def test_a_reader_that_goes_is_no_error():
    """As in ``cpur plan | head -1``."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "cpur", "plan"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_help_names_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cpur", "--help"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    out = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert command.__name__ in out


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch, rejected):
    """In one sentence, before anything is sampled."""
    share = type("Rank", (), {"rank": 0, "local_rank": 7, "finished": None})
    monkeypatch.setattr("cpur.shares.Share.from_environment", lambda *_: share)
    with rejected("device must be one that torch can use here, such as cpu; got 'cuda:7'"):
        cli.certify(replace(SMALL, device="cuda"))
