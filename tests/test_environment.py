"""The lists of dependencies say the same thing."""

import re
import tomllib
from itertools import chain

import pytest
import yaml
from packaging.requirements import Requirement

import cpur
from cpur.paths import root

CONDA = {"pytorch": "torch"}
PROJECT = tomllib.loads((root() / "pyproject.toml").read_text())["project"]


def wanted():
    return {item.name: str(item.specifier) for item in map(Requirement, PROJECT["dependencies"])}


def test_conda_environment_holds_names_and_bounds():
    environment = yaml.safe_load((root() / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-e ."]}
    listed = {item.name: str(item.specifier) for item in map(Requirement, packages)}
    assert listed.pop("python") == PROJECT["requires-python"]
    listed.pop("pip")
    assert {CONDA.get(name, name): bounds for name, bounds in listed.items()} == wanted()


def test_lock_pins_every_dependency_without_urls():
    text = (root() / "requirements.lock").read_text()
    assert "://" not in text
    pins = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier))
    everything = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    for item in map(Requirement, everything):
        versions = [str(pin.specifier)[2:] for pin in pins if pin.name == item.name.lower()]
        assert versions, f"{item.name} is not in requirements.lock"
        assert all(item.specifier.contains(version) for version in versions)


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((root() / "CITATION.cff").read_text())
    assert PROJECT["version"] == cpur.__version__ == citation["version"]
    assert f"## {cpur.__version__}" in (root() / "CHANGELOG.md").read_text()


def test_book_has_the_toc_of_the_root():
    assert (root() / "book/_toc.yml").read_text() == (root() / "_toc.yml").read_text()
    assert not (root() / "book/_toc.yml").is_symlink()


def test_public_names_exist():
    for name in cpur.__all__:
        assert getattr(cpur, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = cpur.nothing
