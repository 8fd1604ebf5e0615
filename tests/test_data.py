"""The digits and their splits."""

import hashlib

import pytest
import torch
from sklearn.datasets import load_digits

from cpur import load_dataset

SIZES = {"train": 1097, "val": 200, "test": 500}


def test_splits_are_the_real_digits_once_each():
    parts = [load_dataset("digits", split) for split in SIZES]
    assert [len(part) for part in parts] == list(SIZES.values())
    pixels, labels = load_digits(return_X_y=True)
    rows = torch.cat([torch.cat([part.images.flatten(1) * 16, part.labels[:, None]], dim=1) for part in parts])
    original = torch.cat([torch.from_numpy(pixels).float(), torch.from_numpy(labels)[:, None]], dim=1)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, original.tolist()))


def test_splits_are_stratified_and_shuffled():
    for split, size in SIZES.items():
        share = torch.bincount(load_dataset("digits", split).labels) / size
        assert (share - 0.1).abs().max() < 0.006
    assert load_dataset("digits").labels[:50].unique().numel() > 8


def test_splits_never_change():
    """Records are keyed by the position of an image in its split."""
    digest = hashlib.sha256(load_dataset("digits").images.mul(16).byte().numpy().tobytes()).hexdigest()
    assert digest == DIGEST


DIGEST = "6b259e4b4d2cd1064bfe6e2e55e1f83583ad6cbf3213461cc64c6e145073736e"


def test_items():
    data = load_dataset("digits")
    image, label = data[3]
    assert image.shape == data.shape == (1, 8, 8)
    assert isinstance(label, int)
    assert data.images.min() == 0
    assert data.images.max() == 1
    assert data.num_classes == 10


def test_subset():
    whole, part = load_dataset("digits"), load_dataset("digits", subset="every-20")
    assert torch.equal(part.images, whole.images[::20])
    assert len(part) == 25


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "mnist"}, "dataset must be one of digits"),
        ({"name": "digits", "split": "dev"}, "split must be one of"),
        ({"name": "digits", "root": "data"}, "leave root unset"),
        ({"name": "digits", "subset": "20"}, "every-K"),
        ({"name": "digits", "subset": "every-0"}, "every-K"),
    ],
)
def test_bad_input(arguments, match, rejected):
    with rejected(match):
        load_dataset(**arguments)
