"""The cascade on a line, where every probability is exact."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import norm

from cpur.cascade import certify_bounds
from cpur.figures import PALETTE, finished, subplots
from cpur.smooth import ABSTAIN


@dataclass(frozen=True)
class LineClassifier:
    """A classifier of the line that is constant between cuts: ``labels[i]`` to the left of ``cuts[i]``."""

    cuts: tuple[float, ...]
    labels: tuple[int, ...]

    def probabilities(self, x: Float[np.ndarray, "n"], sigma: float) -> Float[np.ndarray, "n C"]:
        r"""The exact :math:`P[f(x + \sigma e) = c]`, :math:`\sum` over pieces of differences of :math:`\Phi`."""
        below = norm.cdf((np.asarray(self.cuts) - x[:, None]) / sigma)
        mass = np.diff(below, axis=1, prepend=0, append=1)
        return mass @ np.eye(max(self.labels) + 1)[list(self.labels)]


EXAMPLE = LineClassifier((-1.2, -0.1, 0.15, 0.6), (0, 1, 0, 1, 2))


def line_figure(
    classifier: LineClassifier = EXAMPLE, sigmas: tuple[float, ...] = (0.25, 0.5, 1.0), threshold: float = 0.5
) -> Figure:
    """What each level is sure of, where the cascade halts, and the radius it certifies with either rule."""
    import seaborn as sns

    x = np.linspace(-2.2, 2.2, 441)
    p = np.stack([classifier.probabilities(x, sigma) for sigma in sigmas], 1)
    found = {rule: [certify_bounds(row, row, sigmas, threshold, rule=rule) for row in p] for rule in ("first", "max")}
    colors = sns.color_palette(PALETTE)
    figure, (top, bottom) = subplots(2, 1, figsize=(6.4, 4.6), sharex=True)
    for k, sigma in enumerate(sigmas):
        top.plot(x, p[:, k].max(1), color=colors[k], label=f"σ = {sigma:g}")
    top.axhline(threshold, color="0.3", linewidth=1, linestyle="--")
    halts = [certificate.level for certificate in found["first"]]
    for k in range(len(sigmas)):
        inside = np.array([level == k for level in halts])
        top.fill_between(x, 0.24, 0.28, where=inside, color=colors[k], linewidth=0)
    top.set(ylabel="largest class probability", ylim=(0.24, 1.02))
    top.set_title(f"dashed: $p_0$ = {threshold:g}; the strip below: the level that halts", fontsize=9)
    top.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 0.08), ncols=len(sigmas))
    for rule, style in {"first": {"linestyle": "--"}, "max": {}}.items():
        radius = np.array([c.radius if c.prediction != ABSTAIN else 0.0 for c in found[rule]])
        bottom.plot(x, radius, color="0.2", label=f"rule {rule}", **style)
    bottom.set(xlabel="x", ylabel="certified radius", ylim=(0, None))
    bottom.legend(fontsize=8)
    return finished(figure)
