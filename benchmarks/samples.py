"""What plan `sequential` saves, and what it costs, against fixed n = 100,000: ``python benchmarks/samples.py``.

Simulated on top-class probabilities of published logs where they lie beside the project, else on Beta mixtures of
their kind; and, with ``--digits-images``, on real digits: both plans in one run, on the same stream of noise.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro

from cpur import CertifyConfig
from cpur.characteristics import simulate
from cpur.engine import certify_images, device_name, prepare, workers
from cpur.paths import root
from cpur.plans import StoppingRule, sequential

EPSILONS = (0.0, 0.25, 0.5, 0.75, 1.0)
N0, N, ALPHA = 100, 100_000, 0.001
PUBLISHED = root().parent / "shared/golden/09_top_class_probabilities/p_a.json"


def probability_sets() -> dict[str, dict]:
    """Top-class probabilities of 500 images a noise level, and whether the top class is the label."""
    if PUBLISHED.is_file():
        return json.loads(PUBLISHED.read_text())["sets"]
    rng = np.random.default_rng(0)
    sets = {}
    for sigma, sure, right in [(0.25, 0.65, 0.8), (0.5, 0.5, 0.72), (1.0, 0.35, 0.6)]:
        # Most images are nearly certain; the others are spread over all p.
        p = np.where(rng.random(500) < sure, rng.beta(20, 0.5, 500), rng.beta(1.5, 1.2, 500))
        sets[f"beta-{sigma}"] = {"sigma": sigma, "p_A": p.tolist(), "label_is_top": (rng.random(500) < right).tolist()}
    return sets


def compare(name: str, given: dict, runs: int) -> dict:
    """Samples an image, and certified accuracy of both plans on the same streams, at each epsilon."""
    plan = sequential(N0, N, ALPHA)
    rule = StoppingRule(plan, given["sigma"], EPSILONS)
    rng = np.random.default_rng(1)
    outcomes = [simulate(plan, rule, p, runs, rng, ALPHA) for p in given["p_A"]]
    samples = np.array([outcome.samples for outcome in outcomes]) + N0  # images x runs
    right = np.array(given["label_is_top"])[:, None, None]
    paired = 100 * np.array([o.certified_fixed.astype(float) - o.certified for o in outcomes]) * right
    lost, fixed = paired.mean(axis=(0, 1)), 100 * (np.array([o.certified_fixed for o in outcomes]) * right).mean((0, 1))
    spread = paired.mean(axis=0).std(axis=0, ddof=1) / runs**0.5  # of the simulation
    return {
        "set": name,
        "images": len(outcomes),
        "samples": float(samples.mean()),
        "samples_interval": [float(v) for v in np.percentile(samples.mean(axis=0), [2.5, 97.5])],
        "times_fewer": (N0 + N) / float(samples.mean()),
        "certified_accuracy_fixed": fixed.round(3).tolist(),
        "lost_points": lost.round(4).tolist(),
        "lost_standard_error": spread.round(4).tolist(),
    }


def digits(images: int, sigma: float, purifier: str) -> dict:
    """Both plans on real digits, one after the other: samples, wall time, certified accuracy, and the shared stream."""
    config = CertifyConfig(purifier=purifier, sigma=sigma, n=N, num_images=images, epsilons=EPSILONS)
    list(certify_images(prepare(replace(config, n=1000)), range(2)))  # warm-up
    result, counts = {}, {}
    for plan in ("sequential", "fixed"):
        job = prepare(replace(config, plan=plan))
        start = time.perf_counter()
        rows = sorted(certify_images(job, range(images)), key=lambda row: row["index"])
        seconds = time.perf_counter() - start
        right = np.array([row["prediction"] == row["label"] for row in rows])
        radius = np.array([row["radius"] for row in rows])
        result[plan] = {
            "samples": int(sum(row["n0"] + row["n"] for row in rows)),
            "seconds": round(seconds, 1),
            "certified_accuracy": [round(100 * float((right & (radius >= e)).mean()), 2) for e in EPSILONS],
        }
        counts[plan] = [(row["n"], np.array(row["counts"]), row["selected"]) for row in rows]
    # The fixed stream begins with the sequential one: its counts can only be larger.
    same = all(
        now[2] == then[2] and (then[1] >= now[1]).all()
        for now, then in zip(counts["sequential"], counts["fixed"], strict=True)
    )
    both = [result[plan]["certified_accuracy"] for plan in ("fixed", "sequential")]
    return result | {
        "images": images,
        "sigma": sigma,
        "purifier": purifier,
        "same_stream": same,
        "times_fewer": result["fixed"]["samples"] / result["sequential"]["samples"],
        "times_faster": result["fixed"]["seconds"] / result["sequential"]["seconds"],
        "lost_points": [round(a - b, 2) for a, b in zip(*both, strict=True)],
        "device": device_name(config.device),
        "samplers": workers(config.device),
    }


def report(figures: dict) -> str:
    """The figures as text."""
    simulated = figures["simulated"]
    lines = [
        f"n0 = {N0}, n = {N:,}, alpha = {ALPHA}; {figures['runs']} simulated runs of each image",
        " " * 31 + "lost points of certified accuracy at eps",
        f"{'set':14} {'samples':>7} {'fewer':>6}  " + "".join(f"{epsilon:>8g}" for epsilon in EPSILONS),
    ]
    for row in simulated:
        lost = "".join(f"{value:8.3f}" for value in row["lost_points"])
        lines.append(f"{row['set']:14} {row['samples']:7,.0f} {row['times_fewer']:6.2f}  {lost}")
    lines.append(f"standard error of a loss: at most {max(max(row['lost_standard_error']) for row in simulated):.3f}")
    pooled = ", ".join(row["set"] for row in pool(simulated))
    lines.append(f"pooled over {pooled}:\n{figures['pooled_times_fewer']:.2f} times fewer samples")
    if row := figures.get("digits"):
        lines.append(
            f"\n{row['images']} digits, sigma = {row['sigma']:g}, {row['purifier']}, {row['samplers']} samplers"
        )
        lines.append(f"on {row['device']}; certified accuracy in percent at the same eps")
        for plan in ("sequential", "fixed"):
            accuracy = "".join(f"{value:6.1f}" for value in row[plan]["certified_accuracy"])
            lines.append(f"{plan:10} {row[plan]['samples']:>10,} samples {row[plan]['seconds']:6.1f} s {accuracy}")
        lines.append(f"{row['times_fewer']:.2f} times fewer samples, {row['times_faster']:.2f} times the speed")
    return "\n".join(lines)


def pool(simulated: list[dict]) -> list[dict]:
    """The published logs among the sets; all of them where there are none."""
    return [row for row in simulated if row["set"].startswith("cohen")] or simulated


def main(runs: int = 400, digits_images: int = 0, sigma: float = 0.5, out: Path | None = None) -> None:
    """Simulates the plans, and runs both on digits.

    Args:
        runs: simulated runs an image.
        digits_images: test digits that both plans certify for real; 0 leaves them out.
        sigma: standard deviation of the noise on the digits.
        out: file that the figures are written to, as JSON, and what is printed beside it as text.
    """
    simulated = [compare(name, given, runs) for name, given in probability_sets().items()]
    pooled = (N0 + N) / np.mean([row["samples"] for row in pool(simulated)])
    figures = {"runs": runs, "simulated": simulated, "pooled_times_fewer": pooled}
    if digits_images:
        figures["digits"] = digits(digits_images, sigma, "onestep-edm")
    print(report(figures))
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n")
        out.with_suffix(".txt").write_text(report(figures) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
