"""The explorer without a kernel: frames drawn beforehand, chosen by sliders that are linked in the page itself.

A slider's index is linked to the index of a stack of frames in the browser (``jslink``), so a page of the static book
answers to it. Every frame is an image with its text; no formula is in a widget.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence

from ipywidgets import HTML, Box, SelectionSlider, Stack, VBox, Widget, jslink
from matplotlib.figure import Figure
from PIL import Image

from cpur.errors import choose
from cpur.explore import Choice, Stage, looks, path, purified
from cpur.explore_figures import cascade_figure, looks_figure, path_figure, pictures_figure
from cpur.views import Looks, cascade

COLORS = 48  # of a frame: a third of the bytes, and no difference to be seen
VIEW = {"width": "560px", "max_width": "100%", "margin": "0 12px 12px 0"}  # layouts
WRAPPED = {"flex_flow": "row wrap", "align_items": "flex-start"}


def picture(figure: Figure, alt: str, colors: int = 0) -> str:
    """A figure as the HTML of an image with alternative text; ``colors`` is the size of its palette, 0 keeps all."""
    written, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(written, format="png", dpi=124)
    image = Image.open(written).convert("RGB")
    (image.quantize(colors) if colors else image).save(packed, "PNG", optimize=bool(colors))
    data = base64.b64encode(packed.getvalue()).decode()
    style = f"width:{image.width}px;max-width:100%;height:auto"
    return f'<img alt="{html.escape(alt)}" style="{style}" src="data:image/png;base64,{data}">'


def framed(figure: Figure, caption: str, colors: int = 0) -> str:
    """A figure above the sentence that says what is to be seen in it."""
    return f'{picture(figure, caption, colors)}<p style="margin:0;line-height:1.4">{html.escape(caption)}</p>'


def titled(title: str, line: str) -> str:
    """The heading of a view with its one line of explanation."""
    return f'<p style="margin:0;line-height:1.4"><b>{html.escape(title)}</b> {html.escape(line)}</p>'


TITLES = {
    "pictures": titled("Purified.", "One noisy copy and what each purifier makes of it; green: classified right."),
    "looks": titled("Votes and certificate.", "Each look bounds the share of the votes; the best radius counts."),
    "cascade": titled("Cascade.", "From the largest σ down, the first level that is sure of a class halts."),
    "path": titled("Path and jump.", "The PF-ODE walks to a clean image in many calls; a jump takes one."),
}


def explorer_frames(
    stage: Stage,
    images: Sequence[int] = (0, 1, 2),
    sigmas: Sequence[float] = (0.25, 0.5, 1.0),
    purifier: str = "consistency",
    n: int = 1000,
    seed: int = 0,
) -> Widget:
    """Pre-rendered views of a few images: sliders for the image, sigma, and the look, linked without a kernel.

    Raises:
        InputError: an image, sigma, number of samples, seed or purifier out of range.
    """
    choose("purifier", purifier, stage.purifiers)
    grid = [[Choice(index, float(sigma), purifier, n, seed) for sigma in sigmas] for index in images]
    image = _slider("image", [f"{index}" for index in images], 0)
    sigma = _slider("σ", [f"{sigma:g}" for sigma in sigmas], len(sigmas) // 2)
    found = [[looks(stage, choice) for choice in row] for row in grid]
    rounds = len(found[0][0].taken)
    look = _slider("look", [f"{i + 1}" for i in range(rounds)], rounds - 1)

    def stacked(slider: SelectionSlider, children: Sequence[Widget]) -> Stack:
        stack = Stack(children, selected_index=slider.index)
        jslink((slider, "index"), (stack, "selected_index"))
        return stack

    def by_sigma(draw: Callable[[int, int], Widget]) -> Stack:
        return stacked(image, [stacked(sigma, [draw(i, k) for k in range(len(sigmas))]) for i in range(len(images))])

    def at_looks(i: int, k: int) -> Stack:
        return stacked(look, [_frame(looks_figure, found[i][k].upto(count)) for count in range(1, rounds + 1)])

    def levels(row: Sequence[Looks]) -> HTML:
        ordered = sorted((one.sigma for one in row), reverse=True)
        return _frame(cascade_figure, cascade(ordered, {one.sigma: one for one in row}, stage.alpha))

    views = {"pictures": by_sigma(lambda i, k: _frame(pictures_figure, purified(stage, grid[i][k])))}
    views["looks"] = by_sigma(at_looks)
    views["cascade"] = stacked(image, [levels(row) for row in found])
    if path(stage, grid[0][0]) is not None:
        views["path"] = by_sigma(lambda i, k: _frame(path_figure, path(stage, grid[i][k])))
    shown = [VBox([HTML(TITLES[name]), view], layout=VIEW) for name, view in views.items()]
    line = f"Certificates: purifier {purifier}, {n:,} noise samples, α = {stage.alpha:g}, seed {seed}."
    return VBox([Box([image, sigma, look], layout=WRAPPED), HTML(html.escape(line)), Box(shown, layout=WRAPPED)])


def _slider(description: str, options: Sequence[str], index: int) -> SelectionSlider:
    return SelectionSlider(options=options, value=options[index], description=description)


def _frame(draw: Callable[..., Figure], seen) -> HTML:
    return HTML(framed(draw(seen), seen.caption, COLORS))
