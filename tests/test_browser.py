"""The built book, opened from its files in a real browser without a network."""

import asyncio

import pytest
from browser import broken_links, browser, examine, executable, needed

from cpur.book import ASSETS
from cpur.paths import root

HTML = root() / "_build/html"


def pages(html):
    """The pages of a built book; ``index.html`` only redirects."""
    return sorted(str(file.relative_to(html)) for file in html.rglob("*.html") if "<main" in file.read_text())


@pytest.fixture
def built():
    executable()
    if not (HTML / "_static/mathjax").is_dir():
        needed(f"no book with {ASSETS} in _build/html: make book")
    return HTML


def test_every_page_works_offline_and_on_a_phone(built):
    names = pages(built)

    async def look():
        async with browser() as context:
            return await examine(context, built, names)

    found, problems = asyncio.run(look())
    assert set(found) == set(names)
    for page, lost in broken_links(built, found).items():
        problems[page] += [f"link: {link}" for link in lost]
    assert not problems, "\n".join(f"{page}: {line}" for page, lines in sorted(problems.items()) for line in lines)
    assert sum(seen["formulas"] for seen in found.values()) > 50


def test_the_search_finds_pages_offline(built):
    async def look():
        async with browser() as context:
            page = await context.new_page()
            await page.goto((built / "search.html").as_uri() + "?q=purifier")
            hits = page.locator("#search-results li")
            await hits.first.wait_for()
            return await hits.count()

    assert asyncio.run(look()) >= 3
