"""A Sphinx extension: papermill runs the pages of the book that are missing or stale, before Sphinx reads.

Scripts for formulas and widgets come from ``book/_assets`` where ``make assets`` has put them there; a built page
then asks for nothing outside the book.

``book/pages.yml`` names for each page its notebook, the parameters, and the files it reads. A page is
stale when the notebook, the parameters or one of those files has changed since it was run; a digest stands
beside it. The files of ``may_read`` count as well, and there may be none of them yet. A change of package code makes no
page stale: ``FRESH=1`` runs every page anew.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cpur import __version__
from cpur.errors import InputError
from cpur.paths import root, shown

ASSETS = "_assets"  # below the book; studies.assets fills it


@dataclass(frozen=True)
class Page:
    """A page of the book that a notebook makes."""

    output: Path  # an .ipynb below book/
    notebook: Path
    parameters: dict[str, Any]
    reads: list[Path]  # records and model files
    title: str | None = None  # replaces the notebook's heading

    def digest(self) -> str:
        """SHA-256 of all that makes the page stale."""
        parts = [
            self.notebook.read_bytes(),
            json.dumps([self.parameters, self.title], sort_keys=True).encode(),
        ]
        parts += [shown(file).encode() + b"\0" + file.read_bytes() for file in self.reads]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    @property
    def stamp(self) -> Path:
        """Where the digest of the run stands."""
        return self.output.with_suffix(".sha256")

    def is_stale(self) -> bool:
        """Whether the page must be run."""
        current = self.output.is_file() and self.stamp.is_file() and self.stamp.read_text().strip()
        return current != self.digest()

    def run(self) -> None:
        """Runs the notebook into a temporary file and renames it, so that a page is whole or absent."""
        import nbformat
        import papermill

        digest = self.digest()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        partial = self.output.with_suffix(".partial.ipynb")
        try:
            papermill.execute_notebook(
                str(self.notebook),
                str(partial),
                self.parameters,
                progress_bar=False,
                cwd=str(root()),
                extra_arguments=["--IPKernelApp.log_level=40"],  # else every kernel warns of its transport
            )
            notebook = nbformat.read(partial, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":  # a progress bar leaves an empty display, which the book would frame
                    cell.outputs = [output for output in cell.outputs if not _is_empty(output)]
            if self.title:
                rest = notebook.cells[0].source.split("\n")[1:]
                notebook.cells[0].source = "\n".join([f"# {self.title}", *rest])
            nbformat.write(notebook, partial)
            partial.replace(self.output)
        finally:
            partial.unlink(missing_ok=True)
        self.stamp.write_text(digest + "\n")

    def keep_place(self, reason: str) -> None:
        """Writes a page that says why there is none, so that contents and links hold; it stays stale."""
        import nbformat

        self.stamp.unlink(missing_ok=True)
        first = nbformat.read(self.notebook, as_version=4).cells[0].source.split("\n")[0].removeprefix("# ")
        text = (
            f"# {self.title or first}\n\nThis page is missing, because its notebook failed:\n\n```text\n{reason}\n```"
        )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), self.output)


def _is_empty(output: dict[str, Any]) -> bool:
    return "data" in output and not any(output["data"].values())


def read_pages(file: Path) -> list[Page]:
    """Reads ``pages.yml``; paths are relative to the repository, outputs to the book.

    Raises:
        InputError: an entry with unknown keys, or a missing notebook.
    """
    pages = []
    for entry in yaml.safe_load(file.read_text())["pages"]:
        unknown = set(entry) - {"output", "notebook", "parameters", "reads", "may_read", "title"}
        notebook = root() / entry["notebook"]
        if unknown or not notebook.is_file():
            raise InputError(f"{shown(file)}: unknown keys {unknown or '{}'} or no notebook {entry['notebook']}")
        patterns = entry.get("reads", []) + entry.get("may_read", [])
        found = {path for pattern in patterns for path in root().glob(pattern) if path.is_file()}
        parameters = entry.get("parameters", {})
        pages.append(Page(file.parent / entry["output"], notebook, parameters, sorted(found), entry.get("title")))
    return pages


def describe(error: Exception, source: Path) -> str:
    """One line on why a notebook failed: the code cell, its first line, and the error; cells count from 1."""
    import nbformat

    if not hasattr(error, "ename"):  # of papermill.exceptions.PapermillExecutionError; a kernel that died has none
        return f"{shown(source)} failed: {type(error).__name__}: {error}".split("\n")[0]
    cells = [cell.source for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
    # papermill's own count includes the cell of parameters that it adds
    number = cells.index(error.source) + 1 if error.source in cells else "of parameters"
    line = error.source.strip().split("\n")[0]
    return f"code cell {number} ({line}) of {shown(source)} failed: {error.ename}: {error.evalue}".split("\n")[0]


def make_pages(app, config) -> None:
    """Runs what is missing or stale; a page that fails is named and its place is kept, and the others are built."""
    from sphinx.errors import ConfigError
    from sphinx.util import logging

    logger = logging.getLogger(__name__)
    try:
        pages = read_pages(Path(app.srcdir) / "pages.yml")
    except InputError as error:
        raise ConfigError(str(error)) from error
    for page in pages:
        if os.environ.get("FRESH") or page.is_stale():
            logger.info("running %s for %s", shown(page.notebook), page.output.name)
            try:
                page.run()
            except Exception as error:  # whatever one page does, the rest of the book is built
                reason = describe(error, page.notebook)
                page.keep_place(reason)
                logger.warning("page %s: %s", page.output.name, reason)


def work_offline(app, config) -> None:
    """Names the fetched scripts where they are there, and says in a sentence what to do where they are not."""
    from sphinx.util import logging

    if not (Path(app.srcdir) / ASSETS / "pins.json").is_file():
        logging.getLogger(__name__).info(
            "%s is not there, so formulas and widgets will need the internet: run `make book` for a book that does not",
            f"{Path(app.srcdir).name}/{ASSETS}",
        )
        return
    config.html_static_path = [*config.html_static_path, ASSETS]
    config.mathjax_path = "mathjax/tex-mml-chtml.js"
    # the manager looks for widgets it does not know below that address, which is by default a public server's
    local = {"data-jupyter-widgets-cdn": "widgets/"}
    config.nb_ipywidgets_js = {"widgets/require.js": {}, "widgets/embed-amd.js": local}


def leave_out_thebe(app, config) -> None:
    """Jupyter Book brings a launcher of remote kernels to every page; this book has none, and asks for nothing."""
    for listener in [each for event in app.events.listeners.values() for each in event]:
        if listener.handler.__module__ == "sphinx_thebe":
            app.disconnect(listener.id)
    app.registry.css_files = [each for each in app.registry.css_files if each[0] != "sphinx-thebe.css"]


def setup(app) -> dict[str, Any]:
    """Registers the extension."""
    for step in (make_pages, work_offline, leave_out_thebe):
        app.connect("config-inited", step, priority=0)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
