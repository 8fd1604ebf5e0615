"""Audits the certification logs in clones of public repositories: ``python -m studies.audits CLONE ...``.

A clone is made with ``git clone``; no file of it enters this project. ``records/audits.csv`` holds a row a repository.
"""

import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd
import tyro

from cpur import paths
from cpur.audit import audit_log
from cpur.errors import InputError
from cpur.logs import read_log

COLUMNS = {
    "repository": "owner/name",
    "commit": "of the clone",
    "logs": "files that are certification logs with a row or more",
    "alpha 0.001": "logs that alpha = 0.001 alone explains, of the alphas that were tried",
    "alpha 0.01": "logs that alpha = 0.01 alone explains",
    "alpha 0.0005": "logs that alpha = 0.0005 alone explains",
    "several": "logs that several alphas explain",
    "none": "logs that no n and alpha explain",
    "gaps or order": "logs with rows that are missing, twice or out of order",
    "empty": "logs with a header and no row",
    "ties": "rows that are right with exactly a reported radius",
}
ALONE = ("alpha 0.001", "alpha 0.01", "alpha 0.0005")


def audit_clone(clone: Path) -> dict[str, object]:
    """The row of one repository."""
    counts: Counter[str] = Counter()
    for file in sorted(path for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts):
        try:
            audit = audit_log(read_log(file))
        except InputError as error:
            counts["empty"] += "a header and no rows" in str(error)
            continue
        counts["logs"] += 1
        alone = f"alpha {audit.alpha_consistent[0]:g}" if len(audit.alpha_consistent) == 1 else None
        counts[alone or ("several" if audit.alpha_consistent else "none")] += 1
        counts["gaps or order"] += any("row" in problem and "idx" in problem for problem in audit.problems)
        counts["ties"] += sum(audit.ties.values())
    git = ["git", "-C", str(clone)]
    remote, commit = (
        subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
        for command in (["remote", "get-url", "origin"], ["rev-parse", "--short", "HEAD"])
    )
    name = "/".join(remote.removesuffix(".git").split("/")[-2:])
    return {"repository": name, "commit": commit} | {column: counts[column] for column in list(COLUMNS)[2:]}


def main(clones: tyro.conf.Positional[tuple[Path, ...]], out: str = "records/audits.csv") -> None:
    """Audits clones, and writes a row for each.

    Args:
        clones: folders.
        out: file for the table.
    """
    table = pd.DataFrame([audit_clone(clone) for clone in clones])
    print(table.to_string(index=False))
    table.to_csv(paths.anchored(out), index=False)


if __name__ == "__main__":
    tyro.cli(main)
