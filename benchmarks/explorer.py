"""How soon the explorer answers: ``python benchmarks/explorer.py``. From a change of the slider of sigma, in seconds.

A picture counts as there when it is drawn and its widget has it; what a browser adds is not measured. Both the clock
and the processor time of the whole process are read: where other programs take the cores, the clock runs ahead; on
free ones it says less than the processor time, since the page draws on one while the votes are counted on the other.
"""

import asyncio
import json
import os
import time
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import tyro

from cpur.engine import device_name
from cpur.explore import load_stage
from cpur.paths import root
from cpur.widgets import Explorer

RESULTS = root() / "benchmarks/results/explorer-cpu.json"
VIEWS = {"pictures": "purified images", "path": "path", "looks": "first votes"}
COLUMNS = (*VIEWS.values(), "all")
SIGMAS = (0.25, 0.75, 0.5, 1.0)


def now() -> np.ndarray:
    """The clock, and the processor time."""
    return np.array([time.perf_counter(), time.process_time()])


async def done(shown: Explorer) -> None:
    """Waits for the end of the work."""
    while "Done." not in shown.status.value:
        await asyncio.sleep(0.002)


async def answer(shown: Explorer, sigma: float) -> dict[str, np.ndarray]:
    """Changes sigma and times what follows."""
    seconds: dict[str, np.ndarray] = {}
    start = now()
    for name, title in VIEWS.items():
        note = partial(lambda title, _: seconds.setdefault(title, now() - start), title)
        shown.pictures[name].unobserve_all("value")
        shown.pictures[name].observe(note, "value")
    shown.sigma.value = sigma
    await done(shown)
    return seconds | {"all": now() - start}


async def measure(n: int, rounds: int) -> dict[str, dict[str, list[list[float]]]]:
    """Clock and processor time of every round, by purifier."""
    shown, levels, timed = Explorer(load_stage()), cycle(SIGMAS), {}
    shown.samples.value = n
    for name in shown.stage.purifiers:
        shown.purifier.value = name
        await done(shown)
        answers = [await answer(shown, next(levels)) for _ in range(rounds)]
        timed[name] = {column: [one[column].round(3).tolist() for one in answers] for column in COLUMNS}
    shown.close()
    return timed


def report(figures: dict) -> str:
    """The medians, as a table."""
    lines = [
        f"{figures['device']}, load {figures['load']}, n = {figures['n']:,}; median seconds by clock / of processor"
    ]
    lines.append(f"{'purifier':<28}" + "".join(f"{column:>17}" for column in COLUMNS))
    for name, seconds in figures["seconds"].items():
        medians = (np.median(seconds[column], axis=0) for column in COLUMNS)
        lines.append(f"{name:<28}" + "".join(f"{clock:>10.2f} /{cpu:>5.2f}" for clock, cpu in medians))
    return "\n".join(lines)


def main(n: int = 1000, rounds: int = 8, out: Path = RESULTS) -> None:
    """Measures and writes the figures.

    Args:
        n: noise samples of a certificate.
        rounds: changes of sigma, for each purifier.
        out: where the figures are written, and beside them the table.
    """
    seconds = asyncio.run(measure(n, rounds))
    figures = {"device": device_name("cpu"), "load": round(os.getloadavg()[0], 1), "n": n, "seconds": seconds}
    out.write_text(json.dumps(figures) + "\n")
    out.with_suffix(".txt").write_text(report(figures) + "\n")
    print(report(figures))


if __name__ == "__main__":
    tyro.cli(main)
