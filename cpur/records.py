"""Records: append-only JSON lines that hold what a certification run counted.

Line 1 is a header; each further line is one image. A record is resumed by the indices it holds.
"""

import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpur.bounds import certified_radius
from cpur.errors import InputError
from cpur.paths import shown
from cpur.plans import PLANS, Plan, sequential
from cpur.smooth import ABSTAIN, Certificate
from cpur.steering import UNSEEN, Cascade, CascadeRun, replayed

FORMAT = "cpur-record/1"
PACKED = ".gz"  # the ending of a packed record
COLUMNS = ["index", "label", "prediction", "radius", "n0", "n", "selected", "counts", "seconds"]
LOOKS = "looks"  # one more key of a line whose plan looks more than once
LEVEL = "level"  # one more of a cascade: the index of the level that gives the radius


def record_name(identity: dict[str, Any]) -> str:
    """``<dataset>-<purifier>-s<sigma>-<hash8>.jsonl``; the hash covers all that the counts depend on.

    Of a cascade the name holds all levels: ``s0.25-0.5-1``.
    """
    levels = "-".join(f"{sigma:g}" for sigma in identity.get("sigmas") or [identity["sigma"]])
    return f"{identity['dataset']}-{identity['purifier']}-s{levels}-{hash8(identity)}.jsonl"


def hash8(identity: dict[str, Any]) -> str:
    """Eight hexadecimal digits of the SHA-256 of an identity."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def row(index: int, label: int, plan: Plan, certificate: Certificate | CascadeRun, seconds: float) -> dict[str, Any]:
    """One line of a record; the radius in full, the counts at every look where there are several."""
    if isinstance(certificate, CascadeRun):
        return cascade_row(index, label, plan, certificate, seconds)
    line = {
        "index": index,
        "label": label,
        "prediction": certificate.prediction,
        "radius": certificate.radius,
        "n0": plan.n0,
        "n": int(certificate.counts.sum()),
        "selected": certificate.selected,
        "counts": certificate.counts.tolist(),
        "seconds": round(seconds, 4),
    }
    return line | ({LOOKS: [counts.tolist() for counts in certificate.looks]} if len(plan.looks) > 1 else {})


def cascade_row(index: int, label: int, plan: Plan, run: CascadeRun, seconds: float) -> dict[str, Any]:
    """One line of a cascade's record: ``n0`` and ``n`` are sums over levels, the rest holds one entry a level."""
    counts = [looks[-1].tolist() if looks else [] for looks in run.looks]
    return {
        "index": index,
        "label": label,
        "prediction": run.certificate.prediction,
        "radius": run.certificate.radius,
        "level": run.certificate.level,
        "n0": plan.n0 * sum(selected != UNSEEN for selected in run.selected),
        "n": sum(map(sum, counts)),
        "selected": list(run.selected),
        "counts": counts,
        "seconds": round(seconds, 4),
        LOOKS: [[look.tolist() for look in looks] for looks in run.looks],
    }


class Record:
    """A record open for appending.

    Args:
        file: where it is written. An existing file is resumed; a last line torn by a crash is dropped. A packed one
            is read, and unpacked before a line is added.
        header: its first line; ``header["identity"]`` must be that of an existing file.

    Raises:
        InputError: the file is another configuration's, is damaged, or cannot be written.
    """

    def __init__(self, file: Path, header: dict[str, Any]) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.file = standing(file)
            self.header, self.rows = read_lines(self.file) if self.file.exists() else (None, [])
            if self.header is None:
                file.write_bytes(encoded(header))
                self.header = header
            elif self.header["identity"] != header["identity"]:
                raise InputError(f"{shown(file)} is the record of another configuration: name another file")
            elif self.file == file:
                os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
        except OSError as error:
            raise InputError(
                f"cannot write the record {shown(file)}: {error.strerror}: set records_dir to a folder with room "
                "that you may write to"
            ) from error

    @property
    def done(self) -> set[int]:
        """Indices of the images that it holds."""
        return {line["index"] for line in self.rows}

    def append(self, line: dict[str, Any]) -> None:
        """Writes one image and flushes it; a line that could not be written whole is taken back."""
        try:
            self._write(line)
        except OSError as error:
            raise InputError(
                f"cannot write the record {shown(self.file)}: {error.strerror}; its {len(self.rows)} images are kept: "
                "make room and give the same command again"
            ) from error
        self.rows.append(line)

    def close(self) -> None:
        """Removes a record that holds no image: bad input leaves nothing behind."""
        if not self.rows:
            self.file.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any]) -> None:
        if self.file.suffix == PACKED:
            packed, self.file = self.file, self.file.with_suffix("")
            self.file.write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
        length = self.file.stat().st_size if self.file.exists() else 0
        try:
            with self.file.open("ab") as out:
                out.write(encoded(line))
        except OSError:
            if self.file.exists():
                os.truncate(self.file, length)
            raise


def standing(file: Path) -> Path:
    """A record's file or, where only that is there, its packed one."""
    packed = file.with_name(f"{file.name}{PACKED}")
    return packed if packed.is_file() and not file.is_file() else file


