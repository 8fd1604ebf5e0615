"""Progress of long work: a tqdm bar in a terminal, one live line in a notebook that leaves nothing behind."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


def bar(items: Iterable, done: int, total: int, unit: str = "image", **options) -> Iterator:
    """Iterates over ``items`` with a bar that starts at ``done`` of ``total`` and vanishes at the end.

    A page that papermill saves holds no frozen bar: in a kernel the line is a display that is emptied at the
    end. Where the kernel was started from a terminal, as papermill does, the bar is also drawn there.
    """
    with _tqdm(items, initial=done, total=total, unit=unit, **options) as bar_:
        yield from bar_


def certification_bar(
    lines: Iterable[dict], before: list[dict], total: int, finished: Callable[[], int | None] = lambda: None
) -> Iterator[dict]:
    """A bar over the lines of a record: images certified, accuracy so far, samples a second, and what is left.

    Args:
        lines: lines as they come.
        before: lines that were there before; they count for the accuracy, not for the speed.
        total: images in all.
        finished: images that all processes of this run have finished, where there are several.
    """
    right = sum(line["prediction"] == line["label"] for line in before)
    samples, start = 0, time.perf_counter()
    with _tqdm(None, initial=len(before), total=total, unit="image") as bar_:
        for count, line in enumerate(lines, start=1):
            right += line["prediction"] == line["label"]
            samples += line["n0"] + line["n"]
            speed = samples / (time.perf_counter() - start)
            accuracy = right / (len(before) + count)
            bar_.set_postfix_str(f"{accuracy:.1%} certified right, {speed:,.0f} samples/s", refresh=False)
            bar_.update(len(before) + max(finished() or 0, count) - bar_.n)
            yield line


@contextmanager
def _tqdm(items: Iterable | None, **options) -> Iterator[tqdm]:
    out = _KernelOutput() if "IPython" in sys.modules and _kernel() else sys.stderr
    try:
        with tqdm(items, file=out, leave=False, mininterval=0.5, **options) as bar_:
            yield bar_
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
