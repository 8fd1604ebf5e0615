"""The pages as a reader meets them: how they open and close, the numbers they name, the commands they print."""

import functools
import re
import shlex
from os.path import normpath
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tyro
import yaml

from cpur import CertifyConfig, cli, load_record
from cpur.book import read_pages
from cpur.engine import record_file
from cpur.paths import root
from cpur.records import standing
from cpur.schedules import karras_sigmas
from cpur.tables import cells
from studies.numbers import NAMED, numbers, read_digits, unknown

BOOK = root() / "book"
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text())
FILES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
SOURCES = {f"pages/{page.output.stem}": page.notebook for page in read_pages(BOOK / "pages.yml")}
DOCUMENTS = ["README.md", *(f"book/{file}.md" for file in FILES if (BOOK / f"{file}.md").is_file())]
DOCUMENTS += [f"notebooks/{path.name}" for path in sorted((root() / "notebooks").glob("*.ipynb"))]


def text(source):
    """The Markdown of a page, of a notebook that of its cells."""
    if source.suffix == ".md":
        return source.read_text()
    cells = nbformat.read(source, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def page_text(file):
    return text(SOURCES.get(file, BOOK / f"{file}.md"))


@pytest.mark.parametrize("file", FILES)
def test_a_page_opens_with_a_sentence_on_what_it_shows(file):
    title, first, *_ = page_text(file).split("\n\n")
    assert re.match(r"# \S", title)
    assert "\n" not in title
    sentence = re.split(r"(?<=[.?!:])\s", " ".join(first.split()))[0]
    assert re.match(r"[A-Z*]", sentence), "no prose"
    assert sentence[-1] in ".:", "a question, or no sentence"
    assert 20 <= len(sentence) <= 320


@pytest.mark.parametrize("file", FILES)
def test_a_page_closes_with_where_to_go(file):
    last = page_text(file).rstrip().split("\n\n")[-1]
    assert last.startswith("Next: ")
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", last) if "://" not in target]
    assert links
    for link in links:
        target = Path("pages", link) if file in SOURCES else Path(file).parent / link
        name = normpath(target).removesuffix(".md")
        assert name in FILES, link
        assert name != file


def test_links_between_pages_say_which_kind():
    """`[x](records)` could be the page or the module cpur.records: such a link names the file, or a folder too."""
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", text(root() / document)):
            assert not (root() / f"cpur/{link}.py").exists(), f"{document}: {link}"


def test_numbers_in_the_text_are_those_of_the_records():
    found = numbers()
    named = {name for page in BOOK.glob("*.md") for name in NAMED.findall(page.read_text())}
    assert named == set(found)
    for name, purifier in {"none": "none", "edm": "onestep-edm"}.items():
        config = CertifyConfig(purifier=purifier, num_images=500, records_dir="records")
        row = cells(*load_record(standing(record_file(config))), [0.0, 0.25])
        assert [found[f"{name}_at_0"], found[f"{name}_at_25"]] == list(row.values())
    assert found["calls_pfode"] == "15"
    looks = (BOOK / "assets/plan.txt").read_text().splitlines()[9].split()
    assert int(found["plan_hits"].replace(",", "")) + int(found["plan_more"]) == int(looks[4])


def test_a_number_that_is_missing_is_named(tmp_path):
    (tmp_path / "page.md").write_text("It is {{ images }} of {{nowhere}}.")
    assert unknown(tmp_path, {"images"}) == ["page.md: nowhere"]
    with pytest.raises(LookupError, match="make records"):
        read_digits("none", sigma=0.3)


def test_grid_times_in_the_page_of_purifiers():
    """Published constants, typed: of the 18 times of the CIFAR-10 consistency models, the one nearest to 2 sigma."""
    times = karras_sigmas(80.0, 0.002, 18)[:-1].numpy()
    nearest = [times[np.abs(times - 2 * sigma).argmin()] for sigma in (0.25, 0.5, 1.0)]
    assert "{:.3f} for $\\sigma$ = 0.25, {:.3f} for 0.5 and {:.3f} for 1".format(*nearest) in page_text("purifiers")


def commands(document):
    """The commands that a page prints, in blocks and in lines, continued lines joined."""
    source = text(root() / document).replace("\\\n", " ")
    blocks = re.findall(r"^```(?:bash|sh)?\n(.+?)^```", source, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.+?^```", "", source, flags=re.M | re.S)
    lines += re.findall(r"`((?:cpur|papermill|python|make) [^`\n]+)`", prose)
    return [line.split(" #")[0].strip() for line in lines if line.strip()]


PRINTED = sorted({(document, line) for document in DOCUMENTS for line in commands(document)})


def parse(line):
    """Parses a cpur command with the parser of the command line, and runs nothing."""
    words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "0"))
    stubs = {command.__name__: functools.wraps(command)(lambda *_, **__: None) for command in cli.COMMANDS}
    tyro.extras.subcommand_cli_from_dict(stubs, args=words)


def test_commands_of_the_package_parse():
    found = {re.sub(r"^.*?(-- |-m |^)cpur ", "", line) for _, line in PRINTED if re.search(r"(^|-- |-m )cpur ", line)}
    names = {line for line in found if " " not in line}
    assert names <= {command.__name__ for command in cli.COMMANDS}
    assert len(found - names) > 15
    for line in found - names - {"COMMAND --help"}:
        parse(line)


def test_a_wrong_command_does_not_parse():
    with pytest.raises(SystemExit):
        parse("certify --sigme 0.5")


def test_commands_of_papermill_name_notebooks_and_their_parameters():
    found = [line for _, line in PRINTED if line.startswith("papermill ")]
    assert len(found) > 8
    for line in found:
        notebook = root() / re.search(r"notebooks/\w+\.ipynb", line).group()
        cells = nbformat.read(notebook, as_version=4).cells
        known = next(cell.source for cell in cells if cell.cell_type == "code")
        named = re.findall(r"-p (\w+)", line) + re.findall(r"-y [\"'](\w+):", line)
        assert set(named) <= set(re.findall(r"^(\w+):", known, re.M)), line


def test_commands_of_python_and_make_name_what_is_there():
    makefile = (root() / "Makefile").read_text()
    for document, line in PRINTED:
        if script := re.match(r"python (\S+\.py)", line):
            assert (root() / script.group(1)).is_file(), (document, line)
        if module := re.match(r"python -m (studies\.\w+)", line):
            assert (root() / f"{module.group(1).replace('.', '/')}.py").is_file(), (document, line)
        if target := re.match(r"make ([a-z]+)", line):
            assert re.search(rf"^{target.group(1)}:", makefile, re.M), (document, line)


def test_citation_is_that_of_the_file():
    page, card = page_text("cite"), yaml.safe_load((root() / "CITATION.cff").read_text())
    assert f"title = {{{card['title']}}}" in page
    assert f"version = {{{card['version']}}}" in page
    assert card["authors"][0]["name"] in page
    entries = (BOOK / "references.bib").read_text()
    for reference in card["references"]:
        (entry,) = [part for part in entries.split("\n\n") if reference["title"] in part]
        assert str(reference["year"]) in entry
        assert all(author["family-names"] in entry for author in reference["authors"])
    shown = entries.split("@inproceedings{cohen2019")[0]
    assert all(reference["title"] in shown for reference in card["references"])


def test_every_key_that_is_cited_is_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text(), re.M))
    for document in DOCUMENTS:
        for group in re.findall(r"\{cite(?::t)?\}`([^`]+)`", text(root() / document)):
            assert set(group.split(",")) <= keys, (document, group)


def test_what_a_page_includes_is_there():
    """literalinclude of sources names files and objects; Sphinx says so late."""
    for file in FILES:
        if file in SOURCES:
            continue
        for target, name in re.findall(r"```\{literalinclude\} (\S+)\n(?::pyobject: ([\w.]+))?", page_text(file)):
            source = (BOOK / target).read_text()
            if name:
                assert re.search(rf"(def|class) {name.split('.')[-1]}\b", source), name


def test_no_result_is_typed():
    """A share with its interval is computed in a cell, or substituted."""
    typed = re.compile(r"\d+\.\d+ \[\d+\.\d+–\d+\.\d+\]")
    for document in DOCUMENTS[1:]:
        assert not typed.search(text(root() / document)), document
