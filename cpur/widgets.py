"""The live explorer: choose an image, noise and a purifier, and watch the certificate grow. Needs a kernel."""

import html

import torch
from ipywidgets import HTML, BoundedIntText, Box, Button, Dropdown, FloatSlider, IntSlider, Layout, VBox, Widget

from cpur.background import Background, Emit, page_thread
from cpur.errors import InputError
from cpur.explore import Choice, Stage, explore, load_stage
from cpur.explore_figures import cascade_figure, looks_figure, path_figure, pictures_figure
from cpur.figures import RIGHT, WRONG
from cpur.frames import TITLES, VIEW, WRAPPED, framed
from cpur.views import CascadeView, Looks, Path, Pictures, Progress

DRAWN = {
    Pictures: ("pictures", pictures_figure),
    Looks: ("looks", looks_figure),
    CascadeView: ("cascade", cascade_figure),
    Path: ("path", path_figure),
}
SAMPLES = (100, 1000, 10_000)
WIDE = {"description_width": "64px"}


class Explorer(VBox):
    """The controls and the views; every change of a control starts the work anew, in the background."""

    def __init__(self, stage: Stage, image: int = 0) -> None:
        self.stage = stage
        self.image = IntSlider(image, 0, len(stage.data) - 1, description="image", style=WIDE)
        self.sigma = FloatSlider(0.5, min=0, max=1.5, step=0.05, description="σ", style=WIDE)
        self.seed = BoundedIntText(0, 0, 2**31, description="seed", style=WIDE, layout=Layout(width="180px"))
        named = [(_called(name, one.network_calls), name) for name, one in stage.purifiers.items()]
        last = named[-1][1]
        self.purifier = Dropdown(options=named, value=last, description="purifier", style=WIDE)
        self.purifier.layout = Layout(width="330px", max_width="100%")
        counted = [(f"{n:,}", n) for n in SAMPLES]
        self.samples = Dropdown(options=counted, value=1000, description="samples", style=WIDE)
        self.samples.layout = Layout(width="180px")
        self.stop = Button(description="Stop", tooltip="Stop the computation", layout=Layout(width="80px"))
        self.status = HTML()
        self.pictures = {name: HTML() for name, _ in DRAWN.values()}
        self.background = Background(self.show, self.end, page_thread())
        self.controls = (self.image, self.sigma, self.purifier, self.samples, self.seed)
        views = [VBox([HTML(TITLES[name]), view], layout=VIEW) for name, view in self.pictures.items()]
        row = Box([*self.controls, self.stop], layout=WRAPPED)
        super().__init__([row, self.status, Box(views, layout=WRAPPED)])
        self.stop.on_click(lambda _: self.cancel())
        for control in self.controls:
            control.observe(self.restart, "value")
        self.restart()

    def restart(self, _=None) -> None:
        """Cancels the present work and starts that of what is chosen now."""
        values = (self.image.value, self.sigma.value, self.purifier.value, self.samples.value, self.seed.value)
        self.say("Computing …")

        def work(emit: Emit) -> None:
            torch.set_num_threads(1)  # of this thread; the page draws beside it, and so cancelling is quick
            explore(self.stage, Choice(*values), emit)

        self.background.start(work)

    def show(self, result: object) -> None:
        """Draws a result in its view, or says how far the work is."""
        if isinstance(result, Progress):
            self.say(result.text)
            return
        name, draw = DRAWN[type(result)]
        self.pictures[name].value = framed(draw(result), result.caption)
        if isinstance(result, Looks):
            self.say(f"Certifying: {result.counts.sum():,} of {result.plan.n:,} samples.")

    def end(self, failure: str | None) -> None:
        """Says that the work is done, or why it failed; then no view is left from another choice."""
        if failure is None:
            self.say("Done.", RIGHT)
            return
        for view in self.pictures.values():
            view.value = ""
        self.say(failure, WRONG)

    def cancel(self) -> None:
        """Stops the work; what is there stays."""
        self.background.cancel()
        self.say("Stopped.")

    def close(self) -> None:
        """Stops the work and closes the widget."""
        self.background.cancel()
        super().close()

    def say(self, text: str, color: str = "inherit") -> None:
        """Sets the line below the controls."""
        self.status.value = _line(text, color)


def explorer(image: int = 0, **options) -> Widget:
    """The explorer, or the one sentence that says why there is none.

    Args:
        image: index of the test image to start with.
        options: of :func:`cpur.explore.load_stage`.
    """
    try:
        return Explorer(load_stage(**options), image)
    except InputError as error:
        return HTML(_line(str(error), WRONG))


def _called(name: str, calls: int) -> str:
    return f"{name}, {calls} call{'' if calls == 1 else 's'}"


def _line(text: str, color: str) -> str:
    return f'<p role="status" style="margin:4px 0;color:{color}">{html.escape(text)}</p>'
