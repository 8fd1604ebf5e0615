"""Number format, memory format, compilation: one setting, part of the certified function."""

import pytest
import torch
from torch import nn

from cpur.arithmetic import Arithmetic

X = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).eval()


@pytest.mark.parametrize("text", ["float32", "tf32", "bfloat16+channels_last", "float32+channels_last+compile+graphs"])
def test_round_trip(text):
    assert str(Arithmetic.parse(text)) == text
    assert Arithmetic.parse("float32+compile+channels_last") == Arithmetic.parse("float32+channels_last+compile")


@pytest.mark.parametrize("text", ["half", "float32+fast", "", "compile", "float32+compile+compile"])
def test_unknown_settings_are_refused(text, rejected):
    with rejected("precision must be one of float32, tf32, bfloat16, with any of"):
        Arithmetic.parse(text)


@torch.inference_mode()
def test_settings_compute_what_they_say():
    exact = network()(X)
    assert torch.equal(Arithmetic.parse("float32").apply(network())(X), exact)
    last = Arithmetic.parse("float32+channels_last").apply(network())
    assert last.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(last(X), exact, atol=1e-5)
    rough = Arithmetic.parse("bfloat16").apply(network())(X)
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() < 0.05


def test_global_settings_are_left_alone():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with Arithmetic.parse("tf32").active(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    with Arithmetic.parse("float32").active(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
