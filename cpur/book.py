"""A Sphinx extension: papermill runs the pages of the book that are missing or stale, before Sphinx reads.

``book/pages.yml`` names for each page its notebook, the parameters, and the files it reads. A page is
stale when the notebook, the parameters or one of those files has changed since it was run; a digest stands
beside it. A change of package code makes no page stale: ``FRESH=1`` runs every page anew.
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
                str(self.notebook), str(partial), self.parameters, progress_bar=False, cwd=str(root())
            )
            notebook = nbformat.read(partial, as_version=4)
            if self.title:
                rest = notebook.cells[0].source.split("\n")[1:]
                notebook.cells[0].source = "\n".join([f"# {self.title}", *rest])
            nbformat.write(notebook, partial)
            partial.replace(self.output)
        finally:
            partial.unlink(missing_ok=True)
        self.stamp.write_text(digest + "\n")


def read_pages(file: Path) -> list[Page]:
    """Reads ``pages.yml``; paths are relative to the repository, outputs to the book.

    Raises:
        InputError: an entry with unknown keys, or a missing notebook.
    """
    pages = []
    for entry in yaml.safe_load(file.read_text())["pages"]:
        unknown = set(entry) - {"output", "notebook", "parameters", "reads", "title"}
        notebook = root() / entry["notebook"]
        if unknown or not notebook.is_file():
            raise InputError(f"{shown(file)}: unknown keys {unknown or '{}'} or no notebook {entry['notebook']}")
        found = {path for pattern in entry.get("reads", []) for path in root().glob(pattern) if path.is_file()}
        parameters = entry.get("parameters", {})
        pages.append(Page(file.parent / entry["output"], notebook, parameters, sorted(found), entry.get("title")))
    return pages


def make_pages(app, config) -> None:
    """Runs what is missing or stale; a page that fails is named, and the others are built."""
    from papermill.exceptions import PapermillExecutionError
    from sphinx.util import logging

    logger = logging.getLogger(__name__)
    for page in read_pages(Path(app.srcdir) / "pages.yml"):
        if os.environ.get("FRESH") or page.is_stale():
            logger.info("running %s for %s", shown(page.notebook), page.output.name)
            try:
                page.run()
            except PapermillExecutionError as error:
                logger.warning(
                    "page %s: cell %s of %s failed: %s: %s",
                    page.output.name,
                    error.exec_count,
                    shown(page.notebook),
                    error.ename,
                    error.evalue,
                )


def setup(app) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("config-inited", make_pages, priority=0)
    return {"version": __version__, "parallel_read_safe": True}
