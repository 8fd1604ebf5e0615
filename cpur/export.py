"""A record as the tab-separated log of Cohen et al. (2019), which their analysis script and others read."""

from datetime import timedelta

import pandas as pd


def tsv(frame: pd.DataFrame) -> str:
    """The columns ``idx label predict radius correct time``; -1 is an abstention, the radius is written in full.

    An analysis at a radius r counts ``correct & (radius >= r)``: what :func:`cpur.accuracy.certified_accuracy` counts.
    """
    log = pd.DataFrame(
        {
            "idx": frame["index"],
            "label": frame.label,
            "predict": frame.prediction,
            "radius": frame.radius,
            "correct": frame.correct.astype(int),
            "time": [str(timedelta(seconds=seconds)) for seconds in frame.seconds],
        }
    )
    return log.to_csv(sep="\t", index=False)
