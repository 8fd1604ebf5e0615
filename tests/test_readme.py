"""The README says what the records say."""

import json
import re

import numpy as np

from cpur import CertifyConfig, load_record
from cpur.engine import record_file
from cpur.paths import root
from cpur.records import read_lines, record_files, standing
from cpur.tables import find_records, markdown, most_images, overview, summary_row

README = (root() / "README.md").read_text()


def test_table_is_that_of_the_records():
    assert markdown(overview(most_images(find_records("records", dataset="digits")))) in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (root() / target).exists()


def test_make_targets_exist():
    makefile = (root() / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_figures_of_the_benchmarks_are_the_committed_ones():
    folder = root() / "benchmarks/results"
    rates = json.loads((folder / "throughput-cpu.json").read_text())["threads"]["2"]
    ratios = np.divide(rates["engine"], rates["naive"])
    assert f"{np.median(ratios):.2f} times [{ratios.min():.2f}–{ratios.max():.2f} over five rounds]" in README
    samples = json.loads((folder / "samples.json").read_text())
    assert f"{samples['pooled_times_fewer']:.1f}\ntimes fewer samples" in README
    seconds = [samples["digits"][plan]["seconds"] for plan in ("sequential", "fixed")]
    assert "it took {:.0f} s instead of {:.0f} s".format(*seconds) in README


def test_the_certified_images_are_the_first_of_the_committed_record():
    """`make certify` takes the first 200 images with the noise of the committed record, so it counts the same."""
    config = CertifyConfig(num_images=500, records_dir="records")
    header, frame = load_record(standing(record_file(config)))
    for name, value in summary_row(header, frame.head(CertifyConfig().num_images)).items():
        assert re.search(rf"^{name} +{re.escape(str(value))}$", README, re.M), name


def test_durations_are_near_what_was_recorded():
    """Within a third: what the cards say of training, what the records say of sampling."""
    cards = (root() / "models").glob("*/README.md")
    seconds = [re.search(r"`make models`.+?(\d+)\s+s\s+on", card.read_text(), re.S) for card in cards]
    near("about half an hour on two cores", 0.5, sum(int(found.group(1)) for found in seconds if found) / 2)
    sampled = 0
    for folder in ("ablation", "calibration", "shift", "baselines", "attacks"):
        for file in (root() / "records" / folder).rglob("*.jsonl.gz"):
            sampled += sum(line["seconds"] for line in read_lines(file)[1])
    near("about six hours of sampling on one core", 6, sampled)
    rates = json.loads((root() / "benchmarks/results/throughput-cpu.json").read_text())["threads"]["2"]
    calls = 0
    for file in record_files(root() / "records") + record_files(root() / "records/cascade"):
        header, lines = read_lines(file)
        calls += max(1, header["network_calls"]) * sum(line["n0"] + line["n"] for line in lines)
    near("about an hour and a half", 1.5, calls / np.median(rates["engine"]))


def near(words, hours, seconds):
    assert words in README
    assert abs(seconds / 3600 - hours) <= hours / 3, (words, seconds / 3600)
