"""Long work beside a page: one job at a time in a thread, whose results arrive on the page's own thread.

A new job cancels the one before and waits, in its own thread, for that to notice. What a cancelled job has computed
never reaches the page: cancelling and delivering both happen on the page's thread. Of several results of one type that
wait for a busy page only the last is delivered.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

Emit = Callable[[Any], None]
Post = Callable[..., Any]  # post(function, *arguments) calls the function on the page's thread, later


class Cancelled(BaseException):
    """Ends a job whose result nobody waits for; no ``except Exception`` on the way holds it up."""


def page_thread() -> Post:
    """Posts to the loop that runs in this thread, as a kernel's does; without a loop the call is made at once."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return lambda function, *arguments: function(*arguments)

    def post(function: Callable[..., Any], *arguments: Any) -> None:
        if loop.is_closed():  # the page is gone
            raise Cancelled
        loop.call_soon_threadsafe(function, *arguments)

    return post


def sentence(error: Exception) -> str:
    """The first line of what an error says; the name of its kind where it says nothing."""
    return str(error).split("\n", 1)[0] or type(error).__name__


class _Job:
    """A job on its way: its thread, whether it is cancelled, and the calls that wait for the page."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.lock = threading.Lock()
        self.waiting: dict[type, Callable[[], None]] = {}
        self.thread: threading.Thread | None = None


class Background:
    """Runs jobs for a page.

    Args:
        show: is given every result.
        end: is called when a job has ended by itself, with one sentence where it failed, else None.
        post: see :func:`page_thread`.
    """

    def __init__(self, show: Callable[[Any], None], end: Callable[[str | None], None], post: Post) -> None:
        self._show, self._end, self._post = show, end, post
        self._job: _Job | None = None

    def start(self, work: Callable[[Emit], None]) -> None:
        """Cancels the present job and starts ``work(emit)``; ``emit`` hands over a result, and ends a cancelled job."""
        before = self.cancel()
        self._job = job = _Job()
        job.thread = threading.Thread(target=self._run, args=(job, work, before), daemon=True)
        job.thread.start()

    def cancel(self) -> threading.Thread | None:
        """From now on the present job delivers nothing; returns its thread, which ends at its next ``emit``."""
        if self._job is None:
            return None
        self._job.cancelled.set()
        return self._job.thread

    def _run(self, job: _Job, work: Callable[[Emit], None], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        with suppress(Cancelled):
            failure = None
            try:
                if not job.cancelled.is_set():
                    work(lambda result: self._hand(job, type(result), partial(self._show, result)))
            except Exception as error:  # whatever foreign code raises: the page shows a sentence, and no traceback
                failure = sentence(error)
            self._hand(job, Background, partial(self._end, failure))  # the last in the queue

    def _hand(self, job: _Job, kind: type, call: Callable[[], None]) -> None:
        if job.cancelled.is_set():
            raise Cancelled
        with job.lock:
            first = not job.waiting
            job.waiting[kind] = call
        if first:
            self._post(self._deliver, job)

    def _deliver(self, job: _Job) -> None:
        with job.lock:
            call = job.waiting.pop(next(iter(job.waiting)))
            more = bool(job.waiting)
        if job.cancelled.is_set():
            return
        try:
            call()
        except Exception as error:
            self._end(sentence(error))
            job.cancelled.set()
        if more:  # one at a time: between two the page may answer to a control
            self._post(self._deliver, job)
