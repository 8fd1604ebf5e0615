"""The reference: every public module is in it, and its docstrings render."""

import ast
import dataclasses
import re

import pytest
import yaml

from cpur import CertifyConfig, FinetuneConfig
from cpur.paths import root
from cpur.purifiers import Purifier
from studies.reference import add_fields, drop_inherited, field_comments, literal, tidy

PAGES = {page: page.read_text() for page in sorted((root() / "book/api").glob("*.md"))}
MODULES = [
    ".".join(file.relative_to(root()).with_suffix("").parts)
    for file in sorted((root() / "cpur").rglob("*.py"))
    if not file.name.startswith("_")
]


def docstrings(file):
    """Every docstring of a module, with what it belongs to."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


def test_every_module_is_in_the_reference():
    shown = [name for text in PAGES.values() for name in re.findall(r"automodule:: (\S+)", text)]
    assert sorted(shown) == MODULES  # each once, and none that is gone


def test_every_page_of_the_reference_is_in_the_contents():
    toc = yaml.safe_load((root() / "book/_toc.yml").read_text())
    files = {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    assert {f"api/{page.stem}" for page in PAGES} == {file for file in files if file.startswith("api/")}


def test_every_heading_names_its_module():
    for page, text in PAGES.items():
        assert re.findall(r"^## `(\S+)`", text, re.M) == re.findall(r"automodule:: (\S+)", text), page


def test_every_public_function_has_a_docstring():
    for module in MODULES:
        tree = ast.parse((root() / f"{module.replace('.', '/')}.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name}"


@pytest.mark.parametrize("module", MODULES)
def test_formulas_of_docstrings_are_formulas(module):
    """TeX stands in a role or a directive, and its backslashes have survived."""
    for name, text in docstrings(root() / f"{module.replace('.', '/')}.py"):
        assert "$" not in text, name
        assert not re.search(r"[\t\a\b\f\v\r]", text), f"{name}: a backslash was read as an escape: make it r-quoted"
        prose = re.sub(r"\.\. math::.*?(?=\n\n\S|\Z)", "", text, flags=re.S)
        prose = re.sub(r":math:`[^`]*`|``.*?``", "", prose, flags=re.S)
        assert not re.search(r"\\[a-z]{2,}", prose), f"{name}: TeX outside of a formula"


def test_fields_of_a_dataclass_are_listed_with_their_comments():
    comments = field_comments(CertifyConfig)
    assert comments["alpha"] == "each certificate fails with probability at most alpha"
    assert list(comments) == [field.name for field in dataclasses.fields(CertifyConfig)]
    assert set(field_comments(FinetuneConfig)) == {field.name for field in dataclasses.fields(FinetuneConfig)}
    lines = ["What is certified.", "", "Raises"]
    add_fields(None, "class", "CertifyConfig", CertifyConfig, None, lines)
    assert lines[0] == "What is certified."
    assert "- ``seed``: key of the noise" in lines
    assert lines[-1] == "Raises"


def test_a_comment_is_no_markup():
    assert literal("p_0 of `x` *or* |y|") == r"p\_0 of \`x\` \*or\* \|y\|"


def test_what_torch_says_of_every_module_is_left_out():
    lines = ["Define the computation performed at every call."]
    drop_inherited(None, "method", "cpur.purifiers.Purifier.forward", Purifier.forward, None, lines)
    assert not lines
    lines = ["An estimate."]
    drop_inherited(None, "method", "cpur.purifiers.Purifier.denoise", Purifier.denoise, None, lines)
    assert lines


def test_signatures_are_short():
    from numpy.typing import ArrayLike
    from sphinx.util.typing import stringify_annotation

    long = f"(hits: {stringify_annotation(ArrayLike, 'smart')}, rest: list = <factory>)"
    assert tidy(None, "function", "f", None, None, long, "float") == ("(hits: ArrayLike, rest: list = ...)", "float")
