"""The README says what the records say."""

import re

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
