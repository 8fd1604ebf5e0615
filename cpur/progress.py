"""Progress of long work: a tqdm bar in a terminal, one live line in a notebook that leaves nothing behind."""

import os
import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm


def bar(items: Iterable, done: int, total: int, unit: str = "image", **options) -> Iterator:
    """Iterates over ``items`` with a bar that starts at ``done`` of ``total`` and vanishes at the end.

    A page that papermill saves holds no frozen bar: in a kernel the line is a display that is emptied at the
    end. Where the kernel was started from a terminal, as papermill does, the bar is also drawn there.
    """
    out = _KernelOutput() if "IPython" in sys.modules and _kernel() else sys.stderr
    options |= {"initial": done, "total": total, "unit": unit, "leave": False, "mininterval": 0.5}
    try:
        with tqdm(items, file=out, **options) as bar_:
            yield from bar_
    finally:
        if isinstance(out, _KernelOutput):
            out.close()


def _kernel():
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)


class _KernelOutput:
    """A file for tqdm inside a kernel: the last line written is the text of one display."""

    encoding = "utf-8"

    def __init__(self) -> None:
        from IPython.display import display

        self._display = display({"text/plain": ""}, raw=True, display_id=True)
        # ipykernel keeps the stderr that it was started with; it is the terminal's when papermill runs there.
        copy = getattr(sys.stderr, "_original_stdstream_copy", None)
        self._terminal = copy if copy is not None and os.isatty(copy) else None

    def write(self, text: str) -> None:
        if self._terminal is not None:
            os.write(self._terminal, text.encode())
        if line := text.strip():
            self._display.update({"text/plain": line}, raw=True)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Empties the display, so that a saved page shows no bar."""
        self._display.update({"text/plain": ""}, raw=True)
