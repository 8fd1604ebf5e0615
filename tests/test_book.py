"""The book: pages that are run when stale, and the literal build."""

import json
import re
import shutil

import nbformat
import pytest
import yaml
from books import build, notebook, small_book
from browser import needed

from cpur import cli
from cpur.book import ASSETS, Page, read_pages
from cpur.paths import root
from cpur.records import LOOKS, read_lines, record_files, standing


@pytest.fixture
def page(tmp_path):
    source = "from cpur.progress import bar\n\nfor _ in bar([1], 0, 1):\n    print(x)"
    notebook(tmp_path / "source.ipynb", source)
    (tmp_path / "record").write_text("1")
    return Page(tmp_path / "out/page.ipynb", tmp_path / "source.ipynb", {"x": 2}, [tmp_path / "record"], "New")


def test_a_page_is_run_once(page):
    assert page.is_stale()
    page.run()
    assert not page.is_stale()
    done = nbformat.read(page.output, as_version=4)
    assert done.cells[0].source == "# New\n\nText."
    (output,) = done.cells[-1].outputs  # and no empty one where the bar was
    assert output.text == "2\n"
    assert sorted(file.name for file in page.output.parent.iterdir()) == ["page.ipynb", "page.sha256"]


def test_a_page_is_stale_when_what_it_depends_on_changes(page, tmp_path):
    page.run()
    (tmp_path / "record").write_text("2")
    assert page.is_stale()
    (tmp_path / "record").write_text("1")
    assert not page.is_stale()
    notebook(tmp_path / "source.ipynb", "print(x + 1)")
    assert page.is_stale()
    assert Page(page.output, page.notebook, {"x": 3}, page.reads).is_stale()


def test_a_failing_page_leaves_nothing_behind(page, tmp_path):
    notebook(tmp_path / "source.ipynb", "1 / 0")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        page.run()
    assert not list(page.output.parent.iterdir())


def test_pages_of_the_book_are_in_its_toc():
    toc = yaml.safe_load((root() / "book/_toc.yml").read_text())
    files = {toc["root"]} | {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    outputs = [page.output for page in read_pages(root() / "book/pages.yml")]
    pages = {str(output.relative_to(root() / "book").with_suffix("")) for output in outputs}
    assert pages <= files
    for entry in yaml.safe_load((root() / "book/pages.yml").read_text())["pages"]:
        for pattern in entry["reads"]:
            assert list(root().glob(pattern)), f"no file matches {pattern}"
    for file in files - pages:
        assert (root() / "book" / f"{file}.md").is_file()


def test_bad_pages(tmp_path, rejected):
    for entry, match in [
        ({"output": "a.ipynb", "notebook": "notebooks/none.ipynb"}, "no notebook"),
        ({"output": "a.ipynb", "notebook": "notebooks/certify.ipynb", "params": {}}, "unknown keys"),
    ]:
        (tmp_path / "pages.yml").write_text(json.dumps({"pages": [entry]}))
        with rejected(match):
            read_pages(tmp_path / "pages.yml")


def test_a_page_that_fails_is_named_and_the_rest_is_built(tmp_path):
    """Without the fetched scripts, too: the build says so, and takes the public ones."""
    notebook(tmp_path / "good.ipynb", "print('good', x)")
    notebook(tmp_path / "bad.ipynb", "y = x\n\n1 / 0")
    names = {"bad": {"x": 2}, "good": {"x": 1}}
    entries = [
        {"output": f"pages/{name}.ipynb", "notebook": str(tmp_path / f"{name}.ipynb"), "parameters": parameters}
        for name, parameters in names.items()
    ]
    book = small_book(tmp_path, ["pages/good", "pages/bad"], entries)
    (book / ASSETS).unlink(missing_ok=True)
    status, output = build(tmp_path)
    assert status == 0
    reason = f"code cell 2 (y = x) of {tmp_path}/bad.ipynb failed: ZeroDivisionError: division by zero"
    assert f"WARNING: page bad.ipynb: {reason}\n" in output
    assert output.count("WARNING: ") == 1
    (line,) = [line for line in output.splitlines() if "make book" in line]
    assert line.startswith("book/_assets is not there")
    html = tmp_path / "_build/html/pages"
    assert "good 1" in (html / "good.html").read_text()
    text = (html / "bad.html").read_text()
    assert "<h1>Title" in text
    assert "ZeroDivisionError" in text
    assert 'href="bad.html"' in (html / "good.html").read_text()
    status, output = build(tmp_path, "-W")
    assert status != 0
    assert re.findall("^running .*/(.*) for", output, re.M) == ["bad.ipynb"]  # it alone is run again


def test_the_book_builds_without_warnings(tmp_path):
    """The literal command, in a copy of the sources, warnings as errors; running its pages is not the matter here."""
    stale = [page.output.name for page in read_pages(root() / "book/pages.yml") if page.is_stale()]
    if stale:
        needed(f"pages that were not run ({', '.join(stale)}): make book")
    for name in ("book", "benchmarks", "cpur", "CITATION.cff", "_config.yml", "_toc.yml"):
        source = root() / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    status, output = build(tmp_path, "-W", "-n", "--keep-going")
    assert status == 0, output[-5000:]
    assert not re.findall("^running ", output, re.M)
    html = tmp_path / "_build/html"
    toc = yaml.safe_load((root() / "book/_toc.yml").read_text())
    for page in (toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])):
        text = (html / f"{page}.html").read_text()
        assert "<h1>" in text
        assert "Traceback" not in text
        assert "Warning: " not in text
    for page in read_pages(tmp_path / "book/pages.yml"):
        assert ("image/png" in page.output.read_text()) is (page.notebook.stem != "checkpoints"), page.output
    assert "Cohen" in (html / "references.html").read_text()


def test_the_page_of_records_names_every_key():
    page = (root() / "book/records.md").read_text()
    for file in record_files(root() / "records"):
        header, (line, *_) = read_lines(file)
        for key in (*header, *header["identity"], *header["hardware"], *line):
            assert f"`{key}`" in page, key
    assert f"`{LOOKS}`" in page
    named = re.search(r'load_record\("(.+)"\)', page).group(1)
    assert standing(root() / named).is_file()


def test_the_page_of_plans_shows_what_the_command_prints(capsys):
    cli.plan()
    assert capsys.readouterr().out == (root() / "book/assets/plan.txt").read_text()


def test_commands_in_the_pages_are_commands():
    for page in ("plans", "records", "scale", "own-classifier", "finetune"):
        text = (root() / f"book/{page}.md").read_text()
        for name in re.findall(r"(?:^|-- |`)cpur ([a-z]+)", text, re.M):
            assert name in {command.__name__ for command in cli.COMMANDS}, name


def test_python_of_the_page_on_classifiers(monkeypatch):
    """Its second code block, literally."""
    text = (root() / "book/own-classifier.md").read_text()
    monkeypatch.syspath_prepend(root() / "book/examples")
    namespace = {}
    exec(re.search(r"```python\n(.+?)```", text, re.S).group(1), namespace)
    assert namespace["radius"] >= 0
    assert namespace["prediction"] in {-1, *range(10)}
