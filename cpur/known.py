"""What is known of published checkpoints: ``book/checkpoints.yml`` as a table, and the commands that convert them."""

import json
import shlex
from collections.abc import Mapping, Sequence

import pandas as pd
import yaml

from cpur.paths import root

COLUMNS = ("checkpoint", "paper", "data", "parameters", "licence", "format", "purifier")


def known_checkpoints() -> list[dict]:
    """The entries of ``book/checkpoints.yml``."""
    return yaml.safe_load((root() / "book" / "checkpoints.yml").read_text())


def overview(entries: Sequence[Mapping]) -> pd.DataFrame:
    """One row a checkpoint."""
    return pd.DataFrame([{column: entry[column] for column in COLUMNS} for entry in entries])


def instructions(entries: Sequence[Mapping]) -> str:
    """For each checkpoint where it is published, and how it becomes a folder that a purifier loads; in Markdown."""
    return "\n\n".join(map(_instruction, entries))


def _instruction(entry: Mapping) -> str:
    name = entry["checkpoint"]
    heading = f"**{name}** ({entry['published']})"
    if entry["format"] == "diffusers":
        first = name.split(",")[0]
        return f"{heading}: nothing to convert.\n\n```\n-p checkpoint {first}\n```"
    source = name.split(",")[0] if "." in name.split(",")[0] and " " not in name.split(",")[0] else "CHECKPOINT"
    command = ["cpur", "convert", source, "checkpoints/NAME", "--format", entry["format"]]
    lines = [shlex.join(command)]
    if arguments := entry.get("arguments"):
        lines = [
            f"echo {shlex.quote(json.dumps(arguments))} > arguments.json",
            lines[0] + " --arguments arguments.json",
        ]
    return f"{heading}:\n\n```\n" + "\n".join(lines) + "\n```"
