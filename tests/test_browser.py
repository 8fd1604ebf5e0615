"""The built book, opened from its files in a real browser without a network."""

import asyncio

import pytest
from browser import broken_links, browser, examine, executable, needed

from cpur.book import ASSETS
from cpur.paths import root

HTML = root() / "_build/html"
FAULTS = """<html><head><link rel="icon" href="data:,"></head><body><main>
<script src="https://example.org/script.js"></script>
<script>throw new Error("of the page")</script>
<script>console.error("said by the page")</script>
<img src="none.png" alt="a picture">
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==">
<span class="math">\\(x^2\\)</span>
<mjx-container><mjx-merror>Undefined control sequence</mjx-merror></mjx-container>
<div style="overflow-x: auto"><div style="width: 1000px">scrolls</div></div>
<div style="width: 1000px">too wide</div>
<div class="widget-subarea">
  <div class="widget-slider"><div class="noUi-handle" tabindex="0">dead</div></div><p>text</p>
</div>
<a href="none.html">no page</a> <a href="#none">no place</a> <a href="#here" id="here">here</a>
</main></body></html>"""


def look(html, names):
    """What :func:`browser.examine` finds, broken links among the problems."""

    async def run():
        async with browser() as context:
            return await examine(context, html, names)

    found, problems = asyncio.run(run())
    for page, lost in broken_links(html, found).items():
        problems[page] += [f"link: {link}" for link in lost]
    return found, problems


def test_each_fault_of_a_page_is_found(tmp_path):
    executable()
    (tmp_path / "page.html").write_text(FAULTS)
    _, problems = look(tmp_path, ["page.html"])
    for problem in [
        *("outside: https://example.org/script.js", "failed: https://example.org/script.js"),
        *("script: of the page", "console: said by the page"),
        *(f"failed: {tmp_path.as_uri()}/none.png", f"broken: {f'{tmp_path.as_uri()}/none.png'[-80:]}"),
        *("raw: \\(x^2\\)", "wrong: Undefined control sequence", "slider: dead"),
        *(f"link: {tmp_path.as_uri()}/none.html", f"link: {tmp_path.as_uri()}/page.html#none"),
    ]:
        assert problem in problems["page.html"]
    kinds = [problem.split(":")[0] for problem in problems["page.html"]]
    assert kinds.count("silent") == 1
    assert kinds.count("link") == 2
    wide = [problem for problem in problems["page.html"] if problem.startswith("wide")]
    assert len(wide) == 2  # the page, and what makes it wide; not the box that scrolls
    assert wide[1] == "wide: DIV.: too wide"


@pytest.fixture
def built():
    executable()
    if not (HTML / "_static/mathjax").is_dir():
        needed(f"no book with {ASSETS} in _build/html: make book")
    return HTML


def test_every_page_works_offline_and_on_a_phone(built):
    # index.html only redirects
    names = sorted(str(file.relative_to(built)) for file in built.rglob("*.html") if "<main" in file.read_text())
    found, problems = look(built, names)
    assert set(found) == set(names)
    assert not problems, "\n".join(f"{page}: {line}" for page, lines in sorted(problems.items()) for line in lines)
    assert sum(seen["formulas"] for seen in found.values()) > 50


def test_the_search_finds_pages_offline(built):
    async def search():
        async with browser() as context:
            page = await context.new_page()
            await page.goto((built / "search.html").as_uri() + "?q=purifier")
            hits = page.locator("#search-results li")
            await hits.first.wait_for()
            return await hits.count()

    assert asyncio.run(search()) >= 3
