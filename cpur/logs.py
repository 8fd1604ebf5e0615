"""Reads certification logs as people publish them: tables of text with one line an image.

Columns are known by name: ``idx label predict radius correct time``, and others are left alone. Whatever cannot be read
is named with its line; nothing is skipped or filled in.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpur.errors import InputError
from cpur.paths import shown

NAMES = {  # other names of a column
    "idx": ("idx", "index"),
    "label": ("label",),
    "predict": ("predict", "prediction"),
    "radius": ("radius",),
    "correct": ("correct",),
    "time": ("time", "seconds"),
}


@dataclass(frozen=True)
class Log:
    """A log, line by line.

    Attributes:
        file: where it was read.
        frame: idx, label, predict (negative for an abstention), radius, correct (a bool) and seconds, as far as the log
            has them; the index is the number of the line in the file.
        printed: the radii as they are printed.
        cumulative: whether its column ``correct`` counted on from line to line; ``correct`` is what that meant.
        ignored: columns that were not read.
    """

    file: Path
    frame: pd.DataFrame
    printed: list[str]
    cumulative: bool
    ignored: tuple[str, ...]


def read_log(file: Path) -> Log:
    """Reads a log of certified radii.

    Raises:
        InputError: the file is no such log, or a cell of it is not what its column holds.
    """
    table = read_table(file, ("predict", "radius"))
    if "label" not in table and "correct" not in table:
        raise InputError(f"{shown(file)} has neither a column label nor a column correct: nothing says what is right")
    kinds = {
        "idx": whole,
        "label": whole,
        "predict": whole,
        "radius": nonnegative,
        "correct": flag_or_count,
        "time": seconds,
    }
    frame = read_columns(file, table, {name: kind for name, kind in kinds.items() if name in table})
    frame = frame.rename(columns={"time": "seconds"})
    cumulative, frame["correct"] = _correct(file, frame)
    others = tuple(column for column in table if column not in NAMES)
    return Log(file, frame, table.radius.to_list(), cumulative, others)


def read_table(file: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """The cells of a log as text, by the names of this module; the index is the number of the line.

    Raises:
        InputError: the file cannot be read, is empty, lacks a column, or has a line of another length.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {shown(file)}: {getattr(error, 'strerror', None) or 'it is not text'}"
        ) from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{shown(file)} is empty")
    delimiter = "\t" if "\t" in lines[0][1] else ","
    cells = [row for row in csv.reader((line for _, line in lines), delimiter=delimiter)]
    header = [_known(name.strip().lower()) for name in cells[0]]
    if missing := [name for name in required if name not in header]:
        raise InputError(
            f"{shown(file)} is no certification log: it has no column {' and no '.join(missing)}; its first line is "
            f"{lines[0][1][:80]!r}"
        )
    if len(lines) == 1:
        raise InputError(f"{shown(file)} has a header and no rows")
    for (number, _), row in zip(lines, cells, strict=True):
        if len(row) != len(header):
            raise InputError(f"{shown(file)}, line {number}: {len(row)} cells, where the header has {len(header)}")
    numbers = [number for number, _ in lines[1:]]
    return pd.DataFrame([[cell.strip() for cell in row] for row in cells[1:]], columns=header, index=numbers)


def _known(name: str) -> str:
    return next((known for known, others in NAMES.items() if name in others), name)


def read_columns(file: Path, table: pd.DataFrame, kinds: Mapping[str, Callable[[str], float]]) -> pd.DataFrame:
    """Columns of a table as numbers.

    Raises:
        InputError: a cell is not what its column holds; its line is named.
    """
    return pd.DataFrame({name: _column(file, table[name], kind) for name, kind in kinds.items()}, index=table.index)


def _column(file: Path, column: pd.Series, kind: Callable[[str], float]) -> list:
    values = []
    for number, text in column.items():
        try:
            values.append(kind(text))
        except ValueError as error:
            raise InputError(f"{shown(file)}, line {number}: {column.name} is {text!r}; expected {error}") from error
    return values


def whole(text: str) -> int:
    """Reads a whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number") from None


def nonnegative(text: str) -> float:
    """Reads a number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        raise ValueError("a number that is not negative")
    return value


def flag_or_count(text: str) -> int:
    """Reads 0 or 1, False or True, or a running count."""
    return whole({"True": "1", "False": "0"}.get(text, text))


def seconds(text: str) -> float:
    """Reads a time in seconds, or as H:MM:SS."""
    try:
        return (
            float(text) if text.replace(".", "").isdigit() else pd.to_timedelta(text.replace(",", "")).total_seconds()
        )
    except ValueError:
        raise ValueError("seconds or H:MM:SS") from None


def _correct(file: Path, frame: pd.DataFrame) -> tuple[bool, pd.Series]:
    """Whether ``correct`` is a running count, and what is right; abstentions are not."""
    if "label" not in frame:
        if not frame.correct.isin((0, 1)).all():
            raise InputError(f"{shown(file)}: correct is not 0 or 1 everywhere, and there is no label to check it by")
        return False, frame.correct == 1
    right = (frame.predict == frame.label) & (frame.predict >= 0)
    if "correct" not in frame or (frame.correct == right).all():
        return False, right
    if (frame.correct == right.cumsum()).all():
        return True, right
    number = (frame.correct != right).idxmax()
    raise InputError(
        f"{shown(file)}, line {number}: correct is {frame.correct[number]}, where label is {frame.label[number]} and "
        f"predict is {frame.predict[number]}; it is no running count either"
    )


def order_problems(index: pd.Series) -> tuple[list[str], list[int]]:
    """What is wrong with the indices of the rows, in sentences, and which are missing from their pattern.

    The pattern is every K-th index from the first to the last, where K is the commonest step.
    """
    problems = []
    for value, times in index.value_counts(sort=False).items():
        if times > 1:
            problems.append(f"idx {value} occurs {times} times")
    backwards = index[index.diff() < 0]
    if len(backwards):
        number = backwards.index[0]
        problems.append(
            f"the rows are not in order: {len(backwards)} times idx falls, first at line {number} (idx {index[number]})"
        )
    ordered = np.unique(index)
    if len(ordered) < 2:
        return problems, []
    steps, times = np.unique(np.diff(ordered), return_counts=True)
    step = int(steps[times.argmax()])
    missing = sorted(set(range(int(ordered[0]), int(ordered[-1]) + 1, step)) - set(ordered.tolist()))
    if missing:
        problems.append(f"{len(missing)} rows are missing from the pattern of every {step}th idx: {some(missing)}")
    if len(odd := ordered[(ordered - ordered[0]) % step != 0]):
        problems.append(f"{len(odd)} rows do not fit the pattern of every {step}th idx: {some(odd.tolist())}")
    return problems, missing


def some(values: list, most: int = 10) -> str:
    """The first of some values as text."""
    return ", ".join(map(str, values[:most])) + ", ..." * (len(values) > most)
