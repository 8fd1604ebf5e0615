"""The benchmarks, at tiny size: what they print is not looked at, what they count is."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from cpur.paths import root


def benchmark(name, out, *arguments):
    command = [sys.executable, root() / "benchmarks" / f"{name}.py", "--out", out, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def test_throughput_of_the_digits(tmp_path):
    sizes = ("--rounds", "1", "--images", "2", "--n", "500", "--seconds", "0.5")
    figures, text = benchmark("throughput", tmp_path / "out.json", *sizes)
    assert all(rate > 0 for timed in figures["threads"].values() for rates in timed.values() for rate in rates)
    assert "two / one" in text


def test_throughput_of_the_large_networks(tmp_path):
    """The path of a GPU, on the CPU."""
    sizes = ("--tiny", "--rounds", "1", "--n", "64", "--batch-size", "32")
    steps = ("--steps", "float32", "tf32", "bfloat16+channels_last")
    figures, text = benchmark("throughput", tmp_path / "out.json", *sizes, *steps)
    assert set(figures["rates"]) == {"naive", *steps[1:]}
    assert figures["flop"] > 1e6
    assert "TFLOP/s" in text


def test_samples(tmp_path):
    """A hundredth of the samples' precision, and the promise still holds; on digits the streams are one."""
    figures, text = benchmark("samples", tmp_path / "out.json", "--runs", "10", "--digits-images", "1")
    assert figures["pooled_times_fewer"] >= 6
    assert all(row["times_fewer"] >= 5 for row in figures["simulated"])
    assert max(max(row["lost_points"]) for row in figures["simulated"]) <= 0.2
    assert figures["digits"]["same_stream"]
    assert "certified accuracy" in text


def test_committed_figures_keep_the_promise():
    folder = root() / "benchmarks/results"
    figures = json.loads((folder / "samples.json").read_text())
    assert figures["pooled_times_fewer"] >= 6
    assert min(row["times_fewer"] for row in figures["simulated"]) >= 5
    assert max(max(row["lost_points"]) for row in figures["simulated"]) <= 0.1
    assert figures["digits"]["same_stream"]
    for seconds in json.loads((folder / "explorer-cpu.json").read_text())["seconds"].values():
        assert np.median(seconds["purified images"], axis=0)[1] < 0.3  # of processor time
        assert np.median(seconds["first votes"], axis=0)[1] < 1
    timed = json.loads((folder / "throughput-cpu.json").read_text())
    for rates in timed["threads"].values():
        assert np.median(np.divide(rates["engine"], rates["naive"])) >= 1
    processes = timed["processes"]
    assert np.median(np.divide(processes["two"], processes["one"])) >= 1.8


@pytest.mark.parametrize(
    ("file", "report"), [("samples", "report"), ("throughput-cpu", "report_cpu"), ("explorer-cpu", "report")]
)
def test_printed_figures_are_the_committed_ones(file, report, monkeypatch):
    monkeypatch.syspath_prepend(root() / "benchmarks")
    module = importlib.import_module(file.removesuffix("-cpu"))
    written = root() / "benchmarks/results" / file
    figures = json.loads(written.with_suffix(".json").read_text())
    assert getattr(module, report)(figures) + "\n" == written.with_suffix(".txt").read_text()
