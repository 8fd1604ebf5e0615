"""The live explorer in a browser: Voila serves the notebook, Chromium turns the controls.

Skipped where Voila, Playwright or Chromium is missing, but for ``CPUR_BROWSER=required``. Voila's page asks a server
outside for Font Awesome, icons that the explorer has none of, and no option of Voila's turns that off: whatever is
outside is answered here with an empty file, and nothing else may be asked for.
"""

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from browser import executable, needed

from cpur.paths import root

PATIENCE = 30  # seconds
FONTS = "https://cdn.jsdelivr.net/npm/@fortawesome/"


@pytest.fixture(scope="module")
def voila(tmp_path_factory):
    """The address of the explorer, served as `make explore` does."""
    executable()
    if importlib.util.find_spec("voila") is None:
        needed("no voila: pip install voila")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", root() / "notebooks/explore.ipynb", "--no-browser", f"--port={port}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root())}
    log = tmp_path_factory.mktemp("voila") / "log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            address = f"http://localhost:{port}/"
            deadline = time.monotonic() + PATIENCE
            while not answers(f"{address}voila/static/voila.js"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(PATIENCE)


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status == 200
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@pytest.fixture
def page(voila):
    """A page that has shown its first image, and a list of what went wrong on it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(1000 * PATIENCE)
        outside = []

        def answer(route):
            outside.append(route.request.url)
            route.fulfill(body="", content_type="text/css")

        page.route(lambda url: not url.startswith((voila, "data:", "blob:")), answer)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(voila)
        yield page
        browser.close()
    assert wrong == []
    assert [url for url in outside if not url.startswith(FONTS)] == []


def test_the_explorer_answers(page):
    def handle(number):
        return page.locator(".noUi-handle").nth(number)

    def alt(start):
        """The text of the picture that starts so; the page may hold no other."""
        return page.locator(f'img[alt^="{start}"]')

    done = page.get_by_role("status").filter(has_text="Done.")
    done.wait_for()
    assert page.locator("img").count() == 4
    assert page.locator("img").evaluate_all("images => images.every(one => one.naturalWidth > 400)")

    handle(1).press("ArrowLeft")
    alt("The PF-ODE needs 15 network calls from σ = 0.45").wait_for()
    done.wait_for()

    before = page.locator("img").first.get_attribute("alt")
    handle(0).press("ArrowRight")
    page.wait_for_function("before => document.querySelector('img').alt != before", arg=before)
    done.wait_for()

    votes = page.locator('img[alt*="votes for class"]')
    assert "of 1,000 votes" in votes.get_attribute("alt")
    page.get_by_label("samples").select_option("100")
    page.locator('img[alt*="of 100 votes"]').wait_for()
    done.wait_for()
    before = votes.get_attribute("alt")
    page.get_by_label("purifier").select_option("none, 0 calls")
    page.wait_for_function(
        "before => !document.querySelector(`img[alt=\"${before}\"]`) && document.querySelectorAll('img').length == 4",
        arg=before,
    )
    done.wait_for()

    handle(1).press("Home")  # sigma 0
    page.get_by_role("status").filter(has_text="sigma must lie in (0, 16]").wait_for()
    assert page.locator("img").count() == 0
    handle(1).press("End")
    done.wait_for()
    assert page.locator("img").count() == 4
    assert not re.search("Traceback|Error", page.inner_text("body"))
