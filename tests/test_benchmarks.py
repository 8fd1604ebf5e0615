"""The benchmarks, at tiny size: what they print is not looked at, what they count is."""

import importlib
import json

import numpy as np
import pytest
import tyro

from cpur.paths import root


@pytest.fixture
def benchmark(monkeypatch, tmp_path, capsys):
    """Runs a benchmark in this process, by the arguments of its command; gives its figures and what it prints."""
    monkeypatch.syspath_prepend(root() / "benchmarks")

    def run(name, *arguments):
        out = tmp_path / "out.json"
        tyro.cli(importlib.import_module(name).main, args=["--out", str(out), *arguments])
        return json.loads(out.read_text()), capsys.readouterr().out

    return run


def test_throughput_of_the_digits(benchmark):
    figures, text = benchmark("throughput", "--rounds", "1", "--images", "2", "--n", "500", "--seconds", "0.5")
    assert all(rate > 0 for timed in figures["threads"].values() for rates in timed.values() for rate in rates)
    assert all(rate > 0 for rates in figures["processes"].values() for rate in rates)
    assert "two / one" in text


def test_throughput_of_the_large_networks(benchmark):
    """The path of a GPU, on the CPU."""
    steps = ("float32", "tf32", "bfloat16+channels_last")
    sizes = ("--tiny", "--rounds", "1", "--n", "16", "--batch-size", "8")
    figures, text = benchmark("throughput", *sizes, "--steps", *steps)
    assert set(figures["rates"]) == {"naive", *steps}
    assert figures["flop"] > 1e6
    assert "TFLOP/s" in text


def test_samples(benchmark):
    """A hundredth of the samples' precision, and the promise still holds."""
    figures, _ = benchmark("samples", "--runs", "10")
    assert figures["pooled_times_fewer"] >= 6
    assert all(row["times_fewer"] >= 5 for row in figures["simulated"])
    assert max(max(row["lost_points"]) for row in figures["simulated"]) <= 0.2


def test_samples_of_digits(benchmark, monkeypatch):
    """On digits the streams are one."""
    samples = importlib.import_module("samples")
    monkeypatch.setattr(samples, "N", 20_000)
    digits = samples.digits(1, 0.5, "onestep-edm")
    assert digits["same_stream"]
    assert digits["fixed"]["samples"] == 20_100
    simulated = [samples.compare("beta", {"sigma": 0.5, "p_A": [0.9], "label_is_top": [True]}, 2)]
    text = samples.report({"runs": 2, "simulated": simulated, "pooled_times_fewer": 1.0, "digits": digits})
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
