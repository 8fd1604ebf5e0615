"""What tests of built pages in a real browser share: Debian's chromium, driven by playwright."""

import asyncio
import os
import shutil
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}
TABS = 4
WAIT_MS = 20_000

LOOK = """async () => {
    await document.fonts.ready;
    if (window.MathJax?.startup) await MathJax.startup.promise;
    const all = (selector) => [...document.querySelectorAll(selector)];
    const source = (e) => e.src.slice(-80);
    return {
        ids: all("[id]").map((e) => e.id),
        links: all("a[href], link[href]").map((e) => e.href),
        raw: all(".math").filter((e) => !e.querySelector("mjx-container")).map((e) => e.textContent),
        wrong: all("mjx-merror, [data-mjx-error]").map((e) => e.closest("mjx-container").textContent),
        silent: all("img").filter((e) => !e.alt.trim() && !e.closest("[aria-hidden=true]")).map(source),
        broken: all("img").filter((e) => e.complete && !e.naturalWidth).map(source),
        fonts: [...document.fonts].filter((font) => font.status === "error").map((font) => font.family),
        formulas: all("mjx-container").length,
        sliders: all(".widget-slider").length,
    };
}"""

# What reaches over the right edge and lies in no box that scrolls. Text that is only read aloud is clipped to a point.
WIDE = """() => {
    const style = (e) => getComputedStyle(e);
    const scrolls = (e) => e && (["auto", "scroll"].includes(style(e).overflowX) || scrolls(e.parentElement));
    const over = [...document.querySelectorAll("main *")].filter((e) =>
        e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("mjx-assistive-mml")
        && !scrolls(e.parentElement) && style(e).position !== "fixed");
    const width = document.documentElement.scrollWidth;
    const parts = over.slice(0, 5).map((e) => `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 60)}`);
    return [...(width > innerWidth ? [`page ${width} px`] : []), ...parts];
}"""

# The visible texts and pictures of the widget that a slider belongs to, the sliders themselves apart.
SHOWN = """(slider) => {
    const area = slider.closest(".widget-subarea");
    const parts = [...area.querySelectorAll("*")].filter((e) => e.checkVisibility() && !e.closest(".widget-slider"));
    return parts.map((e) => e.tagName === "IMG" ? e.src : e.childElementCount ? "" : e.textContent).join("|");
}"""


def needed(what: str) -> None:
    """Skips a test that lacks something, or fails it where CPUR_BROWSER=required says that nothing may be lacking."""
    (pytest.fail if os.environ.get("CPUR_BROWSER") == "required" else pytest.skip)(what)


def executable() -> str:
    """The browser of this machine."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        needed("no chromium on this machine: apt-get install chromium")
    return found


@asynccontextmanager
async def browser():
    """One browser without a network."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        try:
            yield await running.new_context(offline=True, viewport=DESK)
        finally:
            await running.close()


async def move(page, slider) -> bool:
    """Moves a slider by the keyboard; whether something visible outside of it changed."""
    before = await slider.evaluate(SHOWN)
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):  # one of them is a move wherever the slider stands
        await slider.locator(".noUi-handle").first.press(key)
        await page.wait_for_timeout(100)
        if await slider.evaluate(SHOWN) != before:
            return True
    return False


async def examine(context, html: Path, names: list[str]) -> tuple[dict, dict]:
    """Opens every page from its file.

    Args:
        context: of :func:`browser`.
        html: folder of the built book.
        names: paths of the pages below it.

    Returns:
        What :data:`LOOK` found on each page, and a list of problems for each page that has some.
    """
    inside, found, problems, waiting = html.as_uri() + "/", {}, defaultdict(list), list(names)

    async def work():
        page, name = await context.new_page(), ""

        def note(kind, text):
            problems[name].append(f"{kind}: {text}")

        page.on("console", lambda message: message.type == "error" and note("console", message.text))
        page.on("pageerror", lambda error: note("script", error))
        page.on("requestfailed", lambda request: note("failed", request.url))
        page.on("request", lambda r: r.url.startswith((inside, "data:", "blob:")) or note("outside", r.url))
        while waiting:
            name = waiting.pop()
            await page.set_viewport_size(DESK)
            await page.goto(inside + name)
            # widgets are drawn after the page has loaded
            if await page.locator('script[type="application/vnd.jupyter.widget-view+json"]').count():
                await page.locator(".widget-subarea > *").last.wait_for(timeout=WAIT_MS)
            found[name] = seen = await page.evaluate(LOOK)
            for kind in ("raw", "wrong", "silent", "broken", "fonts"):
                for text in seen[kind]:
                    note(kind, text)
            for slider in await page.locator(".widget-slider").all():
                if not await move(page, slider):
                    note("slider", await slider.text_content())
            await page.set_viewport_size(PHONE)
            for text in await page.evaluate(WIDE):
                note("wide", text)
            if seen["sliders"]:  # what a moved slider left in the queue may still fail
                await page.wait_for_timeout(500)
        await page.close()

    await asyncio.gather(*(work() for _ in range(min(TABS, len(names)))))
    return found, problems


def broken_links(html: Path, found: dict) -> dict[str, list[str]]:
    """The links of each page that lead to no file of the book, or to no place on a page of it."""
    lost = defaultdict(list)
    for name, seen in found.items():
        for link in set(seen["links"]):
            if link.startswith("file:"):
                address, fragment = urldefrag(link)
                target = Path(unquote(address.removeprefix("file://").split("?")[0]))
                ids = found.get(str(target.relative_to(html)), {}).get("ids") if target.is_relative_to(html) else None
                if not target.is_file() or (fragment and ids is not None and unquote(fragment) not in ids):
                    lost[name].append(link)
    return lost
