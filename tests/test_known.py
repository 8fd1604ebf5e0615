"""The page of published checkpoints and the commands on it."""

import shlex

import pytest

from cpur.config import PURIFIERS
from cpur.convert import FORMATS
from cpur.known import COLUMNS, instructions, known_checkpoints, overview

ENTRIES = known_checkpoints()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["checkpoint"][:30])
def test_an_entry_is_whole_and_its_command_is_one_of_cpur(entry):
    assert {*COLUMNS, "published"} <= set(entry)
    assert entry["format"] in {*FORMATS, "diffusers"}
    assert any(purifier in entry["purifier"] for purifier in PURIFIERS)
    *_, command, _ = instructions([entry]).splitlines()
    words = shlex.split(command)
    if entry["format"] == "diffusers":
        assert words[:2] == ["-p", "checkpoint"]
        return
    assert words[:2] == ["cpur", "convert"]
    assert words[words.index("--format") + 1] == entry["format"]
    assert ("--arguments" in words) == bool(entry.get("arguments"))


def test_every_format_has_an_entry():
    assert {entry["format"] for entry in ENTRIES} == {*FORMATS, "diffusers"}
    assert len(overview(ENTRIES)) == len(ENTRIES)


def test_arguments_are_json_for_the_command():
    entry = {"checkpoint": "a.pt", "published": "x", "format": "edm", "arguments": {"num_heads": 4}}
    assert """echo '{"num_heads": 4}' > arguments.json""" in instructions([entry])
