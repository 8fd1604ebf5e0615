"""What a page needs in a browser: fetched whole or not at all, and enough for formulas and widgets."""

import asyncio
import io
import os
import tarfile
from base64 import b64encode
from hashlib import sha512

import ipywidgets as widgets
import nbformat
import pytest
from books import KERNEL, build, small_book
from browser import browser, examine, needed
from ipywidgets.embed import embed_data

from cpur.book import ASSETS
from cpur.figures import subplots
from studies import assets
from studies.assets import FOLDER, PACKAGES, Package


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A stand-in for npm that packs one file, and the package that it packs."""
    archive = tmp_path / "served.tgz"
    with tarfile.open(archive, "w:gz") as files:
        for name in ("package/dist/one.js", "package/dist/two.js", "package/other"):
            files.addfile(member := tarfile.TarInfo(name), io.BytesIO(b"x" * member.size))
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin/npm"
    npm.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncp {archive} "$4/one-1.0.tgz" && echo one-1.0.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Package("one", "1.0", b64encode(sha512(archive.read_bytes()).digest()).decode(), {"dist/*.js": "scripts"})


def test_assets_are_fetched_once_and_whole(registry, tmp_path, capsys):
    folder = tmp_path / "book/_assets"
    for _ in range(2):
        assets.main(folder, (registry,))
    assert sorted(file.name for file in folder.rglob("*") if file.is_file()) == ["one.js", "pins.json", "two.js"]
    assert (tmp_path / "calls").read_text().count("pack one@1.0") == 1
    assert capsys.readouterr().out.count("\n") == 1
    newer = Package("one", "1.1", registry.sha512, {"dist/one.js": "."})
    assets.main(folder, (newer,))
    assert sorted(file.name for file in folder.iterdir()) == ["one.js", "pins.json"]
    assert [file.name for file in folder.parent.iterdir()] == ["_assets"]


def test_what_cannot_be_fetched_is_one_sentence(registry, tmp_path, monkeypatch, rejected):
    folder = tmp_path / "_assets"
    for package, match in [
        (Package("one", "1.0", "other", registry.files), "expected other"),
        (Package("one", "1.0", registry.sha512, {"lib/*": "."}), "has no file lib"),
    ]:
        with rejected(match):
            assets.main(folder, (package,))
    (tmp_path / "bin/npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    with rejected(r"npm could not fetch one@1.0 \(ENOTFOUND\): check the network"):
        assets.main(folder, (registry,))
    monkeypatch.setenv("PATH", str(tmp_path))
    with rejected("install it"):
        assets.main(folder, (registry,))
    assert not folder.exists()


def test_what_is_pinned():
    assert {package.name for package in PACKAGES} == {"mathjax", "@jupyter-widgets/html-manager", "requirejs"}
    assert len({package.sha512 for package in PACKAGES}) == 3
    assert FOLDER.name == ASSETS != "_static"


def picture(height):
    figure, axes = subplots(1, 1)
    axes.bar([0], [height])
    figure.savefig(file := io.BytesIO(), format="png")
    data = b64encode(file.getvalue()).decode()
    return widgets.HTML(f'<img alt="a bar of height {height}" src="data:image/png;base64,{data}">')


def page_of_widgets():
    """A notebook as a kernel would have left it: a slider linked to two pictures, formulas, icons, and output."""
    slider = widgets.IntSlider(max=1, description="$\\sigma$")
    stack = widgets.Stack([picture(1), picture(2)], selected_index=0)
    link = widgets.jslink((slider, "value"), (stack, "selected_index"))
    output = widgets.Output(outputs=({"output_type": "stream", "name": "stdout", "text": "printed"},))
    box = widgets.VBox([slider, stack, widgets.HTMLMath("a formula $x^2$"), widgets.Play(), output])
    data = embed_data(views=[box], state={**embed_data(views=[box])["manager_state"]["state"], **state_of(link)})
    (view,) = data["view_specs"]
    shown = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": view})
    cells = [
        nbformat.v4.new_markdown_cell("# Widgets\n\nFormulas: $\\sigma$, $\\boldsymbol{x}$, and\n\n$$x^2$$"),
        nbformat.v4.new_code_cell("box", outputs=[shown]),
    ]
    state = {"application/vnd.jupyter.widget-state+json": data["manager_state"]}
    return nbformat.v4.new_notebook(cells=cells, metadata={"widgets": state, **KERNEL})


def state_of(widget):
    return {widget.model_id: widget._get_embed_state()}


def test_widgets_and_formulas_work_offline(tmp_path):
    """A moved slider changes the picture; a formula and an icon in a widget are drawn; nothing outside is asked for."""
    if not FOLDER.is_dir():
        needed(f"no {FOLDER}: make assets")
    nbformat.write(page_of_widgets(), small_book(tmp_path, ["page"], []) / "page.ipynb")
    status, output = build(tmp_path, "-W", "-n")
    assert status == 0, output
    assert "make book" not in output
    html = tmp_path / "_build/html"
    assert "jsdelivr" not in (html / "page.html").read_text()

    async def look():
        async with browser() as context:
            return await examine(context, html, ["page.html"])

    found, problems = asyncio.run(look())
    assert not problems
    assert found["page.html"]["sliders"] == 1
    assert found["page.html"]["formulas"] == 5