def record_files(folder: Path) -> list[Path]:
    """The records in a folder, packed or not."""
    return sorted([*folder.glob("*.jsonl"), *folder.glob(f"*.jsonl{PACKED}")])


def pack(file: Path, folder: Path) -> Path:
    """Packs a record into a folder: a fifth of its size."""
    packed = folder / f"{file.name}{PACKED}"
    packed.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    return packed


def encoded(line: dict[str, Any]) -> bytes:
    """A line of a record as it is written."""
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def parse(text: str, file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Splits the whole lines of a record into header and images."""
    try:
        header, *rows = (json.loads(line) for line in text.splitlines())
        known = header["format"] == FORMAT
        complete = all(set(COLUMNS) <= set(line) == set(rows[0]) for line in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{shown(file)} is not a record of cpur: {error!r}") from error
    if not known:
        raise InputError(f"{shown(file)} has format {header['format']!r}; this version of cpur reads {FORMAT!r}")
    if not complete:
        raise InputError(f"{shown(file)} has a line without the keys {', '.join(COLUMNS)}")
    return header, rows


def read_lines(file: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The header and the images of a record as they stand, but for a torn last line; None where there is no header.

    A packed file is unpacked, one that ends in ``.gz`` or that stands in the place of ``file``.

    Raises:
        InputError: the file cannot be read, or is no record.
    """
    file = standing(file)
    try:
        text = file.read_bytes()
        text = gzip.decompress(text) if file.suffix == PACKED else text
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"cannot read the record {shown(file)}: {getattr(error, 'strerror', None) or error}"
        ) from error
    whole = text[: text.rfind(b"\n") + 1]
    return parse(whole.decode(errors="replace"), file) if whole else (None, [])


def load_record(file: str | Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The header of a record and its images as a frame, sorted by index, with a column ``correct``.

    A torn last line is left out, and an image that was written twice is kept once.

    Raises:
        InputError: the file is missing, is no record, or holds counts that do not give its radii.
    """
    file = Path(file)
    header, rows = read_lines(file)
    if header is None:
        raise InputError(f"{shown(file)} is not a record of cpur: it has no whole line")
    columns = [*COLUMNS, *(key for key in (LOOKS, LEVEL) if rows and key in rows[0])]
    frame = pd.DataFrame(rows, columns=columns).drop_duplicates("index").sort_values("index", ignore_index=True)
    _check(header, frame, file)
    frame["correct"] = (frame.prediction == frame.label) & (frame.prediction != ABSTAIN)
    return header, frame


def _check(header: dict[str, Any], frame: pd.DataFrame, file: Path) -> None:
    """Derives every radius from its counts again."""
    if frame.empty:
        return
    config = header["config"]
    if LEVEL in frame:
        return _check_cascade(config, frame, file)
    plan = PLANS[config["plan"]](config["n0"], config["n"], config["alpha"])
    looks = frame[LOOKS] if LOOKS in frame else frame.counts.map(lambda counts: [counts])
    taken = looks.map(len)
    look = np.concatenate([np.arange(count) for count in taken])
    hits = np.array([counts[selected] for all_, selected in zip(looks, frame.selected, strict=True) for counts in all_])
    totals = np.array([sum(counts) for all_ in looks for counts in all_])
    last = [all_[-1] for all_ in looks]
    possible = taken.max() <= len(plan.looks)
    if not possible or (totals != np.array(plan.looks)[look]).any() or last != frame.counts.tolist():
        raise InputError(f"{shown(file)}: the counts are not those of the looks of its plan")
    radii = certified_radius(hits, totals, np.array(plan.alphas)[look], config["sigma"])
    radius = np.maximum.reduceat(radii, np.concatenate([[0], taken.cumsum()[:-1]]))
    selected = np.where(radius > 0, frame.selected, ABSTAIN)
    wrong = frame["index"][(np.abs(radius - frame.radius) > 1e-9 * (1 + radius)) | (selected != frame.prediction)]
    if len(wrong):
        raise InputError(f"{shown(file)}: the counts of image {wrong.iloc[0]} do not give its prediction and radius")


def _check_cascade(config: dict[str, Any], frame: pd.DataFrame, file: Path) -> None:
    """Derives every certificate of a cascade from its counts again."""
    plan = sequential(config["n0"], config["n"], config["alpha"])
    cascade = Cascade(tuple(config["sigmas"]), config["threshold"], plan)
    for line in frame.itertuples():
        if line.counts != [looks[-1] if looks else [] for looks in line.looks]:
            raise InputError(f"{shown(file)}: the counts of image {line.index} are not those of its last looks")
        run = replayed(cascade, line.selected, line.looks)
        same = (run.prediction, run.level) == (line.prediction, None if pd.isna(line.level) else line.level)
        if not same or abs(run.radius - line.radius) > 1e-9 * (1 + run.radius):
            raise InputError(f"{shown(file)}: the counts of image {line.index} do not give its prediction and radius")
