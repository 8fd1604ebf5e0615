"""What the reference pages add to autodoc: the fields of a dataclass with the comments that stand beside them."""

import dataclasses
import inspect
import re
from typing import Any

from cpur import __version__

FIELD = re.compile(r"^    (\w+): .*?  # (.+)$", re.M)


def field_comments(kind: type) -> dict[str, str]:
    """The comment of every field of a dataclass that has one, those of its bases too."""
    parts = [part for part in reversed(kind.__mro__) if dataclasses.is_dataclass(part)]
    comments = dict(FIELD.findall("\n".join(map(inspect.getsource, parts))))
    return {field.name: comments[field.name] for field in dataclasses.fields(kind) if field.name in comments}


def add_fields(app, what: str, name: str, obj: Any, options, lines: list[str]) -> None:
    """Lists the fields after the first paragraph of a dataclass."""
    if what != "class" or not dataclasses.is_dataclass(obj):
        return
    comments = field_comments(obj)
    at = lines.index("") if "" in lines else len(lines)
    lines[at:at] = ["", *(f"- ``{field}``: {literal(text)}" for field, text in comments.items()), ""]


def drop_inherited(app, what: str, name: str, obj: Any, options, lines: list[str]) -> None:
    """Leaves out what torch says of every module's ``forward``: its own shapes stand in the signature."""
    if name.endswith(".forward") and obj.__doc__ is None:
        lines.clear()


def literal(text: str) -> str:
    """Plain text as reStructuredText: nothing in it is markup."""
    return re.sub(r"([\\`*_|])", r"\\\1", text)


def tidy(app, what: str, name: str, obj: Any, options, signature: str | None, returns: str | None):
    """Names ``ArrayLike``, which is spelled out else, and gives defaults that a function makes as an ellipsis."""
    from numpy.typing import ArrayLike
    from sphinx.util.typing import stringify_annotation

    names = {"<factory>": "...", stringify_annotation(ArrayLike, "smart"): "ArrayLike"}
    for long, short in names.items():
        signature = signature and signature.replace(long, short)
    return signature, returns


def setup(app) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("autodoc-process-docstring", add_fields, priority=900)  # after napoleon
    app.connect("autodoc-process-docstring", drop_inherited)
    app.connect("autodoc-process-signature", tidy)
    return {"version": __version__, "parallel_read_safe": True}
