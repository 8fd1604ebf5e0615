"""Fetches what the pages of the book need in a browser, so that it opens offline: ``python -m studies.assets``.

Formulas need MathJax, widgets need their manager and RequireJS. npm, the registry's own client, fetches the three
at fixed versions; their integrity is checked here; only the files that a page asks for are kept, in
``book/_assets``. The folder must not be called ``_static``: Jupyter Book would add every script in it to every page.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from cpur.errors import InputError
from cpur.paths import root, shown

FOLDER = root() / "book/_assets"
FETCH_SECONDS = 300
WITHOUT = "or run jupyter-book build book/ without them: its pages then need the internet"


@dataclass(frozen=True)
class Package:
    """A version of an npm package, and where its files go."""

    name: str
    version: str
    sha512: str  # of the archive, in base64, as the registry states it
    files: dict[str, str]  # pattern of a path in the archive -> folder below FOLDER


PACKAGES = (
    Package(
        "mathjax",
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        {
            "LICENSE": "mathjax",
            "es5/tex-mml-chtml.js": "mathjax",
            "es5/output/chtml/fonts/woff-v2/*.woff": "mathjax/output/chtml/fonts/woff-v2",
            "es5/input/tex/extensions/*.js": "mathjax/input/tex/extensions",  # loaded when a formula needs one
        },
    ),
    Package(
        "@jupyter-widgets/html-manager",
        "1.0.7",
        "2xGwS7vVd2RGlKMiSqj1vYv2X59V73ygefUodhzy9Bho0mswWT/yo3Cg7MaYOqwozQjNo5k3rbJ3cETXWUwJ/g==",
        # the fonts hold the icons of buttons and of Play
        {"LICENSE": "widgets", "dist/embed-amd.js": "widgets", "dist/*.woff2": "widgets"},
    ),
    Package(
        "requirejs",
        "2.3.8",
        "7/cTSLOdYkNBNJcDMWf+luFvMriVm7eYxp4BcFCsAX0wF421Vyce5SXP17c+Jd5otXKGNehIonFlyQXSowL6Mw==",
        {"require.js": "widgets"},  # its licence stands in its first lines
    ),
)


def fetch(package: Package, folder: Path) -> Path:
    """Fetches the archive of a package by npm.

    Args:
        package: what to fetch.
        folder: where the archive is put.

    Returns:
        The archive.

    Raises:
        InputError: npm is absent or fails, or the archive is not the one that is pinned.
    """
    wanted = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"npm is needed to fetch {wanted}: install it (apt-get install npm), {WITHOUT}")
    command = [npm, "pack", wanted, "--pack-destination", str(folder), "--loglevel", "error", "--fetch-retries", "1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise InputError(f"npm did not fetch {wanted} within {FETCH_SECONDS} s: try again, {WITHOUT}") from None
    archive = folder / (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not archive.is_file():
        reason = next((line for line in done.stderr.splitlines() if "code" in line), "no archive").split()[-1]
        raise InputError(f"npm could not fetch {wanted} ({reason}): check the network, {WITHOUT}")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise InputError(
            f"the archive of {wanted} has sha512 {found}, expected {package.sha512}: fetch it from another registry"
        )
    return archive


def keep(package: Package, archive: Path, folder: Path) -> None:
    """Copies the wanted files of an archive below ``folder``.

    Args:
        package: says which files, and where they go.
        archive: a gzipped tar file whose paths begin with ``package/``.
        folder: is made where it is absent.

    Raises:
        InputError: a pattern that no file of the archive matches.
    """
    with tarfile.open(archive) as files:
        members = {member.name.removeprefix("package/"): member for member in files if member.isfile()}
        for pattern, place in package.files.items():
            matching = [name for name in members if fnmatch(name, pattern)]
            if not matching:
                raise InputError(f"{package.name}@{package.version} has no file {pattern}: change studies/assets.py")
            (folder / place).mkdir(parents=True, exist_ok=True)
            for name in matching:
                with files.extractfile(members[name]) as source, open(folder / place / Path(name).name, "wb") as copy:
                    shutil.copyfileobj(source, copy)


def main(folder: Path = FOLDER, packages: tuple[Package, ...] = PACKAGES) -> None:
    """Fetches all packages where ``folder`` does not hold these versions already; the folder is whole or absent."""
    pins, stamp = json.dumps([asdict(package) for package in packages], indent=1), folder / "pins.json"
    if stamp.is_file() and stamp.read_text() == pins:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="_assets.") as temporary:
        for package in packages:
            keep(package, fetch(package, Path(temporary)), Path(temporary) / "whole")
        (Path(temporary) / "whole" / stamp.name).write_text(pins)
        if folder.exists():
            shutil.rmtree(folder)
        (Path(temporary) / "whole").rename(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    names = ", ".join(f"{package.name} {package.version}" for package in packages)
    print(f"{shown(folder)}: {names}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"assets: {error}")
