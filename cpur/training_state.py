"""The state on disk of a training run: written whole, and read only by the run that wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cpur import paths
from cpur.errors import InputError


@dataclass(frozen=True)
class TrainingState:
    """What an interrupted run goes on from.

    Args:
        folder: of the run.
        identity: all that the weights depend on; a run with another one refuses the state.
        parts: what has a ``state_dict``, by name.
    """

    folder: Path
    identity: dict[str, Any]
    parts: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """The state of the last save."""
        return self.folder / "training.pt"

    def save(self, **progress: Any) -> None:
        """Writes the parts and how far the run is, under another name first: a state is whole or absent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.file.with_suffix(".pt.partial")
        torch.save({"identity": self.identity, **progress, **state}, partial)
        partial.replace(self.file)

    def restore(self, device: torch.device) -> dict[str, Any] | None:
        """Loads the parts, and returns all that was saved; None where nothing was.

        Raises:
            InputError: the file is torn, or another run's.
        """
        if not self.file.is_file():
            return None
        try:
            state = torch.load(self.file, map_location=device, weights_only=True)
            same = state["identity"] == self.identity
        except Exception as error:  # unpickling raises many kinds
            raise InputError(f"{paths.shown(self.file)} cannot be read: {error}; delete it to start anew") from error
        if not same:
            raise InputError(f"{paths.shown(self.folder)} holds another training run: name another folder as out")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state
