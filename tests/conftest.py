"""What tests share."""

import os

import pytest
import torch
from torch import nn

from cpur.errors import InputError

torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs a network; read when huggingface_hub is imported


class HalfSpace(nn.Module):
    """Class 1 where w.x > b; its smoothed classifier has p = Phi(distance / sigma) in closed form."""

    def __init__(self, w, b=0.0):
        super().__init__()
        self.w, self.b = w, b

    def forward(self, x):
        score = (x.flatten(1).double() @ self.w.flatten().double()) - self.b
        return torch.stack([-score, score], dim=1)


@pytest.fixture
def rejected():
    """A context in which bad input must raise one clear sentence that names something."""

    def context(match):
        return pytest.raises(InputError, match=match)

    return context
