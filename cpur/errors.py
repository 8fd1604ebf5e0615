"""The one error that bad input raises."""


class InputError(ValueError):
    """A value that cpur cannot work with: the message names it, what was expected, and what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython's hook: in a notebook the reader sees the sentence, not the stack.
        return [f"{type(self).__name__}: {self}"]


def choose(field: str, value: object, options) -> None:
    """Raises InputError unless ``value`` is one of ``options``."""
    if value not in options:
        raise InputError(f"{field} must be one of {', '.join(map(str, options))}; got {value!r}")
