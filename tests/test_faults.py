"""What goes wrong in a run ends in one error, and the record keeps what it had."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from cpur import CertifyConfig, certify_dataset, cli, load_record
from cpur.engine import header, prepare, record_file
from cpur.paths import root
from cpur.records import Record, read_lines
from cpur.shares import Share

RUN = CertifyConfig(purifier="none", sigma=0.25, n=1000, n0=20, num_images=30, batch_size=100)


class Faulty(nn.Module):
    """Right about nothing; after some batches it does what it is told to."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.batches = 0

    def forward(self, x):
        self.batches += 1
        return (
            self.fault(torch.eye(10)[3].repeat(len(x), 1)) if self.batches > 55 else torch.eye(10)[3].repeat(len(x), 1)
        )


def nan():
    return Faulty(lambda logits: logits * float("nan"))


def raises():
    def fault(logits):
        raise ValueError("no more\nsecond line")

    return Faulty(fault)


def fewer_classes():
    return Faulty(lambda logits: logits[:, :9])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        ("nan", "logits that are not finite on image 5 at sigma 0.25: check the checkpoint and the precision"),
        ("raises", "the base classifier failed on noisy copies of image 5: ValueError: no more$"),
        ("fewer_classes", r"returned shape \(100, 9\); expected \(100, 10\): check num_classes"),
    ],
)
def test_a_base_classifier_that_fails_in_mid_run(make, match, tmp_path, rejected):
    config = replace(RUN, classifier=f"{__name__}:{make}", records_dir=str(tmp_path))
    with rejected(match):
        certify_dataset(config)
    first, frame = load_record(record_file(config))
    assert frame["index"].tolist() == [0, 1, 2, 3, 4]  # whole images are kept
    assert first["config"]["classifier"] == config.classifier


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("no_module:make", "cannot make the classifier no_module:make: ModuleNotFoundError"),
        (f"{__name__}:no_function", "cannot make the classifier"),
        (f"{__name__}:pytest", "cannot make the classifier|must return an nn.Module"),
        ("builtins:dict", "must return an nn.Module; got dict"),
    ],
)
def test_a_classifier_that_cannot_be_made(name, match, rejected):
    with rejected(match):
        certify_dataset(replace(RUN, classifier=name))


def test_a_full_disk(tmp_path, rejected):
    """The file may not grow any more: the line that does not fit is taken back, the others are kept."""
    config = replace(RUN, records_dir=str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with rejected("cannot write the record .*: File too large; its .* images are kept: make room"):
            certify_dataset(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    file = record_file(config)
    text = file.read_bytes()
    assert text.endswith(b"\n")
    kept = len(read_lines(file)[1])
    assert 3 < kept < 30
    assert certify_dataset(config).file.read_bytes().startswith(text)
    assert load_record(file)[1]["index"].tolist() == list(range(30))


def test_a_folder_that_cannot_be_written(tmp_path, rejected):
    first = header(prepare(RUN), Share())
    folder = tmp_path / "records"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        with rejected("cannot write the record .*: Permission denied: set records_dir to a folder"):
            Record(folder / "record.jsonl", first)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


def start(*command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        # a shell's job in the background ignores interrupts, and so would its children
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def flags(config):
    names = ("purifier", "sigma", "n", "n0", "num_images", "batch_size", "records_dir")
    return [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(config, name)))]


def test_ctrl_c_leaves_a_record_and_says_how_to_go_on(tmp_path):
    config = replace(RUN, n=20_000, num_images=200, records_dir=str(tmp_path))
    process = start("-m", "cpur", "certify", *flags(config))
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.jsonl")) or len(read_lines(record_file(config))[1]) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 200 images are certified and kept\ngive the same command again to go on" in errors
    assert "Traceback" not in errors
    assert "certified right" in errors  # the bar: accuracy so far
    assert "samples/s" in errors
    assert 3 <= len(load_record(record_file(config))[1]) < 200


def test_torchrun_and_merge(tmp_path, monkeypatch, capsys):
    """The literal commands of the page on clusters; each image is certified once."""
    config = replace(RUN, num_images=20, records_dir=str(tmp_path))
    run = start("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "cpur", "certify", *flags(config))
    output, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    assert "cpur merge" in output
    (folder,) = tmp_path.glob("*.parts")
    assert {part.name for part in folder.iterdir()} == {"rank0.jsonl", "rank1.jsonl"}
    monkeypatch.setattr(sys, "argv", ["cpur", "merge", str(folder)])
    cli.main()
    assert "20 images" in capsys.readouterr().out
    first, frame = load_record(record_file(config))
    assert first["hardware"]["processes"] == 2
    assert frame["index"].tolist() == list(range(20))
    assert sum(len(read_lines(part)[1]) for part in folder.iterdir()) == 20
    part = max(folder.iterdir(), key=lambda part: part.stat().st_size)  # a rank that was slow to start may have none
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:-1]))
    record_file(config).unlink()
    with pytest.raises(SystemExit, match="1 images are missing:"):
        cli.main()


def test_the_example_of_the_book(tmp_path, monkeypatch):
    """As the page says it: from the folder of the example, by the command line; and in Python."""
    config = replace(RUN, num_images=10, sigma=0.12, records_dir=str(tmp_path))
    monkeypatch.chdir(root() / "book/examples")
    monkeypatch.setattr(sys, "argv", ["cpur", "certify", *flags(config), "--classifier", "own_classifier:nearest_mean"])
    cli.main()
    (file,) = tmp_path.glob("*.jsonl")
    first, frame = load_record(file)
    assert first["identity"]["classifier"] == "own_classifier:nearest_mean"
    assert frame.correct.mean() >= 0.5
