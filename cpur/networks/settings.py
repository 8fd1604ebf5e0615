"""The settings of a network: what its constructor takes, and config.json holds."""

from collections.abc import Mapping, Sequence
from typing import Any


def plain_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor, from the ``locals()`` that it starts with; lists for sequences, as JSON has."""
    given = {name: value for name, value in arguments.items() if name not in ("self", "__class__")}
    return {name: [*v] if isinstance(v, Sequence) and not isinstance(v, str) else v for name, v in given.items()}
