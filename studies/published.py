"""The figures that others published, from ``book/published.yml``, each with its source."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import yaml

from cpur.errors import InputError
from cpur.paths import root

FILE = "book/published.yml"


@dataclass(frozen=True)
class Paper:
    """A paper, or the logs beside it.

    Args:
        title: in short.
        arxiv: its number there; None where it has none, or none is known.
        version: which text or logs the figures are from.
    """

    title: str
    arxiv: str | None
    version: str

    def __str__(self) -> str:
        return f"{f'arXiv {self.arxiv}' if self.arxiv else self.title}, {self.version}"


@dataclass(frozen=True)
class Published:
    """Figures of one method in one table.

    Args:
        table: of :mod:`studies.results`, which it stands beside.
        row: the method.
        figures: by column, as printed.
        paper: that printed them.
        where: in it.
    """

    table: str
    row: str
    figures: Mapping[str, float]
    paper: Paper
    where: str

    @property
    def source(self) -> str:
        """The paper, its version, and the place in it."""
        return f"{self.paper}: {self.where}"


@cache
def published() -> tuple[Published, ...]:
    """All figures, in the order of the file.

    Raises:
        InputError: an entry names no paper of the file, or lacks a key.
    """
    text = yaml.safe_load((root() / FILE).read_text())
    papers = {name: Paper(**values) for name, values in text["papers"].items()}
    return tuple(_entry(values, papers) for values in text["figures"])


def _entry(values: Mapping, papers: Mapping[str, Paper]) -> Published:
    try:
        return Published(**{**values, "paper": papers[values["paper"]]})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"an entry of {FILE} is not whole: {error}; it needs table, row, figures, paper, where"
        ) from None


def beside(table: str, row: str) -> list[Published]:
    """The figures of one method in one table."""
    return [entry for entry in published() if (entry.table, entry.row) == (table, row)]
