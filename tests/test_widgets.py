"""The explorer's widgets without a browser: controls, views, errors, and the frames that need no kernel."""

import asyncio
import re
import threading
import time
from dataclasses import replace

import pytest
from ipywidgets import HTML, SelectionSlider, Stack, Widget
from ipywidgets.embed import embed_data

from cpur.explore import Choice, load_stage, looks, purified
from cpur.frames import explorer_frames, picture
from cpur.purifiers import Purifier
from cpur.widgets import Explorer, explorer

PATIENCE = 20  # seconds
VIEWS = {"pictures", "looks", "cascade", "path"}


@pytest.fixture(scope="module")
def stage():
    return replace(load_stage(purifiers=["none", "pf-ode", "consistency"]), sigmas=(0.5, 0.25))


@pytest.fixture(autouse=True)
def nothing_left_running():
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + PATIENCE
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, "a thread is left running"
        time.sleep(0.01)
    Widget.close_all()


def run(scenario):
    """Runs a coroutine function on an explorer's page and closes it."""

    async def page():
        shown = None
        try:
            shown = await scenario()
        finally:
            if shown is not None:
                shown.close()

    asyncio.run(page())


async def until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def done(shown):
    await until(lambda: "Done." in shown.status.value)


def alt(view):
    return re.search('alt="([^"]*)"', view.value)[1]


def test_every_control_is_answered(stage):
    async def scenario():
        shown = Explorer(stage, image=3)
        shown.purifier.value, shown.samples.value = "consistency", 100
        await done(shown)
        assert set(shown.pictures) == VIEWS
        for control, value in (
            (shown.sigma, 0.25),
            (shown.image, 12),
            (shown.seed, 5),
            (shown.purifier, "none"),
            (shown.samples, 1000),
        ):
            control.value = value
            assert "Computing" in shown.status.value
            await done(shown)
            values = (shown.image.value, shown.sigma.value, shown.purifier.value, shown.samples.value, shown.seed.value)
            choice = Choice(*values)
            assert alt(shown.pictures["pictures"]) == purified(stage, choice).caption
            assert alt(shown.pictures["looks"]) == looks(stage, choice).caption
            assert "evel" in alt(shown.pictures["cascade"]) or "halts" in alt(shown.pictures["cascade"])
            assert f"from σ = {shown.sigma.value:g}" in alt(shown.pictures["path"])
        return shown

    run(scenario)


def test_errors_show_in_the_widget(stage):
    async def scenario():
        shown = Explorer(stage)
        shown.samples.value = 100
        await done(shown)
        shown.sigma.value = 0
        await until(lambda: "sigma must lie in (0, 16]" in shown.status.value)
        assert not any(view.value for view in shown.pictures.values())  # none is left of another choice
        shown.sigma.value = 0.5
        await done(shown)
        assert all(view.value for view in shown.pictures.values())
        return shown

    run(scenario)


def test_foreign_failures_show_too(stage):
    class Broken(Purifier):
        def denoise(self, x, sigma):
            raise RuntimeError("weights <b>are</b> torn\nand more")

    async def scenario():
        shown = Explorer(replace(stage, purifiers=stage.purifiers | {"broken": Broken()}))
        await until(lambda: "torn" in shown.status.value)
        assert "weights &lt;b&gt;are&lt;/b&gt; torn<" in shown.status.value
        return shown

    run(scenario)


def test_stop_keeps_what_is_there(stage):
    async def scenario():
        shown = Explorer(stage)
        shown.purifier.value, shown.samples.value = "consistency", 10_000
        await until(lambda: "Certifying" in shown.status.value)
        shown.stop.click()
        seen = shown.pictures["looks"].value
        await asyncio.sleep(0.3)
        assert "Stopped." in shown.status.value
        assert shown.pictures["looks"].value == seen != ""
        return shown

    run(scenario)


def test_a_new_choice_cancels_long_work(stage):
    async def scenario():
        shown = Explorer(stage)
        shown.purifier.value, shown.samples.value = "pf-ode", 10_000
        await until(lambda: "Certifying" in shown.status.value)
        shown.purifier.value, shown.samples.value = "none", 100
        start = time.monotonic()
        await done(shown)
        assert time.monotonic() - start < 10  # the old work would take a minute
        assert "of 100 votes" in alt(shown.pictures["looks"])
        return shown

    run(scenario)


def test_what_cannot_be_loaded_is_said():
    for options, said in (
        ({"purifiers": ["magic"]}, "purifier must be one of"),
        ({"dataset": "cifar10"}, "cifar10 is not shipped"),
    ):
        shown = explorer(**options)
        assert type(shown) is HTML
        assert said in shown.value


def members(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from members(child)


def test_frames_are_chosen_without_a_kernel(stage):
    shown = explorer_frames(stage, images=(12, 3), sigmas=(0.25, 0.5), purifier="none", n=10)
    image, sigma, look = (one for one in members(shown) if isinstance(one, SelectionSlider))
    state = embed_data([shown])["manager_state"]["state"]
    links = [one["state"] for one in state.values() if one["model_name"] == "LinkModel"]
    linked = {link["target"][0].removeprefix("IPY_MODEL_"): link["source"] for link in links}
    for link in links:
        assert (link["source"][1], link["target"][1]) == ("index", "selected_index")
    stacks = [one for one in members(shown) if isinstance(one, Stack)]
    sliders = {slider.model_id: len(slider.options) for slider in (image, sigma, look)}
    for stack in stacks:  # each is linked to a slider of as many positions
        assert sliders[linked[stack.model_id][0].removeprefix("IPY_MODEL_")] == len(stack.children)
        assert isinstance(stack.selected_index, int)
    frames = [one for one in members(shown) if type(one) is HTML and "<img" in one.value]
    assert len(frames) == 2 * 2 * (1 + 4 + 1) + 2  # n = 10 has four looks
    assert len({frame.value for frame in frames}) > 0.8 * len(frames)
    assert all(len(alt(frame)) > 40 for frame in frames)
    assert not any("$" in frame.value for frame in frames)
    at = Choice(12, 0.25, "none", 10)
    texts = {alt(frame) for frame in frames}
    assert {purified(stage, at).caption, looks(stage, at).upto(3).caption} <= texts


def test_frames_need_a_purifier_that_is_there(stage, rejected):
    with rejected("purifier must be one of none, pf-ode, consistency"):
        explorer_frames(stage, purifier="onestep-ddpm")


def test_alternative_text_is_escaped():
    from cpur.figures import finished, subplots

    figure, _ = subplots(figsize=(1, 1))
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in picture(finished(figure), 'a "b" <c>')
