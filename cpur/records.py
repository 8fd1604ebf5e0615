"""Records: append-only JSON lines that hold what a certification run counted.

Line 1 is a header; each further line is one image. A record is resumed by the indices it holds.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from cpur.bounds import certified_radius
from cpur.errors import InputError
from cpur.paths import shown
from cpur.smooth import ABSTAIN, Certificate

FORMAT = "cpur-record/1"
COLUMNS = ["index", "label", "prediction", "radius", "n0", "n", "selected", "counts", "seconds"]


def record_name(identity: dict[str, Any]) -> str:
    """``<dataset>-<purifier>-s<sigma>-<hash8>.jsonl``; the hash covers all that the counts depend on."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    hash8 = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{identity['dataset']}-{identity['purifier']}-s{identity['sigma']:g}-{hash8}.jsonl"


def row(index: int, label: int, n0: int, n: int, certificate: Certificate, seconds: float) -> dict[str, Any]:
    """One line of a record; the radius in full."""
    return {
        "index": index,
        "label": label,
        "prediction": certificate.prediction,
        "radius": certificate.radius,
        "n0": n0,
        "n": n,
        "selected": certificate.selected,
        "counts": certificate.counts.tolist(),
        "seconds": round(seconds, 4),
    }


class Record:
    """A record open for appending.

    Args:
        file: where it is written. An existing file is resumed; a last line torn by a crash is dropped.
        header: its first line; ``header["identity"]`` must be that of an existing file.

    Raises:
        InputError: the file is another configuration's, is damaged, or cannot be written.
    """

    def __init__(self, file: Path, header: dict[str, Any]) -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_bytes() if file.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            if whole:
                self.header, rows = parse(whole.decode(), file)
                if self.header["identity"] != header["identity"]:
                    raise InputError(f"{shown(file)} is the record of another configuration: name another file")
                self.done = {line["index"] for line in rows}
            else:
                self.header, self.done = header, set()
            if len(whole) < len(text):
                file.write_bytes(whole)
            if not whole:
                self._write(header)
        except OSError as error:
            raise InputError(f"cannot write the record {shown(file)}: {error.strerror}: set records_dir") from error

    def append(self, line: dict[str, Any]) -> None:
        """Writes one image and flushes it."""
        try:
            self._write(line)
        except OSError as error:
            raise InputError(
                f"cannot write the record {shown(self.file)}: {error.strerror}; its {len(self.done)} images are kept"
            ) from error
        self.done.add(line["index"])

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line, separators=(",", ":")) + "\n")


def parse(text: str, file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Splits the whole lines of a record into header and images."""
    try:
        header, *rows = (json.loads(line) for line in text.splitlines())
        known = header["format"] == FORMAT
        complete = all(set(COLUMNS) <= set(line) for line in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{shown(file)} is not a record of cpur: {error!r}") from error
    if not known:
        raise InputError(f"{shown(file)} has format {header['format']!r}; this version of cpur reads {FORMAT!r}")
    if not complete:
        raise InputError(f"{shown(file)} has a line without the keys {', '.join(COLUMNS)}")
    return header, rows


def load_record(file: str | Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The header of a record and its images as a frame, sorted by index, with a column ``correct``.

    A torn last line is left out, and an image that was written twice is kept once.

    Raises:
        InputError: the file is missing, is no record, or holds a radius that its counts do not give.
    """
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the record {shown(file)}: {error.strerror}") from error
    header, rows = parse(text[: text.rfind("\n") + 1], file)
    frame = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates("index").sort_values("index", ignore_index=True)
    _check(header, frame, file)
    frame["correct"] = (frame.prediction == frame.label) & (frame.prediction != ABSTAIN)
    return header, frame


def _check(header: dict[str, Any], frame: pd.DataFrame, file: Path) -> None:
    """Derives every radius from its counts again."""
    if frame.empty:
        return
    hits = [counts[selected] for counts, selected in zip(frame.counts, frame.selected, strict=True)]
    radius = certified_radius(hits, frame.n, header["config"]["alpha"], header["config"]["sigma"])
    wrong = frame.index[(radius - frame.radius).abs() > 1e-9 * (1 + radius)]
    if len(wrong):
        raise InputError(f"{shown(file)}: the counts of image {frame['index'][wrong[0]]} do not give its radius")
