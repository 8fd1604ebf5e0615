"""The three logs of ACES together: a smoothed selector, a certified model, and an accurate core model.

Source: Horváth et al. (2022); what each figure counts is that of the analysis code released with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpur.errors import InputError
from cpur.logs import nonnegative, read_columns, read_table, whole
from cpur.paths import shown

CERTIFIED, CORE, ABSTAINS = 1, 0, -1  # what a selector says


@dataclass(frozen=True)
class Aces:
    """What ACES is right about, as shares of all rows.

    Attributes:
        natural_accuracy: of the plain votes: of the model that the selector takes, of both where it abstains.
        certified_accuracy: at 0 as the released analysis counts it, where an abstaining selector counts as one for the
            certified model; at other radii the selector and the certified model must both have the radius.
        strict_at_0: the accuracy at 0 where an abstaining selector needs both models to be right.
        acr: mean of the smaller radius, where the selector does not take the core model and the certified one is right.
        selection_rate: how often the certified model is selected.
    """

    natural_accuracy: float
    certified_accuracy: dict[str, float]
    strict_at_0: float
    acr: float
    selection_rate: float


def combine(certification: Path, selection: Path, core: Path, radii: Sequence[float]) -> Aces:
    """Reads the three logs and combines them, row by row.

    Raises:
        InputError: one of them is not such a log, or they are not of the same images.
    """
    ours = _read(certification, ("radius",), ("correct", "unperturbed correct"))
    chosen = _read(selection, ("radius",), ("predict", "unperturbed predict"))
    theirs = _read(core, (), ("correct",))
    for file, other in ((selection, chosen), (core, theirs)):
        if not ours.idx.equals(other.idx):
            raise InputError(f"{shown(file)} has other rows than {shown(certification)}: the logs must be of one run")
    selector, radius = chosen.predict, np.minimum(ours.radius, chosen.radius)
    right, core_right = ours.correct == 1, theirs.correct == 1
    both = right & core_right
    strict = ((selector == CERTIFIED) & right) | ((selector == CORE) & core_right) | ((selector == ABSTAINS) & both)
    published = ((selector != CORE) & right) | ((selector == CORE) & core_right) | both
    plain, plain_right = chosen["unperturbed predict"], ours["unperturbed correct"] == 1
    natural = ((plain == CERTIFIED) & plain_right) | ((plain == CORE) & core_right)
    natural |= (plain == ABSTAINS) & plain_right & core_right
    certified = {f"{r:g}": (selector == CERTIFIED) & right & (radius >= r) if r > 0 else published for r in radii}
    return Aces(
        natural_accuracy=float(natural.mean()),
        certified_accuracy={r: float(hits.mean()) for r, hits in certified.items()},
        strict_at_0=float(strict.mean()),
        acr=float((radius * ((selector != CORE) & right)).mean()),
        selection_rate=float((selector == CERTIFIED).mean()),
    )


def _read(file: Path, radii: tuple[str, ...], others: tuple[str, ...]) -> pd.DataFrame:
    kinds = dict.fromkeys(("idx", *others), whole) | dict.fromkeys(radii, nonnegative)
    return read_columns(file, read_table(file, tuple(kinds)), kinds).reset_index(drop=True)
