"""The configuration: types, ranges, and names that notebooks are given."""

import pytest

from cpur.config import CertifyConfig, check_types, injected_names


def test_whole_floats_are_numbers():
    """papermill reads 1e4 as a float."""
    config = CertifyConfig(n=1e4, sigma=1)
    assert config.n == 10_000
    assert isinstance(config.n, int)
    assert isinstance(config.sigma, float)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sigma": "0.5 "}, "sigma must be a number; got '0.5 '"),
        ({"sigma": -1}, "sigma must lie in"),
        ({"sigma": 127.5}, "sigma must lie in"),
        ({"sigma": float("nan")}, "sigma must be a number"),
        ({"n": 3.7}, "n must be a whole number; got 3.7"),
        ({"n": True}, "n must be a whole number"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": 9}, "n = 9 samples can never certify at alpha = 0.001.*n >= 10"),
        ({"n0": -5}, "n0 must be at least 1"),
        ({"alpha": 1}, "alpha must lie in"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_images": 0}, "num_images"),
        ({"purifier": "ddpm"}, "purifier must be one of none, onestep-ddpm"),
        ({"plan": "anytime"}, "plan must be one of"),
        ({"precision": "half"}, "precision must be one of"),
        ({"epsilons": "0,1"}, "epsilons must be a list"),
        ({"epsilons": [0, "a"]}, "epsilons must be a number"),
        ({"epsilons": [-1]}, "epsilons must not be negative"),
        ({"dataset": 3}, "dataset must be text"),
        ({"checkpoint": ""}, "checkpoint must be text or None"),
    ],
)
def test_bad_values_end_in_one_sentence(change, match, rejected):
    with rejected(match) as caught:
        CertifyConfig(**change)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"InputError: {caught.value}"]


def test_fewest_samples_is_exact():
    CertifyConfig(n=10)
    CertifyConfig(n=7, alpha=0.01)


def test_notebook_parameters():
    namespace = CertifyConfig.defaults() | {"In": ["", "sigma: float = 0.5", "# Parameters\nsigma = 0.25\n"]}
    assert injected_names(namespace) == ["sigma"]
    assert CertifyConfig.from_notebook(namespace | {"sigma": 0.25}).sigma == 0.25


def test_misspelled_parameter(rejected):
    namespace = CertifyConfig.defaults() | {"In": ["# Parameters\nsigme = 0.25\n"], "sigme": 0.25}
    with rejected("parameter must be one of dataset.*got 'sigme'"):
        CertifyConfig.from_notebook(namespace)


def test_missing_parameter(rejected):
    namespace = CertifyConfig.defaults()
    del namespace["sigma"]
    with rejected("lacks sigma"):
        CertifyConfig.from_notebook(namespace)


def test_check_types(rejected):
    check_types({"train": True, "seed": 1}, train=bool, seed=int)
    check_types({"sigma": 1}, sigma=float)
    check_types(
        {"sigmas": [1], "root": None, "purifiers": ["none"]}, sigmas=tuple, root=str | None, purifiers=tuple | None
    )
    with rejected(r"root must be str \| None; got 3"):
        check_types({"root": 3}, root=str | None)
    with rejected("train must be bool; got 'true'"):
        check_types({"train": "true"}, train=bool)
    with rejected("parameter must be one of train"):
        check_types({"train": True, "In": ["# Parameters\ntrian = True"]}, train=bool)
