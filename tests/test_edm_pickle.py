"""Checkpoints of EDM and ECT: modules pickled with their source are read, and nothing that they hold is run."""

import io
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from cpur.networks.edm_pickle import read_edm_pickle
from cpur.networks.edm_state import raw_state
from cpur.networks.song_unet import SongUNet, infer_settings
from cpur.state_dicts import read_state_dict

KWARGS = {"img_resolution": 8, "img_channels": 3, "label_dim": 0, "model_type": "SongUNet", "dropout": 0.1}


class ECMPrecond(nn.Module):
    """What such a file holds under ``ema``, small."""

    def __init__(self):
        super().__init__()
        self.sigma_data, self.sigma_min, self.scale = 0.5, 0.003, np.float64(2)
        self.model = SongUNet(8, 3, 3, model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,))
        self.nothing = None
        self.register_module("no_module", None)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Writes a pickle as training does: modules that are not torch's become calls that would execute their source."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    exec("def _reconstruct_persistent_obj(meta): raise SystemExit", vars(persistence))
    exec("class EasyDict(dict): pass", vars(util))

    class Writer(pickle.Pickler):
        def reducer_override(self, value):
            if not isinstance(value, nn.Module) or type(value).__module__.startswith("torch."):
                return NotImplemented
            plain = {name: v for name, v in vars(value).items() if name[0] == "_" or isinstance(v, float | int | str)}
            state = {**plain, "_init_args": (), "_init_kwargs": KWARGS | {"more": util.EasyDict(rho=7)}}
            source = {"module_src": "raise SystemExit", "class_name": type(value).__name__, "version": 6}
            return persistence._reconstruct_persistent_obj, ({"type": "class", **source, "state": state},)

    def write(data, protocol=4):
        with monkeypatch.context() as patch, (tmp_path / "network.pkl").open("wb") as file:
            for module in (persistence, util):
                package = module.__name__.split(".")[0]
                patch.setitem(sys.modules, package, types.ModuleType(package))
                patch.setitem(sys.modules, module.__name__, module)
            Writer(file, protocol).dump(data)
        return tmp_path / "network.pkl"

    return write


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_and_arguments_are_read(save, protocol):
    ema = ECMPrecond().eval()
    state, arguments = read_edm_pickle(save({"ema": ema, "dataset_kwargs": {"path": "x"}}, protocol))
    assert list(state) == list(ema.state_dict())
    for name, value in ema.state_dict().items():
        assert torch.equal(state[name], value)
        assert not state[name].requires_grad
    expected = KWARGS | {"class_name": "ECMPrecond", "sigma_data": 0.5, "sigma_min": 0.003, "scale": 2.0}
    assert arguments == expected | {"more": {"rho": 7}}
    network = SongUNet(**infer_settings(state, arguments))
    assert network.settings == ema.model.settings
    network.load_state_dict(raw_state(state))


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_would_run_code_is_refused(save, tmp_path, rejected):
    mark = tmp_path / "was-here"
    command = Calls(os.system, f"touch {mark}")
    ema = ECMPrecond()
    ema._hidden = command
    name = f"names {os.system.__module__}.system, which no checkpoint of EDM or ECT needs"
    for data in ({"ema": command}, {"ema": ema}, {"other": [command], "ema": ECMPrecond()}):
        with rejected(name):
            read_edm_pickle(save(data))
    inner = io.BytesIO()
    torch.save(command, inner, _use_new_zipfile_serialization=False)
    with rejected("is not a pickle of EDM or ECT"):
        read_edm_pickle(save({"ema": Calls(torch.storage._load_from_bytes, inner.getvalue())}))
    assert not mark.exists()


@pytest.mark.parametrize("function", [eval, getattr, torch.load, np.load, pickle.loads, Calls])
def test_no_other_global_is_known(save, function, rejected):
    with rejected(f"names .*{function.__name__}, which no checkpoint"):
        read_edm_pickle(save({"ema": Calls(function, "1")}))


def test_a_pickle_cannot_change_what_it_finds(tmp_path, rejected):
    for found in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"cdnnlib.util\nEasyDict\n", b"ctorch.nn.modules.x\nY\n"):
        (tmp_path / "network.pkl").write_bytes(found + b"(N}Vmark\nI1\nstb.")  # sets the attribute mark
        with rejected("is not a pickle of EDM or ECT"):
            read_edm_pickle(tmp_path / "network.pkl")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "mark")
    assert not hasattr(dict, "mark")


def test_damage_and_other_files_are_named(save, tmp_path, rejected):
    file = save({"ema": ECMPrecond()})
    file.write_bytes(file.read_bytes()[:-1000])
    with rejected("network.pkl is not a pickle of EDM or ECT with the entry ema"):
        read_edm_pickle(file)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    for other in (tmp_path / "state.pt", tmp_path / "missing.pkl", save({"net": 1}), save({"ema": {}}), save([])):
        with rejected("read a plain state dict with read_state_dict"):
            read_edm_pickle(other)
    broken = ECMPrecond()
    broken._buffers["scale"] = "large"
    with rejected("scale of the pickle must be a tensor; got str"):
        read_edm_pickle(save({"ema": broken}))
    for dtype, sentence in {">f8": "little-endian", "f16": "must be one of", "U3": "must be one of"}.items():
        with rejected(sentence):
            read_edm_pickle(save({"ema": np.array([1], dtype)[0], "dtype": np.dtype(dtype)}))


def test_plain_state_dicts(tmp_path, rejected):
    file = tmp_path / "state.pt"
    state = {"a.weight": torch.randn(2, 3)}
    torch.save(state, file)
    assert torch.equal(read_state_dict(file)["a.weight"], state["a.weight"])
    torch.save({"a": 1}, file)
    with rejected("state.pt must hold names and tensors only"):
        read_state_dict(file)
    torch.save(Calls(os.system, f"touch {tmp_path / 'was-here'}"), file)
    for wrong in (file, tmp_path / "missing.pt"):
        with rejected("is not a state dict written by torch.save"):
            read_state_dict(wrong)
    assert not (tmp_path / "was-here").exists()
