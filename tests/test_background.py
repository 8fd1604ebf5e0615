"""Work beside a page: results on the page's thread, cancelling, and failures as one sentence."""

import asyncio
import threading
import time

import pytest

from cpur.background import Background, Cancelled, page_thread

PATIENCE = 10  # seconds


class Page:
    """Records what is shown, on which thread, and how the work ended."""

    def __init__(self):
        self.shown, self.threads, self.ends = [], set(), []
        self.background = Background(self.show, self.ends.append, page_thread())

    def show(self, result):
        self.shown.append(result)
        self.threads.add(threading.current_thread())

    async def until(self, true):
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


def test_results_arrive_on_the_thread_of_the_page():
    async def scenario():
        page = Page()
        page.background.start(lambda emit: [emit(one) for one in ("text", 1, 2.0)])
        await page.until(lambda: page.ends)
        assert page.shown == ["text", 1, 2.0]
        assert page.threads == {threading.current_thread()}
        assert page.ends == [None]

    asyncio.run(scenario())


def test_a_busy_page_is_given_the_last_result_of_each_type():
    async def scenario():
        page = Page()
        page.background = Background(page.show, page.shown.append, page_thread())  # the end is the last call
        done = threading.Event()

        def work(emit):
            for i in range(100):
                emit(i)
            emit("text")
            done.set()

        page.background.start(work)
        assert done.wait(PATIENCE)  # the page's thread is busy here
        assert page.shown == []
        await page.until(lambda: len(page.shown) == 3)
        assert page.shown == [99, "text", None]

    asyncio.run(scenario())


def test_new_work_cancels_the_old_and_waits_for_it():
    async def scenario():
        page = Page()
        running, order = threading.Event(), []

        def old(emit):
            try:
                while True:
                    emit("old")
                    running.set()
                    time.sleep(0.01)
            finally:
                order.append("old ended")

        def new(emit):
            order.append("new began")
            emit("new")

        page.background.start(old)
        assert running.wait(PATIENCE)  # "old" waits for the page
        page.background.start(new)
        await page.until(lambda: page.ends)
        assert order == ["old ended", "new began"]
        assert page.shown == ["new"]
        assert page.ends == [None]

    asyncio.run(scenario())


def test_work_that_is_cancelled_before_it_began_never_runs():
    async def scenario():
        page = Page()
        held, ran = threading.Event(), []
        page.background.start(lambda emit: held.wait(PATIENCE))
        for i in range(5):
            page.background.start(lambda emit, i=i: ran.append(i))
        held.set()
        await page.until(lambda: page.ends)
        assert ran == [4]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "said"), [(ValueError("sigma is bad\nmore"), "sigma is bad"), (KeyError(), "KeyError")]
)
def test_a_failure_is_one_sentence(error, said):
    async def scenario():
        page = Page()

        def work(emit):
            raise error

        page.background.start(work)
        await page.until(lambda: page.ends)
        assert page.ends == [said]

    asyncio.run(scenario())


def test_a_failure_of_drawing_ends_the_work():
    async def scenario():
        page = Page()

        def show(result):
            raise ValueError("cannot be drawn")

        page.background = Background(show, page.ends.append, page_thread())
        ended = threading.Event()

        def work(emit):
            try:
                while True:
                    emit(1)
                    time.sleep(0.005)
            finally:
                ended.set()

        page.background.start(work)
        await page.until(ended.is_set)
        assert page.ends == ["cannot be drawn"]

    asyncio.run(scenario())


def test_cancelling_delivers_nothing_more_and_ends_the_thread():
    async def scenario():
        page = Page()
        assert page.background.cancel() is None
        running = threading.Event()

        def work(emit):
            while True:
                emit(1)
                running.set()
                time.sleep(0.005)

        page.background.start(work)
        assert running.wait(PATIENCE)
        thread = page.background.cancel()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        await asyncio.sleep(0.02)
        assert page.shown == page.ends == []

    asyncio.run(scenario())


def test_a_page_that_is_gone_ends_the_work():
    async def posting():
        return page_thread()

    post = asyncio.run(posting())  # its loop is closed now
    with pytest.raises(Cancelled):
        post(print)


def test_without_a_loop_calls_are_made_at_once():
    made = []
    page_thread()(made.append, 1)
    assert made == [1]
