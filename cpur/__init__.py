"""Certified robustness by purification: purify, classify, certify.

Pixels are in [0, 1], and so is every ``sigma`` and every radius. The names below are the public
interface; each is imported on first use, so that ``import cpur`` stays light.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "CertifyConfig": "config",
    "FinetuneConfig": "recipes",
    "InputError": "errors",
    "MultiscaleConfig": "config",
    "Smooth": "smooth",
    "certify_dataset": "engine",
    "load_classifier": "classifiers",
    "load_dataset": "data",
    "load_purifier": "purifiers",
    "load_record": "records",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"cpur.{_HOME[name]}"), name)
    raise AttributeError(f"module 'cpur' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
