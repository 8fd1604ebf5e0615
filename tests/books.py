"""What tests that build a book share: small books with the configuration of the real one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from cpur.book import ASSETS
from cpur.paths import root

JUPYTER_BOOK = shutil.which("jupyter-book", path=Path(sys.executable).parent)
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def notebook(path: Path, source: str) -> None:
    """Writes a notebook with a title, a text, a cell of parameters (``x = 1``), and a cell of code."""
    cells = [nbformat.v4.new_markdown_cell("# Title\n\nText."), nbformat.v4.new_code_cell("x = 1")]
    cells[1].metadata["tags"] = ["parameters"]
    cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)


def small_book(folder: Path, files: list[str], pages: list[dict]) -> Path:
    """Makes ``folder/book``, with the files in its contents and the entries in its ``pages.yml``."""
    book = folder / "book"
    shutil.copytree(root() / "book/style", book / "style")
    config = yaml.safe_load((root() / "_config.yml").read_text())
    del config["sphinx"]["local_extensions"]  # they serve the pages of the real book
    (folder / "_config.yml").write_text(json.dumps(config))
    first, *others = files
    toc = {"format": "jb-book", "root": first, "chapters": [{"file": file} for file in others]}
    (book / "_toc.yml").write_text(json.dumps(toc if others else {"format": "jb-book", "root": first}))
    (book / "pages.yml").write_text(json.dumps({"pages": pages}))
    (book / "references.bib").write_text("")
    if (root() / "book" / ASSETS).is_dir():
        (book / ASSETS).symlink_to(root() / "book" / ASSETS)
    return book


def build(folder: Path, *options: str) -> tuple[int, str]:
    """The literal command in ``folder``; its exit status, and what it prints without colours."""
    environment = {name: value for name, value in os.environ.items() if name != "FRESH"}
    environment["PYTHONPATH"] = str(root())  # a copy of the book has no studies
    command = [JUPYTER_BOOK, "build", "book/", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
