"""Figures and tables show what the records say."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba

from cpur import load_dataset
from cpur.accuracy import certified_accuracy
from cpur.figures import RIGHT, WRONG, certified_accuracy_curves, purification_grid
from cpur.purifiers import NoPurifier
from cpur.tables import at_equal_n, best_one_step, markdown, most_images, overview


def record(
    purifier="onestep-edm",
    radii=(0.1, 0.3, 0.0, 0.4),
    correct=(True, True, False, False),
    n=1000,
    calls=1,
    plan="fixed",
):
    config = {
        "purifier": purifier,
        "checkpoint": None,
        "classifier_checkpoint": None,
        "sigma": 0.5,
        "n": n,
        "alpha": 0.001,
        "epsilons": [0.0, 0.2],
        "plan": plan,
    }
    frame = pd.DataFrame({"radius": radii, "correct": correct, "prediction": [1] * len(radii)})
    return {"config": config, "network_calls": calls}, frame


def test_curve_is_the_certified_accuracy():
    header, frame = record()
    axes = certified_accuracy_curves([(header, frame)]).axes[0]
    (line,) = axes.get_lines()
    x, y = line.get_data()
    for epsilon in (0.0, 0.05, 0.1, 0.2, 0.3, 0.31):
        # where="pre": the value on (x[i - 1], x[i]] is y[i]; beyond the last radius nothing is certified.
        index = np.searchsorted(x, epsilon, side="left")
        shown = y[index] if index < len(x) else 0.0
        assert shown == pytest.approx(100 * certified_accuracy(header, frame, [epsilon]).accuracy[0])


def test_a_record_that_stopped_early_is_drawn_at_its_epsilons():
    axes = certified_accuracy_curves([record(plan="sequential")]).axes[0]
    x, y = axes.containers[0].lines[0].get_data()
    assert x.tolist() == [0.0, 0.2]
    assert y.tolist() == [50.0, 25.0]


def test_curve_of_a_record_without_a_right_image():
    axes = certified_accuracy_curves([record(correct=(False,) * 4)]).axes[0]
    assert set(axes.get_lines()[0].get_ydata()) == {0}


def test_grid_frames_right_and_wrong():
    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.eye(10)[3].expand(len(x), -1)

    data = load_dataset("digits")
    figure = purification_grid(data, {"none": NoPurifier()}, Always(), 0.5, indices=range(8))
    frames = [axes.spines["left"].get_edgecolor() for axes in figure.axes]
    labels = data.labels[:8].tolist()
    assert frames == [to_rgba(RIGHT if label == 3 else WRONG) for label in labels] * 2
    assert {axes.texts[0].get_text() for axes in figure.axes} == {"3"}


def test_rows_are_chosen_by_size():
    large, small = record(n=10_000), record(n=1000)
    ode = record("pf-ode", n=1000, calls=15)
    assert most_images([small, ode, large]) == [large]
    assert at_equal_n([large, ode, small]) == [small, ode]
    assert most_images([ode, small]) == [small, ode] or most_images([ode, small]) == [ode, small]


def test_sentences_and_markdown_hold_the_figures():
    better, worse = record("consistency"), record("onestep-edm", correct=(True, False, False, False))
    sentence = best_one_step([better, worse, record("pf-ode", calls=15)])
    assert "`consistency` at $\\epsilon = 0$ (50.0 [15.0–85.0]%)" in sentence
    assert "pf-ode" not in sentence
    assert "| 0.5 | `consistency` | 50.0 [15.0–85.0] |" in markdown(overview([better], [0.0]))
