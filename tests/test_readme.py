"""The README says what the records say."""

import json
import re

import numpy as np

from cpur.paths import root
from cpur.tables import find_records, markdown, most_images, overview

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
